"""The report of one task of the compression experiment: shares kept, comparisons, figures and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from embedspace.metrics import Condition, Interval
from embedspace.reporting import (
    Answer,
    Cell,
    Comparison,
    Figure,
    Section,
    Table,
    compare_answers,
    effect_cells,
    line_figure,
    lines_of,
    unsigned,
)
from embedspace.runs import Record, by_tags
from experiments.compression.items import Item
from experiments.compression.metrics import LLMLINGUA, NONE, WHOLE, WITHOUT, Measured


@dataclass(frozen=True)
class CompressionReport:
    """What is shown of one task."""

    title: str
    measured: Measured
    records: Sequence[Record]
    """Of this task."""
    items: Sequence[Item]
    """Of all tasks."""
    count: int
    """Questions of this task."""
    source: str
    methods: Sequence[str]
    """Names; the first is the one in question."""
    controls: Sequence[str]
    peer: str | None
    """Name of the method that the first is compared with item by item."""
    ratios: Sequence[float]
    answered_ratios: Sequence[float]
    same_length: str | None
    """Name of the first method at the lengths of the LLMLingua package; None where the package was not run."""

    def section(self) -> Section:
        """The finding, figures, tables and answers."""
        return Section(
            self.title,
            self._finding(),
            f"{self.count} questions are asked about a passage that the model reads as embeddings ({self.source}). The "
            "passage's rows are compressed; the rows of the question and of the template stay. A passage's gain is how "
            "much likelier it makes the right answer, in nats per token; a method keeps a share of that gain. Below 0, "
            "the model does worse than without any passage." + self._about_llmlingua(),
            figures=self._figures(),
            tables=[self._table(), *self._comparison_tables()],
            comparisons=self._comparisons(),
        )

    def _about_llmlingua(self) -> str:
        if self.same_length is None:
            return ""
        return (
            "\n\nThe package llmlingua shortens the text itself by the surprisal of its tokens under the same model; "
            "its output may be longer or shorter than requested. It is shown at the ratio that it reaches, beside "
            f"{self.methods[0]} at the very same number of rows, passage by passage."
        )

    @cached_property
    def _conditions(self) -> dict[str, dict[Condition, float]]:
        """For every method, its conditions and the compression ratio of each."""
        conditions: dict[str, dict[Condition, float]] = {
            method: {(method, ratio): ratio for ratio in self.ratios} for method in self.methods
        }
        for method in (LLMLINGUA, self.same_length):
            own = {place: ratio for place, ratio in self.measured.reached.items() if place[0] == method}
            if method and own:
                conditions[method] = own
        return conditions

    def _figures(self) -> list[Figure]:
        one = Interval(1.0, 1.0, 1.0, 0)
        shares = {
            method: {1.0: one}
            | {ratio: kept for place, ratio in own.items() if (kept := self.measured.kept(place)) is not None}
            for method, own in self._conditions.items()
        }
        similarities = {
            method: self.measured.similarity.curve(
                {1.0: WHOLE, **{ratio: place for place, ratio in own.items()}}
            )
            for method, own in self._conditions.items()
        }
        without = self.measured.similarity.mean(WITHOUT)
        shown: tuple[tuple[dict[str, dict[float, Interval]], str, str, dict[str, Interval]], ...] = (
            (shares, "share of the passage's gain kept", "Share of the passage's likelihood gain for the right answer "
             "that is kept", {}),
            (similarities, "similarity in meaning", "Cosine similarity (of sentence vectors) of the answer given to "
             "the right one; dotted: the question without any passage", {"no passage": without} if without else {}),
        )  # fmt: skip
        return [
            line_figure(
                lines,
                x_label="compression ratio",
                y_label=label,
                caption=f"{caption}. Bands are 95% intervals over questions.",
                log_x=True,
                levels=levels,
            )
            for curves, label, caption, levels in shown
            if (lines := lines_of(curves, [*self.controls, LLMLINGUA]))
        ]

    def _finding(self) -> str:
        full, without = self.measured.likelihood.mean(WHOLE), self.measured.likelihood.mean(WITHOUT)
        if full is None or without is None:
            return self._finding_of_answers()
        kept = []
        for method, places in self._conditions.items():
            shares = [
                f"{share.estimate:.0%} at {ratio:.3g}x"
                for place, ratio in places.items()
                if (share := self.measured.kept(place)) is not None
            ]
            if shares:
                kept.append(f"{method}: {', '.join(shares)}".replace("-", "\u2212"))
        return (
            f"The right answer has a log-likelihood of {unsigned(full.estimate)} nats per token with the whole passage "
            f"and {unsigned(without.estimate)} without it ({without.items} questions). Share of that gain kept, by "
            f"method and compression ratio: {'; '.join(kept)}."
        )

    def _finding_of_answers(self) -> str:
        similarity = self.measured.similarity
        full, without = similarity.mean(WHOLE), similarity.mean(WITHOUT)
        if full is None or without is None:
            return "Too few answers were recorded to compare lengths of a passage."
        means = [
            f"{method} {unsigned(mean.estimate)}"
            for method in self.methods
            if (mean := similarity.mean((method, self.ratios[0]))) is not None
        ]
        return (
            f"The answers' cosine similarity to the right one is {unsigned(full.estimate)} with the whole passage and "
            f"{unsigned(without.estimate)} without it ({without.items} questions)."
            + (f" At a compression ratio of {self.ratios[0]:g}: {', '.join(means)}." if means else "")
        )

    def _table(self) -> Table:
        places: dict[Condition, float] = {WHOLE: 1.0}
        for own in self._conditions.values():
            places |= own
        rows: list[list[Cell]] = []
        for place, ratio in {**places, WITHOUT: 0.0}.items():
            measured = self.measured
            means = measured.kept(place), measured.likelihood.mean(place), measured.similarity.mean(place)
            if any(means):
                rows.append([place[0], f"{ratio:.3g}" if place[0] != NONE else "", *means])
        return Table(
            (
                "Passage",
                "Compression ratio",
                "Share kept",
                "Log-likelihood, nats per token",
                "Similarity to the right answer",
            ),
            rows,
            "Means over questions; 95% bootstrap intervals in small print.",
        )

    def _comparison_tables(self) -> list[Table]:
        """The first method against others on the same questions."""
        first = self.methods[0]
        against: dict[str, dict[float, tuple[Condition, Condition]]] = {}
        if self.peer in self.methods:
            against[f"{first} against {self.peer}"] = {
                ratio: ((self.peer, ratio), (first, ratio)) for ratio in self.ratios
            }
        if self.same_length is not None:
            against[f"{first} against the {LLMLINGUA}, at the length that it reaches"] = {
                ratio: (place, (self.same_length, place[1]))
                for place, ratio in self.measured.reached.items()
                if place[0] == LLMLINGUA
            }
        tables = [self._comparison_table(title, pairs) for title, pairs in against.items()]
        return [table for table in tables if table.rows]

    def _comparison_table(self, title: str, pairs: Mapping[float, tuple[Condition, Condition]]) -> Table:
        rows: list[list[Cell]] = [
            [f"{ratio:.3g}", *cells]
            for ratio, (theirs, own) in pairs.items()
            if (cells := effect_cells(self.measured.likelihood, theirs, own))
        ]
        return Table(
            ("Compression ratio", "Nats per token more", "Effect size", "p"),
            rows,
            f"{title}, question by question: difference of log-likelihood with its 95% interval, effect size (mean "
            "over standard deviation of the differences) and p-value (Wilcoxon's signed-rank test).",
        )

    def _comparisons(self) -> list[Comparison]:
        places: dict[str, Condition] = {"Whole passage": WHOLE}
        for ratio in self.answered_ratios[:1]:
            places |= {f"{method.capitalize()}, ratio {ratio:g}": (method, ratio) for method in self.methods}
        return compare_answers(
            [item["question"] for item in self.items],
            by_tags(self.records, "passage", "method", "ratio"),
            {**places, "No passage": WITHOUT},
            [Answer("Right answer", item["answer"]) for item in self.items],
        )
