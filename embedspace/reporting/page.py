"""A report as one HTML page that needs nothing but itself: verdicts first, then statistics and records, folded."""

from __future__ import annotations

import base64
import hashlib
import re
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from embedspace._util.answer_card import answer_card, answer_style
from embedspace._util.package_files import package_text, template_environment
from embedspace.metrics import Interval
from embedspace.prompt import strip_style
from embedspace.reporting.answer_rows import strips_of
from embedspace.reporting.listed_records import ListedRecords
from embedspace.reporting.report import Report
from embedspace.reporting.table import Cell, Table, unsigned
from embedspace.runs import last_engine

if TYPE_CHECKING:
    import jinja2

    from embedspace.runs import Run

MAX_COMPARISONS = 20
"""Questions of a section whose answers stand side by side; the others are among the records."""

_FOLDED_CHARACTERS = 420
_OPENING_CHARACTERS = 260
_FOLDED_ROWS = 9
_TURNED_ROWS, _TURNED_COLUMNS = 3, 6
"""A table of at most so many rows and more than so many columns is shown with its rows as columns."""


def render(report: Report, run: Run) -> str:
    """The page; its links lead to the records beside it."""
    wanted = {
        answer.record: comparison.prompt
        for section in report.sections
        for comparison in section.comparisons[:MAX_COMPARISONS]
        for answer in comparison.answers
        if answer.record is not None
    }
    records = ListedRecords.of(run.records(), wanted)
    shown = (each.record for each in records.listed if (each.record.key, each.record.choice) in wanted)
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            records=records,
            places=records.places,
            strips=strips_of(shown),
            strip_style=strip_style(),
            answer_style=answer_style(),
            records_name=run.records_path.name,
            max_comparisons=MAX_COMPARISONS,
            folded=_FOLDED_CHARACTERS,
            opening_folded=_OPENING_CHARACTERS,
            folded_rows=_FOLDED_ROWS,
            chips=_chips(run),
            command=run.sitting["command"],
            provenance=_provenance(run.manifest),
        )
    )


def environment() -> jinja2.Environment:
    """Where the templates are, what they may call, and what every page has: a script and the policy that allows it."""
    from markupsafe import Markup

    made = template_environment("embedspace.reporting")
    script = package_text("embedspace.reporting", "templates/report.js")
    made.globals |= {"script": script, "policy": _content_policy(script), "answer_card": answer_card}
    made.filters |= {
        "paragraphs": _paragraphs,
        "cell": _cell,
        "safe_markup": Markup,
        "csv_link": _csv_link,
        "as_shown": _as_shown,
        "file_name": _file_name,
    }
    return made


def _content_policy(script: str) -> str:
    """A content security policy that allows this script, inline styles, and no request at all."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; base-uri 'none'"


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _cell(value: Cell, digits: int) -> tuple[str, str]:
    """Text of a table's cell, and the interval that stands beside it in small print."""
    if isinstance(value, Interval):
        return unsigned(value.estimate, digits), value.uncertainty(lambda number: unsigned(number, digits))
    if isinstance(value, float):
        return unsigned(value, digits), ""
    return "" if value is None else str(value), ""


def _as_shown(table: Table) -> Table:
    """Without empty columns, and turned where that makes it narrow."""
    filled = table.filled()
    few, wide = len(filled.rows) <= _TURNED_ROWS, len(filled.columns) > _TURNED_COLUMNS
    return filled.turned() if few and wide else filled


def _csv_link(table: Table) -> str:
    return f"data:text/csv;charset=utf-8,{quote(table.to_csv(), errors='replace')}"


def _file_name(text: str, ending: str) -> str:
    """A short file name of a title."""
    return f"{re.sub(r'[^a-z0-9]+', '-', text.lower()).strip('-')[:60].strip('-') or 'report'}.{ending}"


def _chips(run: Run) -> list[str]:
    engine = last_engine(run.manifest)
    dtype = engine.get("dtype", "")
    chips = [engine.get("model", ""), f"{engine.get('engine', '')} {dtype if dtype.isalnum() else ''}"]
    size = run.manifest["config"].get("size", "full")
    chips += [run.sitting["started"][:10], "" if size == "full" else f"size {size}"]
    return [chip.strip() for chip in chips if chip.strip()]


def _provenance(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from, as rows of a table."""
    sitting = manifest["sittings"][-1]
    git = sitting["git"]
    commit = (
        "not a git checkout" if git is None else git["commit"] + (" + local changes" if git["dirty"] else "")
    )
    return {
        "Model fingerprint": manifest["fingerprint"],
        "Engine": _pairs(last_engine(manifest)),
        "Seeds": _pairs(manifest["seeds"]),
        "Commit": commit,
        "Python": sitting["python"],
        "Packages": _pairs(sitting["packages"]),
        "Machine": _pairs(sitting["machine"]),
        "Started": manifest["sittings"][0]["started"],
        "Sittings": str(len(manifest["sittings"])),
        "Requests sent again": _pairs(_retries(manifest)),
    }


def _retries(manifest: Mapping[str, Any]) -> Mapping[str, int]:
    """Requests that the engine sent again, in all sittings together, by the reason for it."""
    return sum((Counter(sitting.get("retries", {})) for sitting in manifest["sittings"]), Counter[str]())


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in values.items()) or "none"
