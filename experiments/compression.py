"""Compression: how much of a passage's worth is left when its rows become fewer?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.cases import Case
from embedspace.compression import Method
from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity
from embedspace.plots import Line, line_figure
from embedspace.records import Record, by_tags
from embedspace.report import Answer, Cell, Comparison, Report, Section, Table, unsigned

FULL, NONE = "full", "none"
"""The whole passage, and the question without any."""
RIGHT = "right answer"

NAMES: dict[str, str] = {"average": "averaged", "truncate": "truncated", "drop": "evenly dropped"}
"""How the report calls a method; the later ones by their own names."""


class Passage(TypedDict):
    """A text, a question about it, and the right answer."""

    text: str
    question: str
    answer: str


@dataclass(frozen=True)
class Compression:
    """Asks about a passage whose rows are made fewer; the question's own rows stay as they are."""

    passages: Sequence[Passage]
    methods: Sequence[Method]
    controls: Sequence[Method]
    """Methods that any other should beat at equal length."""
    ratios: Sequence[float]
    answered_ratios: Sequence[float]
    """Ratios at which the model answers; at the others the right answer's likelihood alone is wanted."""

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The whole passage, none, and every method at every ratio."""
        asked = [space.embed_chat([_user(passage)]) for passage in self.passages]
        full = [_with_passage(space, passage) for passage in self.passages]
        ways = [(method, ratio) for method in (*self.methods, *self.controls) for ratio in self.ratios]
        yield from self._cases(NONE, 0.0, asked)
        yield from self._cases(FULL, 1.0, full)
        # What is answered comes first, so that an engine can batch it.
        for method, ratio in sorted(ways, key=lambda way: not self._answers(*way)):
            shorter = [compress(prompt, ratio=ratio, method=method) for prompt in full]
            yield from self._cases(method, ratio, shorter)

    def analyse(self, records: Sequence[Record]) -> Report:
        """Likelihood of the right answer, and likeness of the given one to it."""
        likelihood = Measure.of(
            (*_place(record), record.scores[RIGHT].per_token) for record in records if record.scores
        )
        likeness = self._likeness(records)
        shown = {
            "log-likelihood, nats per token": (likelihood, "How likely the right answer is"),
            "likeness in meaning": (
                likeness,
                "Likeness (cosine of sentence vectors) of the answer given to the right one",
            ),
        }
        section = Section(
            "Compression of a passage",
            self._finding(likelihood, likeness),
            f"{len(self.passages)} questions are asked about a passage that the model reads as embeddings. The "
            "passage's rows are made fewer; the rows of the question and of the template stay. Leaving rows out is the "
            "control that every other method has to beat.",
            figures=[
                line_figure(
                    lines,
                    x_label="times fewer rows",
                    y_label=label,
                    caption=f"{caption}, against the length of the passage. Bands are 95% intervals over questions; "
                    "the dotted level is the question without any passage.",
                    log_x=True,
                    levels=_levels(measure),
                )
                for label, (measure, caption) in shown.items()
                if (lines := self._lines(measure))
            ],
            tables=[_table(likelihood, likeness)],
            comparisons=self._comparisons(records),
        )
        return Report("Compression of a passage", "", [section])

    def _cases(self, method: str, ratio: float, prompts: Sequence[PromptEmbeds]) -> Iterator[Case]:
        for number, prompt in enumerate(prompts):
            yield Case(
                f"{method}/ratio={ratio:g}/p{number:02d}",
                prompt,
                {"method": method, "ratio": ratio, "passage": number},
                {RIGHT: self.passages[number]["answer"]},
                self._answers(method, ratio),
            )

    def _answers(self, method: str, ratio: float) -> bool:
        return method in (FULL, NONE) or ratio in self.answered_ratios

    def _likeness(self, records: Sequence[Record]) -> Measure:
        """Likeness of the answers given to the right ones."""
        answered = [record for record in records if record.text.strip()]
        right = [self.passages[int(record.tags["passage"])]["answer"] for record in answered]
        cosines = SentenceSimilarity().cosines([record.text for record in answered], right)
        return Measure.of((*_place(record), cosine) for record, cosine in zip(answered, cosines, strict=True))

    def _lines(self, measure: Measure) -> list[Line]:
        lines = []
        for method in (*self.methods, *self.controls):
            points = measure.curve({1.0: (FULL, 1.0), **{ratio: (method, ratio) for ratio in self.ratios}})
            if len(points) > 1:
                lines.append(Line(_name(method), points, control=method in self.controls))
        return lines

    def _finding(self, likelihood: Measure, likeness: Measure) -> str:
        measured, name = (
            (likelihood, "log-likelihood in nats per token")
            if likelihood
            else (likeness, "likeness of the answer given")
        )
        full, without = measured.mean((FULL, 1.0)), measured.mean((NONE, 0.0))
        if full is None or without is None:
            return "Too few answers were recorded to compare lengths of a passage."
        text = (
            f"The right answer to a question about a passage has a {name} of {unsigned(full.estimate)} with the whole "
            f"passage and {unsigned(without.estimate)} without it ({without.items} questions)."
        )
        told = []
        for method in (*self.methods, *self.controls):
            mean = measured.mean((method, self.ratios[0]))
            if mean is not None:
                worse = " (less than without the passage)" if mean.estimate < without.estimate else ""
                told.append(f"{_name(method)} {unsigned(mean.estimate)}{worse}")
        return text + (f" In {self.ratios[0]:g} times fewer rows: {', '.join(told)}." if told else "")

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        answers = {place: found[0] for place, found in by_tags(records, "passage", "method", "ratio").items()}
        wanted = {
            "Whole passage": (FULL, 1.0),
            **{
                f"{_name(method).capitalize()}, {ratio:g} times fewer rows": (method, ratio)
                for method in (*self.methods, *self.controls)
                for ratio in self.answered_ratios[:1]
            },
            "No passage": (NONE, 0.0),
        }
        comparisons = []
        for number, passage in enumerate(self.passages):
            shown = [
                Answer.of(label, answers[number, *place])
                for label, place in wanted.items()
                if (number, *place) in answers
            ]
            comparisons.append(
                Comparison(passage["question"], [Answer("Right answer", passage["answer"]), *shown])
            )
        return comparisons


def _user(passage: Passage) -> dict[str, str]:
    return {"role": "user", "content": passage["question"]}


def _with_passage(space: EmbeddingSpace, passage: Passage) -> PromptEmbeds:
    """Passage and question, where only the passage's rows count as content."""
    whole = space.embed_chat([{"role": "system", "content": passage["text"]}, _user(passage)])
    return whole.only_run(0)


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["method"]), float(record.tags["ratio"])), int(record.tags["passage"])


def _levels(measure: Measure) -> dict[str, Interval]:
    without = measure.mean((NONE, 0.0))
    return {} if without is None else {"no passage": without}


def _name(method: str) -> str:
    return NAMES.get(method, method)


def _table(likelihood: Measure, likeness: Measure) -> Table:
    rows: list[list[Cell]] = []
    for method, ratio in sorted(
        {*likelihood.values, *likeness.values},
        key=lambda place: (place[0] not in (FULL, NONE), *map(str, place)),
    ):
        means = (measure.mean((method, ratio)) for measure in (likelihood, likeness))
        shown = f"{ratio:g}" if ratio else ""
        rows.append([_name(str(method)), shown, *("" if mean is None else mean for mean in means)])
    return Table(
        ("Passage", "Times fewer rows", "Log-likelihood, nats per token", "Likeness to the right answer"),
        rows,
        "Means over questions; 95% bootstrap intervals in small print.",
    )
