"""Reports: one HTML page that needs nothing but itself."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from embedspace._util.files import atomic_write
from embedspace._util.markdown import markdown_table
from embedspace.metrics import Condition, Interval, Measure
from embedspace.reporting.markdown import as_markdown
from embedspace.runs import Record, Tag

if TYPE_CHECKING:
    from embedspace.reporting.figures import Figure
    from embedspace.runs import Run

Cell = str | int | float | Interval | None
"""What a table shows; None, where nothing was measured, as an empty cell."""

MAX_RECORDS = 2000
"""Records that a page lists one by one; the record file holds all."""

_FOLDED_CHARACTERS = 420
_FOLDED_ROWS = 9


@dataclass(frozen=True)
class Answer:
    """One of the answers that stand side by side."""

    label: str
    """How the prompt was given."""
    text: str
    note: str = ""
    """A short remark beside the label, e.g. ``same``."""
    cut: bool = False
    """Whether the text ended because no more tokens were allowed."""

    @classmethod
    def of(cls, label: str, record: Record, note: str = "") -> Self:
        """A record's text."""
        return cls(label, record.text, note, record.finish_reason == "length")


@dataclass(frozen=True)
class Comparison:
    """What was asked, and the answers to it."""

    prompt: str
    answers: Sequence[Answer]


def compare_answers(
    prompts: Sequence[str],
    answers: Mapping[tuple[Tag, ...], Sequence[Record]],
    places: Mapping[str, Condition],
    references: Sequence[Answer] = (),
) -> list[Comparison]:
    """For each prompt its answers under some conditions; prompts without any are left out.

    Args:
        prompts: what was asked.
        answers: (number of the prompt, *condition) -> records, of which the first counts.
        places: label -> condition, in the order in which they are shown.
        references: for each prompt an answer that stands before the others.
    """
    comparisons = []
    for number, prompt in enumerate(prompts):
        found = {label: answers.get((number, *place), ()) for label, place in places.items()}
        shown = [Answer.of(label, own[0]) for label, own in found.items() if own and own[0].text]
        if shown:
            comparisons.append(Comparison(prompt, [*references[number : number + 1], *shown]))
    return comparisons


@dataclass(frozen=True)
class Table:
    """Measures in rows and columns; numbers are rounded to ``digits`` when they are shown."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    digits: int = 2

    def filled(self) -> Table:
        """The table without the columns in which nothing was measured."""
        kept = [
            column
            for column in range(len(self.columns))
            if any(row[column] not in ("", None) for row in self.rows)
        ]
        rows = [[row[column] for column in kept] for row in self.rows]
        return replace(self, columns=[self.columns[column] for column in kept], rows=rows)

    def to_markdown(self) -> str:
        """The table as Markdown, without its caption; an interval is shown as ``estimate (low to high)``.

        >>> print(Table(["method", "recall"], [["average", 0.9]], "Recall at ratio 4.").to_markdown(), end="")
        | method | recall |
        | --- | --- |
        | average | 0.90 |
        """
        shown = [
            [
                f"{cell:.{self.digits}f}"
                if isinstance(cell, Interval | float)
                else ""
                if cell is None
                else cell
                for cell in row
            ]
            for row in self.rows
        ]
        return markdown_table(self.columns, shown)


@dataclass(frozen=True)
class Section:
    """One finding with what it rests on."""

    title: str
    finding: str
    """In plain words, with its numbers; it stands at the head of the page."""
    text: str
    """What was done: paragraphs, separated by an empty line."""
    figures: Sequence[Figure] = ()
    tables: Sequence[Table] = ()
    comparisons: Sequence[Comparison] = ()


@dataclass(frozen=True)
class Report:
    """What an experiment found. Every number in it comes from records.

    >>> section = Section("Agreement", "All answers agree.", "Each question was asked twice.")
    >>> Report("Text against embeddings", "", [section]).sections[0].finding
    'All answers agree.'
    """

    title: str
    summary: str
    """What the page is about, where the sections' findings do not say it: paragraphs, separated by an empty line."""
    sections: Sequence[Section]


