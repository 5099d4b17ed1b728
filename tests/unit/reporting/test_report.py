"""Reports: one page that needs nothing but itself, shows every record, and trusts no text of a model."""

from __future__ import annotations

import base64
import csv
import dataclasses
import hashlib
import re
import subprocess
import sys
from collections.abc import Sequence
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest

from embedspace import Recipe
from embedspace.engines import Sampling
from embedspace.metrics import Interval, Score
from embedspace.reporting.figures import Figure, Line, dot_figure, line_figure
from embedspace.reporting.listed_records import MAX_RECORDS, MAX_TEXT
from embedspace.reporting.report import Answer, Comparison, Report, Section
from embedspace.reporting.table import Table
from embedspace.reporting.writing import write_report
from embedspace.runs.records import Record
from embedspace.runs.run import Run

ROOT = Path(__file__).parents[3]
ATTACK = (
    """<script>alert(1)</script><img src=x onerror="alert(1)"> " ' & </style> {{ 7 * 7 }} {% include 'x' %}"""
)
TEXTS = ["plain", ATTACK, "zwei\nZeilen 東京 🎉", "x" * 900, "", "a lone surrogate \ud800"]
VOID = {"meta", "br", "img", "hr", "link", "input"}


def curve() -> Figure:
    points = {x: Interval(x, x - 1, x + 1, 5) for x in (-1.0, 0.0, 2.0)}
    lines = [Line("moved", points), Line("<random> & more", points, control=True)]
    levels = {"level": Interval(0.5, 0.2, 0.8, 5)}
    return line_figure(lines, x_label="alpha", y_label="nats", caption='A "curve" <b>', levels=levels)


def record(number: int, text: str, error: str | None = None) -> Record:
    return Record(
        key=f"case {number}",
        choice=0,
        tags={"alpha": 0.5},
        recipe=Recipe.of("embed", {"text": text[:10]}),
        rows=3,
        sampling=Sampling(),
        space="abc",
        engine={"engine": "none"},
        text=text,
        token_ids=(1,),
        finish_reason="error" if error else "length",
        seconds=0.1,
        scores={"yes": Score(-1.25, 2)},
        error=error,
    )


def report() -> Report:
    answers = [Answer.of(f"way {number} <i>", record(number, text)) for number, text in enumerate(TEXTS)]
    table = Table(
        ("What", "Value"), [("rate <u>", Interval(-0.5, -0.75, -0.25, 9)), ("count", 3)], "A table."
    )
    section = Section("A section", f"It was found. {ATTACK}", "One.\n\nTwo.", [curve()], [table],
                      [Comparison(f"What is {ATTACK}?", answers)] * 5)  # fmt: skip
    return Report("A title & more", "", [section, section])


@pytest.fixture
def page(tmp_path: Path) -> str:
    with Run.open(tmp_path, {"seed": 3}, fingerprint="abc") as run:
        run.log.append([record(-1, "", error="too <long>")])
        for number, text in enumerate(TEXTS):
            run.log.append([record(number, text)])
        return write_report(report(), run).read_text(encoding="utf-8")


