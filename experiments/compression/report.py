"""The report of one kind of text: shares kept, right answers, comparisons, figures and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from embedspace.metrics import Condition, Interval, Measure
from embedspace.reporting import (
    Answer,
    Cell,
    Comparison,
    Figure,
    Section,
    Table,
    compare_answers,
    counted,
    effect_cells,
    line_figure,
    lines_of,
    unsigned,
)
from embedspace.runs import Record, by_tags
from experiments.compression.items import Item
from experiments.compression.metrics import FULL, LLMLINGUA, NONE, WHOLE, WITHOUT, Measured
from experiments.compression.overview import headline_ratio, kept_in_words, rivalries, rivals_table

WHOLE_LABEL = "Whole passage"
"""Of the answers to the whole passage."""


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
    drawn: Sequence[str]
    """Names of the other methods in the figures."""
    rivals: Mapping[str, Sequence[str]]
    """Name of a method -> those that it must not be below."""
    margin: float
    """Nats per token by which a method may be below them and counts as good as they are."""
    ratios: Sequence[float]
    answered_ratios: Sequence[float]
    same_length: str | None
    """Name of the first method at the lengths of the LLMLingua package; None where the package was not run."""

    def section(self) -> Section:
        """The finding, figures, tables and answers."""
        return Section(
            self.title,
            self._finding(),
            f"{counted(self.count, 'question')} about passages that the model reads as embeddings ({self.source}). A "
            "passage is a system message and its rows are compressed; the rows of the question, of the template and of "
            "the answer's first words, which are given, stay. A passage's gain is how much likelier it makes the right "
            "answer, in nats per token; a method keeps a share of that gain. Below 0, the model does worse than "
            "without any passage." + self._about_llmlingua(),
            figures=self._figures(),
            tables=[table for table in (self._table(), *self._comparison_tables()) if table.rows],
            comparisons=self._comparisons(),
            verdict=self._verdict(),
            pair=self._pair,
        )

    @property
    def _pair(self) -> tuple[str, str] | None:
        if not self.answered_ratios:
            return None
        return WHOLE_LABEL, _way_label(self.methods[0], self.answered_ratios[0])

    def _verdict(self) -> str:
        """What the first method and the best of the simple ways keep at one ratio, in plain words."""
        measured, own = self.measured, self.methods[0]
        whole, without = measured.likelihood.mean(WHOLE), measured.likelihood.mean(WITHOUT)
        ratio = headline_ratio(self.ratios, self.answered_ratios)
        kept = measured.kept((own, ratio))
        if whole is None or without is None or kept is None:
            return ""
        if whole.estimate <= without.estimate:
            return "The whole passage does not make the right answer likelier, so there is nothing that could be kept."
        said = (
            f"Cut to 1/{ratio:g} of its rows by the method “{own}”, a passage {kept_in_words(kept)} "
            f"({counted(without.items, 'question')})"
        )
        others = [other for other in self.rivals.get(own, self.controls) if other in self.methods]
        best = measured.best([(other, ratio) for other in others])
        if best is None or (share := measured.kept(best)) is None:
            return f"{said}."
        return f"{said}; by the best of the simple ways, “{best[0]}”, it {kept_in_words(share, short=True)}."

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
        measured, controls = self.measured, [*self.controls, LLMLINGUA]
        drawn = {
            method: own
            for method, own in self._conditions.items()
            if method in (*self.drawn, *controls, self.same_length)
        }
        shares = {
            method: {1.0: one}
            | {ratio: kept for place, ratio in own.items() if (kept := measured.kept(place)) is not None}
            for method, own in drawn.items()
        }
        shown: list[tuple[Mapping[str, Mapping[float, Interval]], str, str, dict[str, Interval]]] = [
            (shares, "share of the passage's gain kept", "Share of the passage's likelihood gain for the right answer "
             "that is kept", {}),
        ]  # fmt: skip
        for measure, label, caption in (
            (measured.right, "share of right answers", "Share of answers that contain the right string"),
            (measured.similarity, "similarity in meaning",
             "Cosine similarity (of sentence vectors) of the answer given to the right one"),
        ):  # fmt: skip
            curves = {method: self._curve(measure, {1.0: WHOLE, **{ratio: place for place, ratio in own.items()}})
                      for method, own in drawn.items()}  # fmt: skip
            without = measured.mean(measure, WITHOUT)
            dotted = f"{caption}; dotted: the question without any passage"
            shown.append((curves, label, dotted, {"no passage": without} if without else {}))
        return [
            line_figure(
                lines,
                x_label="compression ratio",
                y_label=label,
                caption=f"{caption}.",
                over="clusters of questions",
                log_x=True,
                levels=levels,
            )
            for curves, label, caption, levels in shown
            if (lines := lines_of(curves, controls))
        ]

    def _curve(self, measure: Measure, places: Mapping[float, Condition]) -> dict[float, Interval]:
        means = {ratio: self.measured.mean(measure, place) for ratio, place in sorted(places.items())}
        return {ratio: mean for ratio, mean in means.items() if mean is not None}

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
            f"and {unsigned(without.estimate)} without it ({counted(without.items, 'question')}). Share of that gain "
            f"kept, by method and compression ratio: {'; '.join(kept)}."
        )

    def _finding_of_answers(self) -> str:
        for measure, name in (
            (self.measured.right, "The share of answers that contain the right string"),
            (self.measured.similarity, "The answers' cosine similarity to the right one"),
        ):
            full, without = measure.mean(WHOLE), measure.mean(WITHOUT)
            if full is None or without is None:
                continue
            means = [
                f"{method} {unsigned(mean.estimate)}"
                for method in self.methods
                if (mean := measure.mean((method, self.ratios[0]))) is not None
            ]
            return (
                f"{name} is {unsigned(full.estimate)} with the whole passage and {unsigned(without.estimate)} without "
                f"it ({counted(without.items, 'question')})."
                + (f" At a compression ratio of {self.ratios[0]:g}: {', '.join(means)}." if means else "")
            )
        return "Too few answers were recorded to compare lengths of a passage."

    def _table(self) -> Table:
        places: dict[Condition, float] = {WHOLE: 1.0}
        for own in self._conditions.values():
            places |= own
        measured = self.measured
        measures = (measured.likelihood, measured.right, measured.similarity, measured.invented)
        rows: list[list[Cell]] = []
        for place, ratio in {**places, WITHOUT: 0.0}.items():
            means = [measured.kept(place), *(measured.mean(measure, place) for measure in measures)]
            if any(means):
                kept = measured.rows.mean(place)
                rows.append(
                    [
                        _PASSAGES.get(str(place[0]), place[0]),
                        f"{ratio:.3g}" if place[0] != NONE else "",
                        f"{kept.estimate:.1f}" if kept else "",
                        *means,
                    ]
                )
        return Table(
            (
                "Passage",
                "Compression ratio",
                "Rows",
                "Share kept",
                "Log-likelihood, nats per token",
                "Right answers",
                "Similarity to the right answer",
                "Inventions",
            ),
            rows,
            "Every method and ratio. Means over questions; 95% bootstrap intervals over clusters in small print. "
            "Rows are those left of the passage: whole words may fill fewer than a ratio allows. Right answers "
            "contain the right string; inventions are shortened passages with a word or number that the passage does "
            "not have.",
        ).filled()

    def _comparison_tables(self) -> list[Table]:
        """Methods against their rivals on the same questions."""
        found = list(rivalries(self.measured, self.rivals, self.ratios, self.margin))
        tables = [rivals_table(found, self.margin)]
        if self.same_length is not None:
            pairs = {
                ratio: (place, (self.same_length, place[1]))
                for place, ratio in self.measured.reached.items()
                if place[0] == LLMLINGUA
            }
            title = f"{self.methods[0]} against the {LLMLINGUA}, at the length that it reaches"
            tables.append(self._comparison_table(title, pairs))
        return tables

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
        places: dict[str, Condition] = {WHOLE_LABEL: WHOLE}
        for ratio in self.answered_ratios[:1]:
            places |= {_way_label(method, ratio): (method, ratio) for method in self.methods}
        return compare_answers(
            [item["question"] for item in self.items],
            by_tags(self.records, "passage", "method", "ratio"),
            {**places, "No passage": WITHOUT},
            [Answer("Right answer", item["answer"]) for item in self.items],
        )


_PASSAGES = {FULL: "whole passage", NONE: "no passage"}
"""How tables name the conditions that are no method."""


def _way_label(method: str, ratio: float) -> str:
    """Of the answers to passages that a method shortened."""
    return f"{method[:1].upper()}{method[1:]}, ratio {ratio:g}"
