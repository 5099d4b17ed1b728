"""Questions about tables and JSON, made from data that packages of the tested environment ship."""

from __future__ import annotations

import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from experiments.compression.items import Item, Split, alternating, number_of, picked, shuffled
from experiments.compression.knowledge_base import packaged

RECORDS = "tables and JSON"
Row = Mapping[str, Any]


def records(split: Split) -> Iterator[Item]:
    """Questions about single values.

    Those of the development split are about countries, currencies and customers of a bank; those of the test split
    about flights, reservations, orders, products and shares.
    """
    made = (_reservations, _orders, _flights, _products, _shares)
    sources = made if split == "test" else (_customers, _currencies, _countries)
    return alternating(*(source() for source in sources))


def _item(source: str, name: str, text: str, asked: Sequence[tuple[str, str, str]]) -> Item:
    unique = [each for each in asked if text.count(each[2]) == 1]
    question, beginning, answer = picked(unique or asked, f"{source}/{name}/question")
    return Item(
        text=text, question=question, beginning=beginning, answer=f" {answer}", task=RECORDS,
        cluster=f"{source}/{name}", strings=[answer],
    )  # fmt: skip


def _as_json(value: object, name: str) -> str:
    """JSON on one line, or spread over several."""
    indent = picked([None, 1], f"{name}/indent")
    return json.dumps(value, indent=indent, ensure_ascii=False)


