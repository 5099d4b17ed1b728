"""Reports: sections with findings, tables, figures and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from embedspace._util.markdown import markdown_table
from embedspace.metrics import Condition, Interval, Measure
from embedspace.runs import Record, Tag

if TYPE_CHECKING:
    from embedspace.reporting.figures import Figure

Cell = str | int | float | Interval | None
"""What a table shows; None, where nothing was measured, as an empty cell."""


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
        answers: ``(number of the prompt, *condition)`` -> records, of which the first counts.
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
