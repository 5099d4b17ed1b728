"""Compression: how much of a passage's worth is left when its rows become fewer?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.engines import TransformersEngine
from embedspace.reporting import Report
from embedspace.runs import Case, Record
from experiments.compression.llmlingua import installed, shortened
from experiments.compression.report import FULL, LLMLINGUA, NONE, RIGHT, SAME_LENGTH, Told, task_of


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
    """Whether LLMLingua's own package shortens the text too, and the first way does to the number of rows that it
    reaches."""
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
        tasks = list(dict.fromkeys(task_of(item) for item in self.items))
        return Report("Compression of a passage", "", [Told(self, task, records).section() for task in tasks])

    @property
    def own(self) -> str:
        """Name of the first way where it keeps as many rows as the package does."""
        return f"{next(iter(self.chosen))} {SAME_LENGTH}"

    def _llmlingua(self, space: EmbeddingSpace, full: Sequence[PromptEmbeds]) -> Iterator[Case]:
        """The package's texts, and the first way at the number of rows that each has.

        Raises:
            ValueError: the package is not installed.
        """
        if not installed():
            raise ValueError(
                "experiment.llmlingua=true asks for a package that is not installed: "
                "pip install 'embedspace[llmlingua]' brings it in"
            )
        own = _Compressor(space, next(iter(self.chosen.values())))
        for ratio in self.ratios:
            theirs = [_shortened(space, item, ratio) for item in self.items]
            yield from self._cases(LLMLINGUA, ratio, theirs)
            pairs = zip(full, theirs, strict=True)
            lengths = [min(_rows(whole), _rows(shorter)) for whole, shorter in pairs]
            ours = (own(prompt, length=length) for prompt, length in zip(full, lengths, strict=True))
            yield from self._cases(self.own, ratio, ours)

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
