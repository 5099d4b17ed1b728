"""The report of one task of the retrieval experiment."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedspace.metrics import Interval, Measure, standing
from embedspace.reporting import (
    Answer,
    Cell,
    Comparison,
    Figure,
    Line,
    Section,
    Table,
    compare_answers,
    counted,
    line_figure,
)
from embedspace.runs import Record, by_tags
from experiments.compression.passages import FACTS, Knowledge
from experiments.rag.metrics import NONE, SHUFFLED, SOFT, TEXT, Measured


@dataclass(frozen=True)
class RagReport:
    """What is shown of one task."""

    task: str
    measured: Measured
    records: Sequence[Record]
    """Of this task."""
    knowledge: Knowledge
    source: str
    projector: str
    counts: Sequence[int]
    """Numbers of passages."""
    conditions: Sequence[tuple[str, int]]
    """Form of the context and number of passages."""

    def section(self) -> Section:
        """The finding, figures, table and answers."""
        count = sum(question["task"] == self.task for question in self.knowledge.questions)
        return Section(
            f"Passages as vectors: {self.task}",
            self._finding(),
            f"{count} questions {self.source}. The passages nearest to a question by the cosine of their sentence "
            f"vectors, of {len(self.knowledge.passages):,}, are searched exactly and given as text, as the soft tokens "
            f"that the projector {self.projector!r} computes from each vector, or as text compressed to as many rows. "
            "The controls are no context, and the soft tokens of another question's passages. The first token is timed "
            "with one request at a time, from sending the prompt; the vectors are computed before, as in any vector "
            "store.",
            figures=self._figures(),
            tables=[self._table()],
            comparisons=self._comparisons(),
            verdict=self._verdict(),
            pair=(f"{SOFT} of {self.counts[0]}", f"{TEXT} of {self.counts[0]}"),
        )

    def _verdict(self) -> str:
        """What the soft tokens are worth beside the text, in plain words."""
        if (scores := self.measured.scores(self.counts[0])) is None:
            return ""
        share = scores.gap_closed()
        control = "no context" if scores.better_control == "nothing" else "another question's passages"
        asked = counted(share.items, "question")
        if scores.mean("text") >= scores.mean(scores.better_control):
            return f"As text, passages make the right answer no likelier than {control} ({asked})."
        match standing(share):
            case "above":
                return (
                    f"As soft tokens, passages give {share.estimate:.0%} of what their text gives for the right "
                    f"answer, measured from {control}, the better control ({asked})."
                )
            case "below":
                return f"As soft tokens, passages make the right answer less likely than {control} ({asked})."
            case "too few":
                return (
                    f"On {asked}, passages as soft tokens give {share.estimate:.0%} of what their text gives for the "
                    f"right answer, measured from {control}, the better control: too few to say how it is on others."
                )
        return (
            f"On {asked} it cannot be told whether passages as soft tokens make the right answer likelier than "
            f"{control}."
        )

    @property
    def _quality(self) -> str:
        """What a good answer is."""
        return "share of right values" if self.task == FACTS else "similarity to the right answer"

    def _finding(self) -> str:
        count = self.counts[0]
        parts = []
        if found := self.measured.found.share((TEXT, count)):
            parts.append(f"{found.estimate:.0%} of questions find their passage among the first {count}")
        if scores := self.measured.scores(count):
            recovered = scores.gap_closed()
            control = NONE if scores.better_control == "nothing" else SHUFFLED
            parts.append(
                f"on {recovered.items} questions, soft tokens recover {recovered.estimate:.0%} of the likelihood gain "
                f"that the text gives over the better control, {control} ({recovered.uncertainty('{:.0%}'.format)})"
            )
        shown = [(form, number) for form, number in self.conditions if number == count] + [(NONE, 0)]
        for name, measure, digits in (
            (self._quality, self.measured.quality, 2),
            ("rows of the prompt", self.measured.rows, 0),
            ("milliseconds to the first token", self.measured.first, 0),
        ):
            values = [
                f"{place[0]} {mean.estimate:.{digits}f}" for place in shown if (mean := measure.mean(place))
            ]
            if values:
                parts.append(f"{name}: {', '.join(values)}")
        text = "; ".join(parts).replace("-", "\u2212")
        return f"{text[:1].upper()}{text[1:]}."

    def _figures(self) -> list[Figure]:
        measured, rows = self.measured, "rows of the prompt"
        likelihood = (measured.likelihood, "nats per token", "log-likelihood of the right answer")
        shown = (
            (*likelihood, measured.rows, rows),
            (measured.quality, self._quality, self._quality, measured.rows, rows),
            (*likelihood, measured.first, "milliseconds to the first token"),
        )
        figures = []
        for measure, label, what, cost, axis in shown:
            if curves := self._curves(measure, cost):
                lines = [
                    Line(form, points, form in (NONE, SHUFFLED), form != SHUFFLED)
                    for form, points in curves.items()
                ]
                caption = (
                    f"{what.capitalize()} against {axis}, with {', '.join(map(str, self.counts))} passages. Grey: the "
                    "controls."
                )
                figures.append(
                    line_figure(lines, x_label=axis, y_label=label, caption=caption, over="questions")
                )
        return figures

    def _curves(self, measure: Measure, cost: Measure) -> dict[str, dict[float, Interval]]:
        """For each form of the context, a measure against what it costs."""
        curves: dict[str, dict[float, Interval]] = {}
        for place in self.conditions:
            at, value = cost.mean(place), measure.mean(place)
            if at is not None and value is not None:
                curves.setdefault(place[0], {})[round(at.estimate)] = value
        return curves

    def _table(self) -> Table:
        measured = self.measured
        rows: list[list[Cell]] = [
            [
                form,
                count or "",
                measured.found.share((form, count)) if count else None,
                measured.rows.mean((form, count)),
                measured.likelihood.mean((form, count)),
                measured.kept((form, count)) if form != NONE else None,
                measured.quality.share((form, count)),
                measured.first.mean((form, count)),
            ]
            for form, count in self.conditions
        ]
        return Table(
            (
                "Context", "Passages", "Passage found", "Prompt rows", "Log-likelihood, nats per token",
                "Share of the text's gain", self._quality.capitalize(), "First token, ms",
            ),
            rows,
            "Every form of the passages. Means over questions; 95% intervals in small print. The share is "
            "of the likelihood gain for the right answer that the same passages give as text, over no context.",
        ).filled()  # fmt: skip

    def _comparisons(self) -> list[Comparison]:
        return compare_answers(
            [question["question"] for question in self.knowledge.questions],
            by_tags(self.records, "question", "way", "passages"),
            {
                form if form == NONE else f"{form} of {count}": (form, count)
                for form, count in self.conditions
                if count in (0, self.counts[0])
            },
            [Answer("Right answer", question["answer"]) for question in self.knowledge.questions],
        )
