"""Ways to shorten a passage inside of its prompt; question, template and the answer's beginning stay as they are."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.encoders import SentenceEncoder
from embedspace.prompt import Recipe
from embedspace.space import token_ids
from experiments.compression.items import Item
from experiments.compression.sentences import Ranking, cut, ranked, sentences_of

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine

PASSAGE = 0
"""The passage is the first of a prompt's messages: a system message, so that the question is a message of its own."""


@dataclass(frozen=True)
class Asked:
    """An item and its prompt."""

    space: EmbeddingSpace
    item: Item

    @cached_property
    def prompt(self) -> PromptEmbeds:
        """The whole passage, the question and the answer's beginning."""
        return self.with_text(self.item["text"])

    def with_text(self, text: str | None) -> PromptEmbeds:
        """The prompt with another text in place of the passage, or with none."""
        messages = [{"role": "user", "content": self.item["question"]}]
        if text is not None:
            messages.insert(PASSAGE, {"role": "system", "content": text})
        prompt = self.space.embed_chat(messages)
        if beginning := self.item.get("beginning"):
            prompt = PromptEmbeds.concat([prompt, self.space.embed(beginning, special_tokens=False)])
        return prompt

    def length(self, ratio: float) -> int:
        """Rows that a compression ratio leaves of the passage."""
        return math.ceil(passage_rows(self.prompt) / ratio)


def passage_rows(prompt: PromptEmbeds) -> int:
    """Rows that a prompt has of its passage."""
    run = prompt.content_runs[PASSAGE]
    return int(run.stop - run.start)


def passage_text(space: EmbeddingSpace, prompt: PromptEmbeds) -> str:
    """What a prompt's passage reads as, row by row."""
    rows = prompt.vectors[prompt.content_runs[PASSAGE]]
    return space.tokenizer.decode(token_ids(space, rows).tolist())


class Way(Protocol):
    """Shortens the passage of a prompt."""

    def __call__(self, asked: Asked, ratio: float) -> PromptEmbeds:
        """The prompt with at most as many rows of the passage as the ratio leaves, rounded up."""
        ...


@dataclass(frozen=True)
class Compressed:
    """``compress`` with options; where these need a model, it is the one that answers."""

    options: Mapping[str, Any] = field(default_factory=dict)
    query: bool = False
    """Whether it knows the question."""
    encoder: bool = False
    """Whether it compares whole sentences with the question too."""
    keep: bool = False
    """Whether it is told the words of the right answer, which is the most that ``keep`` can bring; they are left out
    where they would take more than half of the rows, or do not fit."""

    def __call__(self, asked: Asked, ratio: float) -> PromptEmbeds:
        """See :class:`Way`."""
        options = {"space": asked.space, "only": PASSAGE, **self.options}
        if options.get("information") in ("surprisal", "attention"):
            options["engine"] = _engine(asked.space.folder)
        if self.query:
            options["query"] = asked.item["question"]
        if self.encoder:
            options["encoder"] = SentenceEncoder()
        strings = list(asked.item.get("strings", ())) if self.keep else []
        if strings and 2 * len(asked.space.tokenize(" ".join(strings))) <= asked.length(ratio):
            with suppress(ValueError):  # the words that they stand in need more rows than the ratio leaves
                return compress(asked.prompt, ratio, keep=strings, **options)
        return compress(asked.prompt, ratio, **options)


@cache
def _engine(folder: Path) -> TransformersEngine:
    from embedspace.engines import TransformersEngine

    return TransformersEngine(folder)


@dataclass(frozen=True)
class Sentences:
    """Sentences of the text, chosen for the question and cut to as many tokens; the model reads them as text."""

    by: Ranking

    def __call__(self, asked: Asked, ratio: float) -> PromptEmbeds:
        """See :class:`Way`."""
        sentences = sentences_of(asked.item["text"])
        text = cut(
            asked.space, sentences, ranked(sentences, asked.item["question"], self.by), asked.length(ratio)
        )
        return asked.with_text(text.strip() or asked.item["text"].split()[0])


@dataclass(frozen=True)
class Rarity:
    """The words whose tokens have the highest numbers in the vocabulary, which is in order of frequency."""

    def __call__(self, asked: Asked, ratio: float) -> PromptEmbeds:
        """See :class:`Way`."""
        runs = asked.prompt.content_runs
        own = asked.prompt.vectors[runs[PASSAGE]]
        words = _words(asked.space, token_ids(asked.space, own).tolist())
        room, kept = asked.length(ratio), set[int]()
        for rows in sorted(words, key=lambda rows: -sum(rows.values()) / len(rows)):
            if len(rows) <= room - len(kept):
                kept |= rows.keys()
        kept = kept or {*min(words, key=len)}
        pieces = [own[sorted(kept)], *(asked.prompt.vectors[run] for run in runs[PASSAGE + 1 :])]
        recipe = Recipe.of("rarest_words", {"rows": " ".join(map(str, sorted(kept)))}, asked.prompt.recipe)
        return asked.prompt.with_runs(pieces, recipe)


def _words(space: EmbeddingSpace, ids: list[int]) -> list[dict[int, float]]:
    """For each word its rows and their rarity; a word begins at white space, and at a sign or after one."""
    words: list[dict[int, float]] = []
    inside = False
    for row, number in enumerate(ids):
        text = space.tokenizer.decode([number])
        if not (inside and _inner(text[:1])):
            words.append({})
        words[-1][row] = math.log1p(number)
        inside = _inner(text[-1:])
    return words


def _inner(character: str) -> bool:
    """Whether a character, or a piece of one, may stand inside of a word."""
    return character == "\ufffd" or character.isalnum()
