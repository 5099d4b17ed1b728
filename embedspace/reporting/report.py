"""Reports: sections with findings, tables, figures and answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from embedspace.metrics import Condition, Measure
from embedspace.reporting.table import Cell, Table
from embedspace.runs import Record, Tag

if TYPE_CHECKING:
    from embedspace.reporting.figures import Figure


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
    record: tuple[str, int] | None = None
    """Key and choice of the record that holds it; None for a text that no model gave."""

    @classmethod
    def of(cls, label: str, record: Record, note: str = "") -> Self:
        """A record's text."""
        return cls(label, record.text, note, record.finish_reason == "length", (record.key, record.choice))


@dataclass(frozen=True)
class Comparison:
    """What was asked, and the answers to it."""

    prompt: str
    answers: Sequence[Answer]

    def pair(self, labels: tuple[str, str]) -> Comparison | None:
        """Two of the answers, by their labels; None where one of them is missing."""
        found = {answer.label: answer for answer in self.answers}
        if not set(labels) <= found.keys():
            return None
        return replace(self, answers=[found[label] for label in labels])


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
class Section:
    """One finding with what it rests on.

    >>> answers = [Answer("No shift", "Yes."), Answer("Shifted", "Indeed."), Answer("Random vector", "Yes.")]
    >>> asked = Comparison("Is it warm?", answers)
    >>> section = Section("Style", "It works.", "", comparisons=[asked], pair=("No shift", "Shifted"))
    >>> [answer.text for answer in section.opening.answers]
    ['Yes.', 'Indeed.']
    """

    title: str
    finding: str
    """With its numbers, intervals and tests."""
    text: str
    """What was done: paragraphs, separated by an empty line."""
    figures: Sequence[Figure] = ()
    """The first stands beside the verdict."""
    tables: Sequence[Table] = ()
    comparisons: Sequence[Comparison] = ()
    verdict: str = ""
    """One sentence in plain words, which stands at the head of the page; the finding does where there is none."""
    pair: tuple[str, str] | None = None
    """Labels of the two answers that stand beside the verdict; by default the first two."""

    @property
    def headline(self) -> str:
        """What is read first."""
        return self.verdict or self.finding

    @property
    def opening(self) -> Comparison | None:
        """The pair of answers that stands beside the verdict: of the first question that has both. No choice is made
        by what the answers say."""
        for comparison in self.comparisons:
            labels = self.pair or tuple(answer.label for answer in comparison.answers[:2])
            if len(labels) == 2 and (found := comparison.pair((labels[0], labels[1]))) is not None:
                return found
        return None

    def prefixed(self, prefix: str) -> Section:
        """The section as part of a larger experiment: ``prefix/`` before the keys of the records that it shows."""
        shown = [
            replace(
                comparison,
                answers=[
                    answer
                    if answer.record is None
                    else replace(answer, record=(f"{prefix}/{answer.record[0]}", answer.record[1]))
                    for answer in comparison.answers
                ],
            )
            for comparison in self.comparisons
        ]
        return replace(self, comparisons=shown)


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
