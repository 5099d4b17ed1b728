"""Compression: how much of a passage's worth is left when its rows become fewer?"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.cases import Case
from embedspace.engines import TransformersEngine
from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, kept_share
from embedspace.plots import Figure, Line, line_figure
from embedspace.records import Record, by_tags
from embedspace.report import Answer, Cell, Comparison, Report, Section, Table, unsigned
from experiments.llmlingua_peer import installed, shortened

FULL, NONE = "full", "none"
"""The whole passage, and the question without any."""
RIGHT = "right answer"
LLMLINGUA = "llmlingua package"
SAME_LENGTH = "at the length of the " + LLMLINGUA
NOT_INSTALLED = (
    "The package llmlingua is not installed and left out; pip install 'embedspace[llmlingua]' brings it in."
)


class Item(TypedDict):
    """A text, a question about it, and the right answer."""

    text: str
    question: str
    answer: str
    beginning: NotRequired[str]
    """How the model's answer is made to begin."""
    task: NotRequired[str]
    """Kind of question; the report keeps kinds apart."""


@dataclass(frozen=True)
class Compression:
    """Asks about a passage whose rows are made fewer; the question's own rows stay as they are."""

    items: Sequence[Item]
    source: str
    """Where the items come from, for the report."""
    ways: Mapping[str, Mapping[str, Any] | None]
    """Name of a way to compress -> what ``compress`` is told beside the ratio; None leaves the way out. The first is
    the one in question."""
    controls: Sequence[str]
    """Names of the ways that any other should beat at equal length."""
    peer: str | None
    """Name of the way that the first is compared with item by item."""
    ratios: Sequence[float]
    llmlingua: bool
    """Whether LLMLingua's own package shortens the text too, where it is installed, and the first way does to the very
    number of rows that it reaches."""
    answered_ratios: Sequence[float]
    """Ratios at which the model answers; at the others the right answer's likelihood alone is wanted."""

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The ways that are not left out."""
        return {way: dict(options) for way, options in self.ways.items() if options is not None}

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The whole passage, none, and every way at every ratio."""
        yield from self._cases(NONE, 0.0, [_prompt(space, item, with_text=False) for item in self.items])
        full = [_prompt(space, item, with_text=True) for item in self.items]
        yield from self._cases(FULL, 1.0, full)
        places = [(way, ratio) for way in self.chosen for ratio in self.ratios]
        # What is answered comes first, so that an engine can batch it.
        for way, ratio in sorted(places, key=lambda place: not self._answers(*place)):
            shorter = _Compressor(space, self.chosen[way])
            yield from self._cases(way, ratio, (shorter(prompt, ratio=ratio) for prompt in full))
        if self.llmlingua:
            yield from self._llmlingua(space, full)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each task, what each way keeps of the passage's worth."""
        tasks = list(dict.fromkeys(_task(item) for item in self.items))
        sections = [
            self._section(task, [r for r in records if self._task_of(r) == task], alone=len(tasks) == 1)
            for task in tasks
        ]
        return Report("Compression of a passage", "", sections)

    def _section(self, task: str, records: Sequence[Record], *, alone: bool) -> Section:
        likelihood = Measure.of(
            (*_place(record), record.scores[RIGHT].per_token) for record in records if record.scores
        )
        likeness, reached = self._likeness(records), self._reached(records)
        count = sum(_task(item) == task for item in self.items)
        return Section(
            "Compression of a passage" if alone else f"Compression of a passage: {task}",
            self._finding(likelihood, likeness, reached),
            f"{count} questions are asked about a passage that the model reads as embeddings ({self.source}). The "
            "passage's rows are made fewer; the rows of the question and of the template stay. What a passage is worth "
            "is how much likelier it makes the right answer, in nats a token; what a way of compressing keeps is the "
            "share of that. Below 0, the model does worse than without any passage."
            + self._about_llmlingua(reached),
            figures=self._figures(likelihood, likeness, reached),
            tables=[self._table(likelihood, likeness, reached), *self._peer_tables(likelihood, reached)],
            comparisons=self._comparisons(records),
        )

    @property
    def _own(self) -> str:
        """Name of the first way where it keeps as many rows as the package does."""
        return f"{next(iter(self.chosen))} {SAME_LENGTH}"

    def _llmlingua(self, space: EmbeddingSpace, full: Sequence[PromptEmbeds]) -> Iterator[Case]:
        """The package's texts, and the first way at the number of rows that each has."""
        if not installed():
            logging.getLogger(__name__).warning(NOT_INSTALLED)
            return
        own = _Compressor(space, next(iter(self.chosen.values())))
        for ratio in self.ratios:
            theirs = [_shortened(space, item, ratio) for item in self.items]
            yield from self._cases(LLMLINGUA, ratio, theirs)
            pairs = zip(full, theirs, strict=True)
            lengths = [min(_rows(whole), _rows(shorter)) for whole, shorter in pairs]
            ours = (own(prompt, length=length) for prompt, length in zip(full, lengths, strict=True))
            yield from self._cases(self._own, ratio, ours)

    def _cases(
        self, way: str, ratio: float, prompts: Iterator[PromptEmbeds] | Sequence[PromptEmbeds]
    ) -> Iterator[Case]:
        for number, prompt in enumerate(prompts):
            yield Case(
                f"{way}/ratio={ratio:g}/p{number:03d}",
                prompt,
                {"method": way, "ratio": ratio, "passage": number, "rows": _rows(prompt)},
                {RIGHT: self.items[number]["answer"]},
                self._answers(way, ratio),
            )

    def _answers(self, way: str, ratio: float) -> bool:
        return bool(self.answered_ratios) and (way in (FULL, NONE) or ratio in self.answered_ratios)

    def _task_of(self, record: Record) -> str:
        return _task(self.items[int(record.tags["passage"])])

    def _likeness(self, records: Sequence[Record]) -> Measure:
        """Likeness of the answers given to the right ones."""
        answered = [record for record in records if record.text.strip()]
        right = [self.items[int(record.tags["passage"])]["answer"] for record in answered]
        cosines = SentenceSimilarity().cosines([record.text for record in answered], right)
        return Measure.of((*_place(record), cosine) for record, cosine in zip(answered, cosines, strict=True))

    def _reached(self, records: Sequence[Record]) -> dict[Condition, float]:
        """How many times fewer rows the package reached, and the first way with it, at each ratio asked for."""
        rows: dict[Condition, dict[int, int]] = {}
        for record in records:
            place, passage = _place(record)
            if place == (FULL, 1.0) or place[0] in (LLMLINGUA, self._own):
                rows.setdefault(place, {})[passage] = int(record.tags["rows"])
        whole = rows.pop((FULL, 1.0), {})
        return {
            place: sum(whole[passage] for passage in own) / sum(own.values())
            for place, own in rows.items()
            if own.keys() <= whole.keys()
        }

    def _is_control(self, way: str) -> bool:
        return way in self.controls or way == LLMLINGUA

    def _about_llmlingua(self, reached: Mapping[Condition, float]) -> str:
        if not self.llmlingua:
            return ""
        if not reached:
            return f"\n\n{NOT_INSTALLED}"
        return (
            "\n\nThe package llmlingua shortens the text itself by the surprisal of its tokens under the same model; "
            "it does not keep to the length that it is asked for. It is shown at the length that it reaches, beside "
            f"{next(iter(self.chosen))} at the very same number of rows, passage by passage."
        )

    def _places(self, reached: Mapping[Condition, float]) -> dict[str, dict[Condition, float]]:
        """For every way, its conditions and how many times fewer rows each has."""
        places = {way: {(way, ratio): ratio for ratio in self.ratios} for way in self.chosen}
        for way in (LLMLINGUA, self._own):
            if own := {place: times for place, times in reached.items() if place[0] == way}:
                places[way] = own
        return places

    def _kept(self, likelihood: Measure, way: str, ratio: float) -> Interval | None:
        return kept_share(likelihood, (way, ratio), nothing=(NONE, 0.0), everything=(FULL, 1.0))

    def _figures(
        self, likelihood: Measure, likeness: Measure, reached: Mapping[Condition, float]
    ) -> list[Figure]:
        places = self._places(reached)
        shares = {
            way: {1.0: Interval(1.0, 1.0, 1.0, 0)}
            | {
                times: kept
                for place, times in own.items()
                if (kept := self._kept(likelihood, *place)) is not None
            }
            for way, own in places.items()
        }
        likenesses = {
            way: likeness.curve({1.0: (FULL, 1.0), **{times: place for place, times in own.items()}})
            for way, own in places.items()
        }
        without = likeness.mean((NONE, 0.0))
        shown = (
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

    def _finding(self, likelihood: Measure, likeness: Measure, reached: Mapping[Condition, float]) -> str:
        full, without = likelihood.mean((FULL, 1.0)), likelihood.mean((NONE, 0.0))
        if full is None or without is None:
            return self._finding_of_answers(likeness)
        text = (
            f"The right answer has a log-likelihood of {unsigned(full.estimate)} nats a token with the whole passage "
            f"and {unsigned(without.estimate)} without it ({without.items} questions). "
        )
        told = []
        for way, places in self._places(reached).items():
            kept = {times: self._kept(likelihood, *place) for place, times in places.items()}
            shares = [
                f"{share.estimate:.0%} at {times:.3g}x" for times, share in kept.items() if share is not None
            ]
            if shares:
                told.append(f"{way}: {', '.join(shares)}".replace("-", "\u2212"))
        return text + f"Of that gain is kept, by way and number of times fewer rows: {'; '.join(told)}."

    def _finding_of_answers(self, likeness: Measure) -> str:
        full, without = likeness.mean((FULL, 1.0)), likeness.mean((NONE, 0.0))
        if full is None or without is None:
            return "Too few answers were recorded to compare lengths of a passage."
        told = [
            f"{way} {unsigned(mean.estimate)}"
            for way in self.chosen
            if (mean := likeness.mean((way, self.ratios[0]))) is not None
        ]
        return (
            f"The answers' likeness to the right one is {unsigned(full.estimate)} with the whole passage and "
            f"{unsigned(without.estimate)} without it ({without.items} questions)."
            + (f" In {self.ratios[0]:g} times fewer rows: {', '.join(told)}." if told else "")
        )

    def _table(self, likelihood: Measure, likeness: Measure, reached: Mapping[Condition, float]) -> Table:
        ways = self._places(reached).values()
        places = {
            (FULL, 1.0): 1.0,
            **{place: times for own in ways for place, times in own.items()},
            (NONE, 0.0): 0.0,
        }
        rows: list[list[Cell]] = []
        for place, times in places.items():
            means = self._kept(likelihood, *place), likelihood.mean(place), likeness.mean(place)
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

    def _peer_tables(self, likelihood: Measure, reached: Mapping[Condition, float]) -> list[Table]:
        """The first way against its peers on the same questions."""
        way = next(iter(self.chosen))
        against = {}
        if self.peer in self.chosen:
            against[f"{way} against {self.peer}"] = {
                ratio: ((self.peer, ratio), (way, ratio)) for ratio in self.ratios
            }
        against[f"{way} against the {LLMLINGUA}, at the length that it reaches"] = {
            times: (place, (self._own, place[1])) for place, times in reached.items() if place[0] == LLMLINGUA
        }
        tables = (self._against(likelihood, title, pairs) for title, pairs in against.items())
        return [table for table in tables if table.rows]

    def _against(
        self, likelihood: Measure, title: str, pairs: Mapping[float, tuple[Condition, Condition]]
    ) -> Table:
        rows: list[list[Cell]] = []
        for times, (theirs, own) in pairs.items():
            gain, effect = likelihood.change(theirs, own), likelihood.effect(theirs, own)
            if gain is not None and effect is not None:
                rows.append([f"{times:.3g}", gain, effect.size, f"{effect.p_value:.2g}"])
        return Table(
            ("Times fewer rows", "Nats per token more", "Effect size", "p"),
            rows,
            f"{title}, question by question: difference of log-likelihood with its 95% interval, effect size (mean "
            "over standard deviation of the differences) and p-value (Wilcoxon's signed-rank test).",
        )

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        answers = {place: found[0] for place, found in by_tags(records, "passage", "method", "ratio").items()}
        wanted = {
            "Whole passage": (FULL, 1.0),
            **{
                f"{way.capitalize()}, {ratio:g} times fewer rows": (way, ratio)
                for way in self.chosen
                for ratio in self.answered_ratios[:1]
            },
            "No passage": (NONE, 0.0),
        }
        comparisons = []
        for number, item in enumerate(self.items):
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


@dataclass(frozen=True)
class _Compressor:
    """``compress`` with one way's options; the model is loaded where a way asks it."""

    space: EmbeddingSpace
    options: dict[str, Any]

    def __call__(
        self, prompt: PromptEmbeds, *, ratio: float | None = None, length: int | None = None
    ) -> PromptEmbeds:
        return compress(prompt, ratio, length=length, **self._asked, **self.options)

    @cached_property
    def _asked(self) -> dict[str, Any]:
        if self.options.get("information") == "surprisal":
            return {"engine": _engine(self.space.folder)}
        return {"space": self.space}


@cache
def _engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(folder)


def _prompt(space: EmbeddingSpace, item: Item, *, with_text: bool) -> PromptEmbeds:
    """Passage, question and the answer's beginning, where only the passage's rows count as content."""
    messages = [{"role": "user", "content": item["question"]}]
    if with_text:
        messages.insert(0, {"role": "system", "content": item["text"]})
    prompt = space.embed_chat(messages)
    if item.get("beginning"):
        prompt = PromptEmbeds.concat([prompt, space.embed(item["beginning"])])
    return prompt.only_run(0) if with_text else prompt


def _shortened(space: EmbeddingSpace, item: Item, ratio: float) -> PromptEmbeds:
    """The prompt with what LLMLingua leaves of the text; were that nothing, with its first word."""
    text = shortened(space.folder, item["text"], ratio).strip() or item["text"].split()[0]
    return _prompt(space, {**item, "text": text}, with_text=True)


def _rows(prompt: PromptEmbeds) -> int:
    return int(prompt.content.sum())


def _task(item: Item) -> str:
    return item.get("task", "questions")


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["method"]), float(record.tags["ratio"])), int(record.tags["passage"])
