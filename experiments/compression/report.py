"""What the compression experiment tells of one task: shares kept, peers, figures and answers side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, kept_share
from embedspace.reporting import Answer, Cell, Comparison, Figure, Line, Section, Table, line_figure, unsigned
from embedspace.runs import Record, by_tags

if TYPE_CHECKING:
    from experiments.compression.experiment import Compression, Item

FULL, NONE = "full", "none"
"""The whole passage, and the question without any."""
RIGHT = "right answer"
LLMLINGUA = "llmlingua package"
SAME_LENGTH = "at the length of the " + LLMLINGUA


def task_of(item: Item) -> str:
    """Kind of question."""
    return item.get("task", "questions")


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["method"]), float(record.tags["ratio"])), int(record.tags["passage"])


@dataclass(frozen=True)
class Told:
    """The section of one task."""

    experiment: Compression
    task: str
    everything: Sequence[Record]
    """Records of all tasks."""

    def section(self) -> Section:
        """What is kept by each way, with its figures, tables and answers."""
        items = self.experiment.items
        kinds = {task_of(item) for item in items}
        count = sum(task_of(item) == self.task for item in items)
        return Section(
            "Compression of a passage" + (f": {self.task}" if len(kinds) > 1 else ""),
            self._finding(),
            f"{count} questions are asked about a passage that the model reads as embeddings "
            f"({self.experiment.source}). The passage's rows are made fewer; the rows of the question and of the "
            "template stay. What a passage is worth is how much likelier it makes the right answer, in nats a token; "
            "what a way of compressing keeps is the share of that. Below 0, the model does worse than without any "
            "passage." + self._about_llmlingua(),
            figures=self._figures(),
            tables=[self._table(), *self._peer_tables()],
            comparisons=self._comparisons(),
        )

    @cached_property
    def records(self) -> list[Record]:
        """Those of this task."""
        items = self.experiment.items
        return [each for each in self.everything if task_of(items[int(each.tags["passage"])]) == self.task]

    @cached_property
    def likelihood(self) -> Measure:
        """Log-likelihood of the right answer, nats a token."""
        return Measure.of(
            (*_place(record), record.scores[RIGHT].per_token) for record in self.records if record.scores
        )

    @cached_property
    def likeness(self) -> Measure:
        """Likeness of the answers given to the right ones."""
        answered = [record for record in self.records if record.text.strip()]
        right = [self.experiment.items[int(record.tags["passage"])]["answer"] for record in answered]
        cosines = SentenceSimilarity().cosines([record.text for record in answered], right)
        return Measure.of((*_place(record), cosine) for record, cosine in zip(answered, cosines, strict=True))

    @cached_property
    def reached(self) -> dict[Condition, float]:
        """How many times fewer rows the package reached, and the first way with it, at each ratio asked for."""
        rows: dict[Condition, dict[int, int]] = {}
        for record in self.records if self.experiment.llmlingua else ():
            place, passage = _place(record)
            if place == (FULL, 1.0) or place[0] in (LLMLINGUA, self.experiment.own):
                rows.setdefault(place, {})[passage] = int(record.tags["rows"])
        whole = rows.pop((FULL, 1.0), {})
        return {
            place: sum(whole[passage] for passage in own) / sum(own.values())
            for place, own in rows.items()
            if own.keys() <= whole.keys()
        }

    def _is_control(self, way: str) -> bool:
        return way in self.experiment.controls or way == LLMLINGUA

    def _about_llmlingua(self) -> str:
        if not self.experiment.llmlingua:
            return ""
        return (
            "\n\nThe package llmlingua shortens the text itself by the surprisal of its tokens under the same model; "
            "it does not keep to the length that it is asked for. It is shown at the length that it reaches, beside "
            f"{next(iter(self.experiment.chosen))} at the very same number of rows, passage by passage."
        )

    def _places(self) -> dict[str, dict[Condition, float]]:
        """For every way, its conditions and how many times fewer rows each has."""
        places: dict[str, dict[Condition, float]] = {
            way: {(way, ratio): ratio for ratio in self.experiment.ratios} for way in self.experiment.chosen
        }
        for way in (LLMLINGUA, self.experiment.own):
            if own := {place: times for place, times in self.reached.items() if place[0] == way}:
                places[way] = own
        return places

    def _kept(self, place: Condition) -> Interval | None:
        return kept_share(self.likelihood, place, nothing=(NONE, 0.0), everything=(FULL, 1.0))

    def _figures(self) -> list[Figure]:
        places = self._places()
        shares = {
            way: {1.0: Interval(1.0, 1.0, 1.0, 0)}
            | {times: kept for place, times in own.items() if (kept := self._kept(place)) is not None}
            for way, own in places.items()
        }
        likenesses = {
            way: self.likeness.curve({1.0: (FULL, 1.0), **{times: place for place, times in own.items()}})
            for way, own in places.items()
        }
        without = self.likeness.mean((NONE, 0.0))
        shown: tuple[tuple[dict[str, dict[float, Interval]], str, str, dict[str, Interval]], ...] = (
            (shares, "share of the passage's worth kept", "What is kept of how much likelier the passage makes the "
             "right answer", {}),
            (likenesses, "likeness in meaning", "Likeness (cosine of sentence vectors) of the answer given to the "
             "right one; dotted: the question without any passage", {"no passage": without} if without else {}),
        )  # fmt: skip
        return [
            line_figure(
                lines,
                x_label="times fewer rows",
                y_label=label,
                caption=f"{caption}. Bands are 95% intervals over questions.",
                log_x=True,
                levels=levels,
            )
            for curves, label, caption, levels in shown
            if (lines := [
                Line(way, points, control=self._is_control(way), band=not self._is_control(way))
                for way, points in curves.items() if len(points) > 1
            ])
        ]  # fmt: skip

    def _finding(self) -> str:
        full, without = self.likelihood.mean((FULL, 1.0)), self.likelihood.mean((NONE, 0.0))
        if full is None or without is None:
            return self._finding_of_answers()
        text = (
            f"The right answer has a log-likelihood of {unsigned(full.estimate)} nats a token with the whole passage "
            f"and {unsigned(without.estimate)} without it ({without.items} questions). "
        )
        told = []
        for way, places in self._places().items():
            kept = {times: self._kept(place) for place, times in places.items()}
            shares = [
                f"{share.estimate:.0%} at {times:.3g}x" for times, share in kept.items() if share is not None
            ]
            if shares:
                told.append(f"{way}: {', '.join(shares)}".replace("-", "\u2212"))
        return text + f"Of that gain is kept, by way and number of times fewer rows: {'; '.join(told)}."

    def _finding_of_answers(self) -> str:
        full, without = self.likeness.mean((FULL, 1.0)), self.likeness.mean((NONE, 0.0))
        if full is None or without is None:
            return "Too few answers were recorded to compare lengths of a passage."
        told = [
            f"{way} {unsigned(mean.estimate)}"
            for way in self.experiment.chosen
            if (mean := self.likeness.mean((way, self.experiment.ratios[0]))) is not None
        ]
        return (
            f"The answers' likeness to the right one is {unsigned(full.estimate)} with the whole passage and "
            f"{unsigned(without.estimate)} without it ({without.items} questions)."
            + (f" In {self.experiment.ratios[0]:g} times fewer rows: {', '.join(told)}." if told else "")
        )

    def _table(self) -> Table:
        ways = self._places().values()
        places = {
            (FULL, 1.0): 1.0,
            **{place: times for own in ways for place, times in own.items()},
            (NONE, 0.0): 0.0,
        }
        rows: list[list[Cell]] = []
        for place, times in places.items():
            means = self._kept(place), self.likelihood.mean(place), self.likeness.mean(place)
            if any(means):
                rows.append(
                    [
                        place[0],
                        f"{times:.3g}" if times else "",
                        *("" if mean is None else mean for mean in means),
                    ]
                )
        return Table(
            (
                "Passage",
                "Times fewer rows",
                "Share kept",
                "Log-likelihood, nats per token",
                "Likeness to the right answer",
            ),
            rows,
            "Means over questions; 95% bootstrap intervals in small print.",
        )

    def _peer_tables(self) -> list[Table]:
        """The first way against its peers on the same questions."""
        way = next(iter(self.experiment.chosen))
        against: dict[str, dict[float, tuple[Condition, Condition]]] = {}
        if self.experiment.peer in self.experiment.chosen:
            against[f"{way} against {self.experiment.peer}"] = {
                ratio: ((self.experiment.peer, ratio), (way, ratio)) for ratio in self.experiment.ratios
            }
        against[f"{way} against the {LLMLINGUA}, at the length that it reaches"] = {
            times: (place, (self.experiment.own, place[1]))
            for place, times in self.reached.items()
            if place[0] == LLMLINGUA
        }
        tables = (self._against(title, pairs) for title, pairs in against.items())
        return [table for table in tables if table.rows]

    def _against(self, title: str, pairs: Mapping[float, tuple[Condition, Condition]]) -> Table:
        rows: list[list[Cell]] = []
        for times, (theirs, own) in pairs.items():
            gain, effect = self.likelihood.change(theirs, own), self.likelihood.effect(theirs, own)
            if gain is not None and effect is not None:
                rows.append([f"{times:.3g}", gain, effect.size, f"{effect.p_value:.2g}"])
        return Table(
            ("Times fewer rows", "Nats per token more", "Effect size", "p"),
            rows,
            f"{title}, question by question: difference of log-likelihood with its 95% interval, effect size (mean "
            "over standard deviation of the differences) and p-value (Wilcoxon's signed-rank test).",
        )

    def _comparisons(self) -> list[Comparison]:
        answers = {
            place: found[0] for place, found in by_tags(self.records, "passage", "method", "ratio").items()
        }
        wanted = {
            "Whole passage": (FULL, 1.0),
            **{
                f"{way.capitalize()}, {ratio:g} times fewer rows": (way, ratio)
                for way in self.experiment.chosen
                for ratio in self.experiment.answered_ratios[:1]
            },
            "No passage": (NONE, 0.0),
        }
        comparisons = []
        for number, item in enumerate(self.experiment.items):
            shown = [
                Answer.of(label, answers[number, *place])
                for label, place in wanted.items()
                if (number, *place) in answers and answers[number, *place].text
            ]
            if shown:
                comparisons.append(
                    Comparison(item["question"], [Answer("Right answer", item["answer"]), *shown])
                )
        return comparisons