def effect_cells(measure: Measure, before: Condition, after: Condition) -> list[Cell]:
    """Mean paired difference, effect size and p-value of a row; no cells where fewer than two items were paired."""
    change, effect = measure.change(before, after), measure.effect(before, after)
    if change is None or effect is None:
        return []
    return [change, effect.size, f"{effect.p_value:.2g}"]


def write_report(report: Report, run: Run) -> Path:
    """Write a run's ``report.html``, and its findings and tables as ``report.md`` beside it, atomically.

    >>> import tempfile
    >>> from embedspace.runs import Run
    >>> with Run.open(tempfile.mkdtemp(), {"seed": 7}, fingerprint="abc") as run:
    ...     write_report(Report("Style", "What alpha does.", []), run).name
    'report.html'

    The page makes no request, follows the reader's light or dark scheme, and escapes all that a model wrote.

    Raises:
        OSError: the folder cannot be written.
    """
    atomic_write(run.report_path.with_suffix(".md"), as_markdown(report, run).encode(errors="replace"))
    atomic_write(run.report_path, _render(report, run).encode(errors="xmlcharrefreplace"))
    return run.report_path


def _render(report: Report, run: Run) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("embedspace.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"paragraphs": _paragraphs, "cell": _cell, "tags": _tags, "svg": Markup}
    records = list(itertools.islice(run.records(), MAX_RECORDS + 1))
    return environment.get_template("report.html.j2").render(
        report=report,
        records=records[:MAX_RECORDS],
        more_records=len(records) > MAX_RECORDS,
        answers=sum(1 for _ in run.records()),
        failures=[record for record in run.records() if record.error is not None],
        records_name=run.records_path.name,
        folded=_FOLDED_CHARACTERS,
        folded_rows=_FOLDED_ROWS,
        chips=_chips(run),
        command=run.sitting["command"],
        provenance=_provenance(run.manifest),
    )


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, as a sentence shows it.

    >>> signed(-0.5), signed(0.5, 1)
    ('−0.50', '+0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def unsigned(value: float, digits: int = 2) -> str:
    """A number whose sign is shown where it is negative, as a sentence and a table show it.

    >>> unsigned(-0.5), unsigned(0.5)
    ('−0.50', '0.50')
    """
    return f"{value:.{digits}f}".replace("-", "\u2212")


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _cell(value: Cell, digits: int) -> tuple[str, str]:
    """Text of a table's cell, and the interval that stands beside it in small print."""
    if isinstance(value, Interval):
        return unsigned(value.estimate, digits), value.uncertainty(lambda number: unsigned(number, digits))
    if isinstance(value, float):
        return unsigned(value, digits), ""
    return "" if value is None else str(value), ""


def _tags(tags: Mapping[str, Tag]) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in tags.items())  # fmt: skip


def _chips(run: Run) -> list[str]:
    engine = _last(run.manifest, "engine") or {}
    dtype = engine.get("dtype", "")
    chips = [engine.get("model", ""), f"{engine.get('engine', '')} {dtype if dtype.isalnum() else ''}"]
    return [chip.strip() for chip in (*chips, run.sitting["started"][:10]) if chip.strip()]


def _last(manifest: Mapping[str, Any], entry: str) -> Any:
    """An entry of the latest sitting that has it."""
    return next((sitting[entry] for sitting in reversed(manifest["sittings"]) if sitting.get(entry)), None)


def _provenance(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from, as rows of a table."""
    sitting = manifest["sittings"][-1]
    git = sitting["git"]
    commit = (
        "not a git checkout" if git is None else git["commit"] + (" + local changes" if git["dirty"] else "")
    )
    return {
        "Model fingerprint": manifest["fingerprint"],
        "Engine": _pairs(_last(manifest, "engine") or {}),
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
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"
