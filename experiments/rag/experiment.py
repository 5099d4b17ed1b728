"""Retrieval-augmented generation: what a passage is worth as text, as soft tokens, and as compressed text."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, kept_share
from embedspace.reporting import Answer, Cell, Comparison, Figure, Line, Report, Section, Table, line_figure
from embedspace.runs import Case, Record, by_tags
from experiments.compression.passages import FACTS, Knowledge
from experiments.projector.metrics import condition_scores
from experiments.rag.context import NONE, RIGHT, SHUFFLED, SOFT, TEXT, PassageContext

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace
    from embedspace.projector import ConditionScores

QUALITY = {FACTS: "share of right values"}
"""What a good answer is, by task; else its likeness to the right one."""
_LIKENESS = "likeness to the right answer"


@dataclass(frozen=True)
class Rag:
    """Asks questions about a knowledge base, with the passages that a search finds given in one way or another.

    Raises:
        ValueError: fewer than two questions, no number of passages, or more of them than there are.
    """

    knowledge: Knowledge
    source: str
    """Where passages and questions come from, for the report."""
    projector: str
    """Packaged name, folder or hub id."""
    counts: Sequence[int]
    """How many of the passages found a question gets."""
    compressed: Mapping[str, Mapping[str, Any] | None]
    """Name of a way to shorten the text to as many rows as the soft tokens have -> what ``compress`` is told; None
    leaves the way out."""
    introduction: str
    """What stands before the passages in the user's message."""
    answered: int
    """Questions of each task that the model answers; at the others the right answer's likelihood alone is wanted."""
    timed: int
    """Questions of each task whose first token is timed, each asked alone."""

    def __post_init__(self) -> None:
        if len(self.knowledge.questions) < 2:
            raise ValueError(
                "shuffled soft tokens take at least two questions; ask for more facts or explanations"
            )
        if not self.counts or not 1 <= min(self.counts) <= max(self.counts) <= len(self.knowledge.passages):
            raise ValueError(
                f"counts is {list(self.counts)}; give numbers of passages from 1 to {len(self.knowledge.passages)}"
            )

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """First tokens, then answers, then likelihoods alone, so that an engine can batch each kind."""
        context = PassageContext(self, space)
        timed = [number for number in self._numbers if self._place(number) < self.timed]
        if timed:
            # Whatever is asked first is slower than all that follows; it counts for nothing.
            yield context.case(TEXT, self.counts[0], timed[-1], key="warm-up", timed=True)
        for number in timed:
            for way, count in self._places:
                yield context.case(way, count, number, timed=True)
        for answered in (True, False):
            for way, count in self._places:
                for number in self._numbers:
                    if (self._place(number) < self.answered) == answered:
                        yield context.case(way, count, number, answered=answered)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each task, what each way of giving passages is worth, at which price."""
        tasks = list(dict.fromkeys(question["task"] for question in self.knowledge.questions))
        sections = [self._section(task, [r for r in records if r.tags["task"] == task]) for task in tasks]
        return Report("Passages as vectors", "", sections)

    @property
    def _places(self) -> list[tuple[str, int]]:
        ways = [
            TEXT,
            SOFT,
            SHUFFLED,
            *(way for way, options in self.compressed.items() if options is not None),
        ]
        return [(NONE, 0), *((way, count) for count in self.counts for way in ways)]

    @property
    def _numbers(self) -> range:
        return range(len(self.knowledge.questions))

    def _place(self, number: int) -> int:
        """Which question of its task it is."""
        questions = self.knowledge.questions
        return sum(question["task"] == questions[number]["task"] for question in questions[:number])

    def _section(self, task: str, records: Sequence[Record]) -> Section:
        asked = [record for record in records if not record.tags["timed"]]
        measured = _Measured(
            Measure.of((*_of(record), record.scores[RIGHT].per_token) for record in asked if record.scores),
            self._quality(task, asked),
            Measure.of((*_of(record), float(record.rows)) for record in asked),
            Measure.of(
                (*_of(record), 1e3 * record.seconds)
                for record in records
                if record.tags["timed"] and not record.key.endswith("warm-up")
            ),
        )
        held = Measure.of((*_of(record), float(record.tags["found"])) for record in asked)
        count = sum(question["task"] == task for question in self.knowledge.questions)
        return Section(
            f"Passages as vectors: {task}",
            self._finding(task, measured, held),
            f"{count} questions {self.source}. The passages nearest to a question by the cosine of their sentence "
            f"vectors, of {len(self.knowledge.passages):,}, are searched exactly and given as text, as the soft tokens "
            f"that the projector {self.projector!r} makes of each vector, or as text made as short as those. The "
            "controls are no context, and the soft tokens of another question's passages. A first token is timed "
            "alone, from the prompt's being sent; vectors are there before, as in any vector store.",
            figures=self._figures(task, measured),
            tables=[self._table(task, measured, held)],
            comparisons=self._comparisons(asked),
        )

    def _quality(self, task: str, records: Sequence[Record]) -> Measure:
        answered = [record for record in records if record.finish_reason != "scored"]
        right = [self.knowledge.questions[int(record.tags["question"])]["answer"] for record in answered]
        if task == FACTS:
            found = [
                holds_value(record.text, value.strip()) for record, value in zip(answered, right, strict=True)
            ]
            return Measure.of((*_of(record), float(hit)) for record, hit in zip(answered, found, strict=True))
        cosines = SentenceSimilarity().cosines([record.text or " " for record in answered], right)
        return Measure.of((*_of(record), cosine) for record, cosine in zip(answered, cosines, strict=True))

    def _finding(self, task: str, measured: _Measured, held: Measure) -> str:
        count = self.counts[0]
        shown = {way: (way, count) for way, number in self._places if number == count} | {NONE: (NONE, 0)}
        hit = held.mean((TEXT, count))
        told = [f"{hit.estimate:.0%} of questions find their passage among the first {count}" if hit else ""]
        scores = measured.scores(count)
        if scores is not None:
            closed = scores.gap_closed()
            told.append(
                f"of the gap in the right answer's likelihood between the better control "
                f"({NONE if scores.better_control == 'nothing' else SHUFFLED}) and the text, soft tokens close "
                f"{closed.estimate:.0%} ({closed.low:.0%} to {closed.high:.0%}; {closed.items} questions)"
            )
        for name, measure, digits in (
            (QUALITY.get(task, _LIKENESS), measured.quality, 2),
            ("rows of the prompt", measured.rows, 0),
            ("milliseconds to the first token", measured.first, 0),
        ):
            means = {way: measure.mean(place) for way, place in shown.items()}
            values = [f"{way} {mean.estimate:.{digits}f}" for way, mean in means.items() if mean is not None]
            if values:
                told.append(f"{name}: {', '.join(values)}")
        text = "; ".join(part for part in told if part).replace("-", "\u2212")
        return f"{text[:1].upper()}{text[1:]}."

    def _figures(self, task: str, measured: _Measured) -> list[Figure]:
        likelihood = (measured.likelihood, "nats a token", "log-likelihood of the right answer")
        quality = (measured.quality, QUALITY.get(task, _LIKENESS), QUALITY.get(task, _LIKENESS))
        figures = []
        for (measure, label, what), (price, axis) in (
            (likelihood, (measured.rows, "rows of the prompt")),
            (quality, (measured.rows, "rows of the prompt")),
            (likelihood, (measured.first, "milliseconds to the first token")),
        ):
            lines: dict[str, dict[float, Interval]] = {}
            for place in self._places:
                at, value = price.mean(place), measure.mean(place)
                if at is not None and value is not None:
                    lines.setdefault(place[0], {})[round(at.estimate)] = value
            if lines:
                drawn = [
                    Line(way, points, way in (NONE, SHUFFLED), way != SHUFFLED)
                    for way, points in lines.items()
                ]
                caption = (
                    f"{what.capitalize()} against {axis}, with {', '.join(map(str, self.counts))} passages. Bands are "
                    "95% intervals over questions; grey: the controls."
                )
                figures.append(line_figure(drawn, x_label=axis, y_label=label, caption=caption))
        return figures

    def _table(self, task: str, measured: _Measured, held: Measure) -> Table:
        rows: list[list[Cell]] = []
        for place in self._places:
            way, count = place
            kept = measured.kept(place)
            cells = (
                held.mean(place) if count else None,
                *(measure.mean(place) for measure in (measured.rows, measured.likelihood)),
                kept if way != NONE else None,
                *(measure.mean(place) for measure in (measured.quality, measured.first)),
            )
            rows.append([way, count or "", *("" if cell is None else cell for cell in cells)])
        return Table(
            (
                "Context", "Passages", "Passage found", "Prompt rows", "Log-likelihood, nats per token",
                "Share of the text's gain", QUALITY.get(task, _LIKENESS).capitalize(), "First token, ms",
            ),
            rows,
            "Means over questions; 95% bootstrap intervals in small print. The share is of how much likelier the same "
            "passages make the right answer as text, against no context.",
        ).filled()  # fmt: skip

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        answers = {
            place: found[0] for place, found in by_tags(records, "question", "way", "passages").items()
        }
        comparisons = []
        for number, question in enumerate(self.knowledge.questions):
            shown = [
                Answer.of(way if way == NONE else f"{way} of {count}", record)
                for way, count in self._places
                if count in (0, self.counts[0]) and (record := answers.get((number, way, count))) is not None
                and record.text
            ]  # fmt: skip
            if shown:
                comparisons.append(
                    Comparison(question["question"], [Answer("Right answer", question["answer"]), *shown])
                )
        return comparisons


@dataclass(frozen=True)
class _Measured:
    """What was measured of one task's questions, by way and number of passages."""

    likelihood: Measure
    """Of the right answer, nats a token."""
    quality: Measure
    rows: Measure
    first: Measure
    """Milliseconds to the first token."""

    def kept(self, place: Condition) -> Interval | None:
        """Share of the gain of the same passages' text."""
        return kept_share(self.likelihood, place, nothing=(NONE, 0), everything=(TEXT, place[1]))

    def scores(self, count: int) -> ConditionScores | None:
        """Soft tokens between the controls and the text."""
        costs = Measure(
            {
                place: {item: -value for item, value in items.items()}
                for place, items in self.likelihood.values.items()
            }
        )
        places: dict[str, Condition] = {
            "nothing": (NONE, 0), "shuffled": (SHUFFLED, count), "own": (SOFT, count), "text": (TEXT, count),
        }  # fmt: skip
        return condition_scores(costs, places)


def holds_value(text: str, value: str) -> bool:
    """Whether a number stands in a text, and not as a part of a longer one."""
    return re.search(rf"(?<![\d.,]){re.escape(value)}(?![.,]?\d)", text) is not None


def _of(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["way"]), int(record.tags["passages"])), int(record.tags["question"])