class Page(HTMLParser):
    """Tags, attributes and visible text of a page, and whether its tags are balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.style: list[str] = []
        self.open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        (self.style if self.open and self.open[-1] == "style" else self.words).append(data)


def test_the_page_makes_no_request(page: str) -> None:
    parsed = Page(page)
    assert not {"link", "img", "iframe", "object", "embed", "image"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            # Besides places of the page: the record file beside it, and tables that are kept as a file.
            place = attributes.get(name) or "#"
            kept = "download" in attributes and place.startswith("data:text/csv;")
            assert kept or place.startswith("#") or place == "records.jsonl", (tag, attributes)
        assert not [name for name in attributes if name.startswith("on")], (tag, attributes)
    css = "".join(parsed.style) + "".join(attributes.get("style") or "" for _, attributes in parsed.tags)
    assert "@import" not in css
    assert not re.findall(r"url\((?!#)", page)
    assert not re.search(r"xmlns|https?://www\.w3", page)


def test_tags_are_balanced_and_ids_are_unique_or_equal_drawings(page: str) -> None:
    parsed = Page(page)
    assert not parsed.open
    sections = [attributes["id"] for tag, attributes in parsed.tags if tag == "section"]
    assert len(sections) == len(set(sections))
    targets = {attributes["id"] for _, attributes in parsed.tags if "id" in attributes}
    links = {attributes["href"] or "#" for tag, attributes in parsed.tags if tag == "a"}
    assert {link[1:] for link in links if link.startswith("#")} <= targets
    assert "#record-1" in links


def test_what_a_model_wrote_is_text_and_nothing_else(page: str) -> None:
    assert page.count("<script") == 1
    assert "onerror=&#34;" in page
    assert ATTACK in "".join(Page(page).words)


def test_the_page_allows_its_own_script_and_no_request(page: str) -> None:
    parsed = Page(page)
    policy = next(a["content"] for _, a in parsed.tags if a.get("http-equiv") == "Content-Security-Policy")
    script = page.split("<script>", 1)[1].split("</script>", 1)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert policy is not None
    assert "default-src 'none'" in policy
    assert f"script-src 'sha256-{digest}'" in policy


def test_every_record_is_on_the_page(page: str) -> None:
    words = "".join(Page(page).words)
    for number, text in enumerate(TEXTS):
        assert f"case {number}" in words
        assert text.replace("\ud800", "") in words.replace("\ufffd", "")
    assert "too <long>" in words
    assert "1 of 7 records is an error" in words
    assert "−0.50" in words
    assert "−0.75 to −0.25" in words


def test_light_dark_phone_and_paper_have_rules_of_their_own(page: str) -> None:
    css = "".join(Page(page).style)
    for rule in (r"prefers-color-scheme: dark", r"max-width: \d+px", r"@media print"):
        assert re.search(rule, css)
    used = set(re.findall(r"var\((--[\w-]+)\)", page))
    light = css[: css.index("@media (prefers-color-scheme: dark)")]
    assert used <= set(re.findall(r"(--[\w-]+):", light))


def test_colours_of_a_drawing_are_the_pages_own() -> None:
    for figure in (curve(), dot_figure({"a": Interval(0.5, 0.4, 0.7, 3)}, x_label="share", caption="Dots.")):
        assert "var(--ink)" in figure.svg
        assert not re.findall(r"#[0-9a-fA-F]{6}\b", figure.svg)
        assert "font-family" not in figure.svg


def test_a_drawing_is_the_same_in_every_process() -> None:
    code = "from tests.unit.reporting.test_report import curve; print(curve().svg)"
    drawn = [
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
        ).stdout
        for _ in range(2)
    ]
    assert drawn[0] == drawn[1] == curve().svg + "\n"


def test_the_page_says_what_was_sent_again_in_all_sittings(tmp_path: Path) -> None:
    for retries in ({"429": 2}, {"429": 1, "broken off": 4}):
        with Run.open(tmp_path, {}, fingerprint="abc") as run:
            run.note({"retries": retries})
            page = write_report(report(), run).read_text()
    assert "429 3, broken off 4" in page


def test_a_report_can_be_written_again(tmp_path: Path) -> None:
    with Run.open(tmp_path, {}, fingerprint="abc") as run:
        run.log.append([record(0, "text")])
        first = write_report(report(), run).read_text()
        assert write_report(report(), run).read_text() == first
    assert not list(tmp_path.glob("*.draft"))


def test_findings_and_tables_are_written_as_markdown_too(tmp_path: Path) -> None:
    with Run.open(tmp_path, {"seed": 3}, fingerprint="abc") as run:
        page = write_report(report(), run).with_suffix(".md").read_text()
    assert page.startswith("# A title & more\n\n## A section\n\n**It was found. ")
    assert "| rate <u> | -0.50 (-0.75 to -0.25) |\n| count | 3 |\n\nA table.\n" in page
    assert "Model abc; seed 3; " in page
    assert "commit `" in page


def test_a_table_in_markdown_has_a_line_for_each_row_and_keeps_its_columns_whatever_a_cell_holds() -> None:
    table = Table(("What", "a|b"), [("rate", Interval(-0.5, -0.75, -0.25, 9)), ("count", 3), ("", 0.25)], "")
    assert table.to_markdown().splitlines() == [
        "| What | a\\|b |",
        "| --- | --- |",
        "| rate | -0.50 (-0.75 to -0.25) |",
        "| count | 3 |",
        "|  | 0.25 |",
    ]
    with pytest.raises(ValueError, match=r"2 columns and a row of 1 cells"):
        Table(("What", "Value"), [("rate",)], "").to_markdown()


def pair_of(prompt: str, first: str, second: str, start: int = 0) -> Comparison:
    labels = ("No shift", "Shifted", "Random vector")
    texts = (first, second, first)
    return Comparison(prompt, [Answer.of(label, record(start + number, text))
                               for number, (label, text) in enumerate(zip(labels, texts, strict=True))])  # fmt: skip


def written(tmp_path: Path, made: Report, records: Sequence[Record] = ()) -> str:
    with Run.open(tmp_path, {}, fingerprint="abc") as run:
        for each in records:
            run.log.append([each])
        return write_report(made, run).read_text(encoding="utf-8")


def unfolded(text: str) -> str:
    """The words that are seen before a fold is opened."""
    return re.sub(r"<details.*?</details>", "", re.sub(r'<details class="fold">.*?</details>', "", text, flags=re.S),
                  flags=re.S)  # fmt: skip


def test_verdict_one_figure_and_one_pair_come_first_and_statistics_are_folded(tmp_path: Path) -> None:
    table = Table(("What", "Value"), [("rate", 0.5)], "A table of rates.")
    comparisons = [pair_of("Is it warm?", "Yes.", "Indeed."), pair_of("And cold?", "No.", "By no means.", 3)]
    section = Section("Style", "Difference +0.5 (0.1 to 0.9).", "What was done.", [curve(), curve()], [table],
                      comparisons, "The vector works.", ("No shift", "Shifted"))  # fmt: skip
    page = written(tmp_path, Report("Style", "", [section]), [record(n, "Yes.") for n in range(6)])
    body = page.split("<main>", 1)[1]
    first = unfolded(body[: body.index('<details class="more">')])
    assert "The vector works." in first
    assert first.count("<figure") == 1
    assert first.count("Yes.") == first.count("Indeed.") == 1
    assert "By no means." not in first
    assert "Difference +0.5" not in first
    for folded in ("Difference +0.5", "What was done.", "A table of rates.", "By no means."):
        assert folded in body
    assert [
        block for block in re.findall(r"<summary>(.*?)</summary>", page) if block.startswith("Table")
    ] == []


def test_two_equal_answers_are_said_to_be_the_same(tmp_path: Path) -> None:
    said = "The two answers are the same, word for word."
    for number, (second, expected) in enumerate((("Yes.", True), ("Indeed.", False))):
        section = Section("S", "Finding.", "", comparisons=[pair_of("Warm?", "Yes.", second)])
        page = written(tmp_path / str(number), Report("S", "", [section]))
        assert (said in page) == expected


def test_an_answer_leads_to_its_record_with_question_and_recipe(tmp_path: Path) -> None:
    section = Section("S", "Finding.", "", comparisons=[pair_of("Is it warm?", "Yes.", "Indeed.")])
    page = written(tmp_path, Report("S", "", [section]), [record(n, f"text {n}") for n in range(3)])
    assert 'href="#record-1"' in page
    row = page.split('<tr id="record-1"', 1)[1].split("</tr>", 1)[0]
    assert "Is it warm?" in row
    assert "embed(text=&#39;text 1&#39;)" in row
    assert "case 1" in row
    assert '<a href="records.jsonl">' in page


def test_parts_of_a_larger_experiment_lead_to_the_records_of_the_whole(tmp_path: Path) -> None:
    section = Section("S", "", "", comparisons=[pair_of("Is it warm?", "Yes.", "No.")]).prefixed("part")
    whole = [dataclasses.replace(record(n, "Yes."), key=f"part/case {n}") for n in range(3)]
    assert 'href="#record-2"' in written(tmp_path, Report("S", "", [section]), whole)


def test_a_large_run_makes_a_page_of_bounded_size_that_says_where_the_rest_is(tmp_path: Path) -> None:
    long = "word " * 4000
    comparisons = [pair_of(f"Question {n}?", "Yes.", "No.", 3 * n) for n in range(200)]
    section = Section("S", "Finding.", "", comparisons=comparisons)
    made = [record(n, long if n % 2 else "Yes.", error="broken" if n > 2400 else None) for n in range(2600)]
    page = written(tmp_path, Report("S", "", [section]), made)
    assert len(page) < 8_000_000
    assert page.count('<tr id="record-') <= MAX_RECORDS
    assert 'id="record-59"' in page
    assert re.search(r"of 2,600 records are listed here; all are in <a", page)
    assert "the others are in records.jsonl" in page
    assert "more characters)" in page
    assert "The first 100 of 199" in page
    assert long[: MAX_TEXT + 1] not in page


def test_every_table_stands_in_a_box_that_scrolls_and_few_rows_of_many_columns_are_turned(
    tmp_path: Path,
) -> None:
    columns = ["Towards", *(f"Measure {n}" for n in range(13))]
    wide = Table(
        columns, [["formal", *(Interval(n, n - 1, n + 1, 12) for n in range(13))]] * 2, "Wide. More words."
    )
    page = written(tmp_path, Report("S", "", [Section("S", "Finding.", "", tables=[wide])]))
    assert page.count("<table") == len(
        re.findall(r'<div class="scroll" tabindex="0" role="region" aria-label="[^"]+"><table', page)
    )
    head = page.split("<thead>", 1)[1].split("</thead>", 1)[0]
    assert re.findall(r">([^<>]+)</th>", head) == ["Towards", "formal", "formal"]


def test_a_table_is_kept_as_csv_with_all_digits(tmp_path: Path) -> None:
    table = Table(
        ("What", "Value"), [("a, b", Interval(1 / 3, 0.25, 0.5, 12)), ("count", 3)], "Shares. More."
    )
    page = written(tmp_path, Report("S", "", [Section("S", "Finding.", "", tables=[table])]))
    link = next(a for tag, a in Page(page).tags if tag == "a" and "download" in a)
    assert link["download"] == "shares.csv"
    rows = list(csv.reader(unquote((link["href"] or "").split(",", 1)[1]).splitlines()))
    assert rows == [["What", "Value", "Value low", "Value high", "Value n"],
                    ["a, b", str(1 / 3), "0.25", "0.5", "12"], ["count", "3", "", "", ""]]  # fmt: skip


def test_a_verdict_stands_before_its_finding_in_markdown(tmp_path: Path) -> None:
    written(tmp_path, Report("T", "", [Section("S", "With numbers.", "Done.", verdict="Plainly.")]))
    assert "## S\n\n**Plainly.**\n\nWith numbers.\n\nDone.\n" in (tmp_path / "report.md").read_text()
