"""Compression: how much of a passage's likelihood gain is left when its rows are compressed?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.engines import Prompt, TransformersEngine
from embedspace.reporting import Report
from embedspace.runs import Case, Record, Tag
from experiments.compression.items import Item, task_of
from experiments.compression.llmlingua import installed, shortened
from experiments.compression.metrics import FULL, LLMLINGUA, NONE, RIGHT, SAME_LENGTH, Measured
from experiments.compression.report import CompressionReport


@dataclass(frozen=True)
class Compression:
    """Asks about a passage whose rows are compressed; the question's own rows stay as they are."""

    items: Sequence[Item]
    source: str
    """Where the items come from, for the report."""
    ways: Mapping[str, Mapping[str, Any] | None]
    """Name of a method -> options of ``compress`` besides the ratio; None leaves the method out. The first is the one
    in question."""
    controls: Sequence[str]
    """Names of the methods that any other should beat at equal length."""
    peer: str | None
    """Name of the method that the first is compared with item by item."""
    ratios: Sequence[float]
    llmlingua: bool
    """Whether LLMLingua's own package shortens the text too, and the first method compresses to the number of rows that
    it reaches."""
    answered_ratios: Sequence[float]
    """Ratios at which the model answers; at the others only the right answer's likelihood is computed."""

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The methods that are not left out."""
        return {method: dict(options) for method, options in self.ways.items() if options is not None}

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The whole passage, none, and every method at every ratio."""
        yield from self._cases(NONE, 0.0, partial(_prompt, space, with_text=False))
        yield from self._cases(FULL, 1.0, partial(_prompt, space))
        conditions = [(method, ratio) for method in self.chosen for ratio in self.ratios]
        # What is answered comes first, so that an engine can batch it.
        for method, ratio in sorted(conditions, key=lambda condition: not self._answers(*condition)):
            yield from self._cases(method, ratio, partial(_compressed, space, self.chosen[method], ratio))
        if self.llmlingua:
            yield from self._llmlingua(space)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each task, what each method keeps of the passage's gain."""
        title = "Compression of a passage"
        tasks = list(dict.fromkeys(map(task_of, self.items)))
        sections = []
        for task in tasks:
            own = [record for record in records if task_of(self.items[int(record.tags["passage"])]) == task]
            same_length = self.own if self.llmlingua else None
            report = CompressionReport(
                f"{title}: {task}" if len(tasks) > 1 else title,
                Measured.of(own, self.items, same_length),
                own,
                self.items,
                sum(task_of(item) == task for item in self.items),
                self.source,
                list(self.chosen),
                self.controls,
                self.peer,
                self.ratios,
                self.answered_ratios,
                same_length,
            )
            sections.append(report.section())
        return Report(title, "", sections)

    @property
    def own(self) -> str:
        """Name of the first method at the number of rows that the package keeps."""
        return f"{next(iter(self.chosen))} {SAME_LENGTH}"

    def _llmlingua(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The package's texts, and the first method at the number of rows that each has.

        Raises:
            ValueError: the package is not installed.
        """
        if not installed():
            raise ValueError(
                "experiment.llmlingua=true needs a package that is not installed: "
                "pip install 'embedspace[llmlingua]'"
            )
        first = next(iter(self.chosen.values()))
        for ratio in self.ratios:
            yield from self._cases(LLMLINGUA, ratio, partial(_llmlingua_prompt, space, ratio))
            yield from self._cases(self.own, ratio, partial(_of_same_length, space, first, ratio))

    def _cases(self, method: str, ratio: float, prompt_of: Callable[[Item], PromptEmbeds]) -> Iterator[Case]:
        for number, item in enumerate(self.items):
            yield Case(
                f"{method}/ratio={ratio:g}/p{number:03d}",
                partial(prompt_of, item),
                {"method": method, "ratio": ratio, "passage": number},
                {RIGHT: item["answer"]},
                self._answers(method, ratio),
                measured=_rows_tag,
            )

    def _answers(self, method: str, ratio: float) -> bool:
        return bool(self.answered_ratios) and (method in (FULL, NONE) or ratio in self.answered_ratios)


def _compressed(
    space: EmbeddingSpace,
    options: Mapping[str, Any],
    ratio: float | None,
    item: Item,
    length: int | None = None,
) -> PromptEmbeds:
    """The prompt with its passage compressed by one method's options; the model is loaded where they need it."""
    needs_model = options.get("information") == "surprisal"
    model: dict[str, Any] = {"engine": _engine(space.folder)} if needs_model else {"space": space}
    return compress(_prompt(space, item), ratio, length=length, **model, **options)


@cache
def _engine(folder: Path) -> TransformersEngine:
    return TransformersEngine(folder)


def _prompt(space: EmbeddingSpace, item: Item, *, with_text: bool = True) -> PromptEmbeds:
    """Passage, question and the answer's beginning, where only the passage's rows count as content."""
    messages = [{"role": "user", "content": item["question"]}]
    if with_text:
        messages.insert(0, {"role": "system", "content": item["text"]})
    prompt = space.embed_chat(messages)
    if item.get("beginning"):
        prompt = PromptEmbeds.concat([prompt, space.embed(item["beginning"])])
    return prompt.only_run(0) if with_text else prompt


def _llmlingua_prompt(space: EmbeddingSpace, ratio: float, item: Item) -> PromptEmbeds:
    """The prompt with what LLMLingua leaves of the text; were that nothing, with its first word."""
    text = shortened(space.folder, item["text"], ratio).strip() or item["text"].split()[0]
    return _prompt(space, {**item, "text": text})


def _of_same_length(
    space: EmbeddingSpace, options: Mapping[str, Any], ratio: float, item: Item
) -> PromptEmbeds:
    """The prompt compressed to as many rows as LLMLingua leaves of it, and no more than it has."""
    length = min(_rows(_prompt(space, item)), _rows(_llmlingua_prompt(space, ratio, item)))
    return _compressed(space, options, None, item, length)


def _rows_tag(prompt: Prompt) -> dict[str, Tag]:
    assert isinstance(prompt, PromptEmbeds)
    return {"rows": _rows(prompt)}


def _rows(prompt: PromptEmbeds) -> int:
    return int(prompt.content.sum())