def _as_markdown(rows: Sequence[Row]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(map(str, row.values())) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _as_csv(rows: Sequence[Row], separator: str = ",") -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=separator, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().strip()


@cache
def _database(domain: str) -> Any:
    return json.loads(gzip.decompress(packaged(f"tau2/data/domains/{domain}/db.json.gz").read_bytes()))


def _groups(rows: Sequence[Row], size: int, source: str) -> Iterator[tuple[str, list[Row]]]:
    """Rows in groups that have none in common, and a name for each group."""
    ordered = shuffled(rows, source)
    for start in range(0, len(ordered) - size, size):
        yield str(start // size), ordered[start : start + size]


def _reservations() -> Iterator[Item]:
    for key in shuffled(_database("airline")["reservations"], "reservations"):
        found = _database("airline")["reservations"][key]
        shown = {
            "reservation_id": key, "cabin": found["cabin"], "insurance": found["insurance"],
            "flights": [{name: flight[name] for name in ("flight_number", "date", "origin", "destination", "price")}
                        for flight in found["flights"][:2]],
            "passengers": [{"name": f"{each['first_name']} {each['last_name']}", "born": each["dob"]}
                           for each in found["passengers"][:2]],
        }  # fmt: skip
        asked = []
        for flight in shown["flights"]:
            asked += [
                (f"How much was paid for flight {flight['flight_number']}?", "It cost", str(flight["price"])),
                (f"On which day is flight {flight['flight_number']}?", "It is on", flight["date"]),
            ]
        for each in shown["passengers"]:
            asked.append((f"What is the birthday of {each['name']}?", "The date of birth is", each["born"]))
        yield _item("reservations", key, _as_json(shown, key), asked)


def _orders() -> Iterator[Item]:
    for key in shuffled(_database("retail")["orders"], "orders"):
        found = _database("retail")["orders"][key]
        shown = {
            "order": key, "status": found["status"],
            "ship_to": {name: found["address"][name] for name in ("address1", "city", "zip")},
            "items": [{"name": each["name"], "price": each["price"], **each["options"]} for each in found["items"][:3]],
        }  # fmt: skip
        if len({each["name"] for each in shown["items"]}) < len(shown["items"]):
            continue
        asked = [("Which zip code does the parcel go to?", "The zip code is", shown["ship_to"]["zip"])]
        for each in shown["items"]:
            asked.append((f"What does the {each['name'].lower()} cost?", "It costs", str(each["price"])))
            asked += [
                (f"Which {option} does the {each['name'].lower()} have?", f"The {option} is", str(value))
                for option, value in each.items()
                if option not in ("name", "price")
            ]
        yield _item("orders", key, _as_json(shown, key), asked)


def _flights() -> Iterator[Item]:
    rows = [
        {"flight": each["flight_number"], "from": each["origin"], "to": each["destination"],
         "departs": each["scheduled_departure_time_est"][:5], "arrives": each["scheduled_arrival_time_est"][:5]}
        for each in _database("airline")["flights"].values()
    ]  # fmt: skip
    for name, group in _groups(rows, 5, "flights"):
        asked = [
            (f"At what time does {row['flight']} {verb}?", f"It {verb}s at", row[f"{verb}s"])
            for row in group
            for verb in ("depart", "arrive")
        ]
        asked += [(f"Where does {row['flight']} go?", "It goes to", row["to"]) for row in group]
        yield _item("flights", name, _as_markdown(group), asked)


def _products() -> Iterator[Item]:
    for key in shuffled(_database("retail")["products"], "products"):
        found = _database("retail")["products"][key]
        rows = [
            {"item": variant["item_id"][-5:], **variant["options"], "price": variant["price"]}
            for variant in shuffled(found["variants"].values(), key)[:6]
        ]
        asked = [
            (f"What is the price of the {found['name'].lower()} with item number {row['item']}?", "The price is",
             str(row["price"]))
            for row in rows
        ]  # fmt: skip
        asked += [
            (f"Which item number costs {row['price']}?", "The item number is", row["item"]) for row in rows
        ]
        yield _item("products", key, _as_csv(rows, picked([";", ","], key)), asked)


def _shares() -> Iterator[Item]:
    path = packaged("theagentcompany/tasks/ds_stock_analysis_slides/stock_data.csv")
    with path.open(encoding="utf-8", newline="") as lines:
        days = [
            {"date": row["Date"][:10]} | {name.lower(): f"{float(row[name]):.2f}" for name in ("Open", "High", "Close")}
            for row in csv.DictReader(lines)
        ]  # fmt: skip
    for name, group in _groups(days[::9], 4, "shares"):
        asked = [
            (f"What was the share's {value} on {row['date']}?", f"The {value} was", row[column])
            for row in group
            for column, value in (
                ("open", "first price"),
                ("high", "highest price"),
                ("close", "closing price"),
            )
        ]
        rows = sorted(group, key=lambda row: str(row["date"]))
        yield _item("shares", name, picked([_as_csv, _as_markdown], name)(rows), asked)


def _customers() -> Iterator[Item]:
    users = json.loads(packaged("tau2/data/domains/banking_knowledge/db.json").read_text(encoding="utf-8"))[
        "users"
    ]
    rows = [
        {name: each[name] for name in ("name", "address", "phone_number", "date_of_birth")}
        for each in users["data"].values()
    ]
    for name, group in _groups(rows, 2, "customers"):
        columns = {"phone_number": "telephone number", "date_of_birth": "birthday", "address": "address"}
        asked = [
            (f"What is the {value} of {row['name']}?", f"The {value} is", row[column])
            for row in group
            for column, value in columns.items()
        ]
        yield _item("customers", name, _as_json(group, name), asked)


def _currencies() -> Iterator[Item]:
    import pycountry

    rows = [
        {"currency": each.name, "code": each.alpha_3, "number": each.numeric} for each in pycountry.currencies
    ]
    yield from _coded(rows, "currencies", "currency", _as_markdown)


def _countries() -> Iterator[Item]:
    import pycountry

    rows = [
        {"country": each.name, "code": each.alpha_3, "number": each.numeric}
        for each in pycountry.countries
        if len(each.name) < 20
    ]
    yield from _coded(rows, "countries", "country", _as_csv)


def _coded(
    rows: Sequence[Row], source: str, column: str, render: Callable[[Sequence[Row]], str]
) -> Iterator[Item]:
    for name, group in _groups(rows, 6, source):
        asked = [
            (f"Which number does the {column} {row[column]} have?", "The number is", row["number"])
            for row in group
        ] + [(f"What is the code of {row[column]}?", "The code is", row["code"]) for row in group]
        ordered = sorted(group, key=lambda row: number_of(str(row[column])))
        yield _item(source, name, render(ordered), asked)
