"""PrefixedPrompts: many user turns after one system message and the same examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.space.chat_template import (
    Message,
    Span,
    chat_recipe,
    check_messages,
    content_mask,
    render_with_spans,
)

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space.embedding_space import EmbeddingSpace
    from embedspace.space.tokenizer import Tokenizer

_PROBES = ("a", "1", " x", "\n\n.", "é")
"""User turns that have nothing in common; what their conversations have in common belongs to every one."""


@dataclass(frozen=True, eq=False)
class PrefixedPrompts:
    """Prompts that begin alike: system message, examples, and then a user's turn.

    Every prompt is one whole conversation through the chat template, never two templated pieces put
    together, and equals :meth:`EmbeddingSpace.embed_chat` of that conversation bit for bit, recipe
    included. The rows of the longest common token prefix are looked up once. Where that prefix holds a
    special token over which no tokens can merge, only what follows that token is tokenised again.

    Raises:
        TypeError: a system message or an example that is not made of strings.
        ValueError: an example that is not a pair, no chat template, or one that refuses the conversation.
    """

    space: EmbeddingSpace
    _: KW_ONLY
    system: str | None = None
    """System message; without one the template may put in its own."""
    few_shot: Sequence[tuple[str, str]] = ()
    """Examples: what a user said and what the assistant answered."""

    def __post_init__(self) -> None:
        for position, pair in enumerate(self.few_shot):
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(
                    f"few_shot[{position}] must be a pair (user's text, assistant's answer), got {pair!r:.80}"
                )
        check_messages(self.conversation("a user's turn"))
        _ = self._head

    def __call__(self, text: str) -> PromptEmbeds:
        """The prompt with this user turn; see :meth:`prompt`."""
        return self.prompt(text)

    @property
    def prefix(self) -> PromptEmbeds:
        """The rows with which the prompts begin: the longest token prefix that all conversations have in common.

        A user turn whose first characters merge with the template's last token shares a row or two less.

        Raises:
            ValueError: they have nothing in common.
        """
        return self.space.embed_chat(self.conversation(_PROBES[0])).first_rows(len(self._prefix[0]))

    def conversation(self, text: str) -> list[Message]:
        """The messages of the prompt with this user turn."""
        messages: list[Message] = []
        if self.system is not None:
            messages.append({"role": "system", "content": self.system})
        for user, assistant in self.few_shot:
            messages += [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
        return [*messages, {"role": "user", "content": text}]

    def prompt(self, text: str) -> PromptEmbeds:
        """The prompt with this user turn, ready for the model's answer.

        Raises:
            TypeError: the text is not a string.
            ValueError: the template rewrites or refuses it.
        """
        return next(self.many([text]))

    def many(self, texts: Iterable[str], *, batch_size: int = 256) -> Iterator[PromptEmbeds]:
        """The prompts with these user turns, in order, a batch at a time.

        Args:
            texts: read as they are needed.
            batch_size: how many are tokenised together; memory stays bounded by it.

        Raises:
            TypeError, ValueError: as :meth:`prompt`; the message names the text's position.
        """
        numbered = enumerate(texts)
        while batch := list(itertools.islice(numbered, batch_size)):
            turns = [self._turn(position, text) for position, text in batch]
            encoded = self.space.tokenizer.encode_batch([turn.text[turn.start :] for turn in turns])
            for turn, (ids, offsets) in zip(turns, encoded, strict=True):
                yield self._embedded(turn, ids, offsets)

    @cached_property
    def _prefix(self) -> tuple[list[int], Float[Tensor, "tokens hidden"], list[bool]]:
        """Token ids, rows and content mask that the conversations of all probes begin with."""
        rendered = [self._rendered(probe) for probe in _PROBES]
        encoded = self.space.tokenizer.encode_batch([text for text, _ in rendered])
        ids = encoded[0][0][: _alike([ids for ids, _ in encoded])]
        text, spans = rendered[0]
        return ids, self.space.lookup(ids), content_mask(text, spans, encoded[0][1][: len(ids)])

    @cached_property
    def _head(self) -> _Head:
        """What needs no second tokenisation."""
        rendered = [self._rendered(probe) for probe in _PROBES]
        text, spans = rendered[0]
        common = text[: _alike([text for text, _ in rendered])]
        ids, offsets = self.space.tokenizer.encode_with_offsets(text)
        tokens = _cut(self.space.tokenizer, common, ids[: len(self._prefix[0])], offsets)
        return _Head(text[: offsets[tokens][0]] if tokens else "", tokens, spans)

    def _turn(self, position: int, text: str) -> _Turn:
        try:
            if not isinstance(text, str):
                raise TypeError(f"a user turn must be a string, got a {type(text).__name__}")
            rendered, spans = self._rendered(text)
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {position}: {error}") from error
        start = len(self._head.text) if self._head.begins(rendered, spans) else 0
        return _Turn(rendered, spans, start, self._recipe(text))

    def _rendered(self, text: str) -> tuple[str, list[Span]]:
        def render(messages: Sequence[Message]) -> str:
            return self.space.tokenizer.render(messages, add_generation_prompt=True)

        return render_with_spans(render, self.conversation(text))

    def _recipe(self, text: str) -> Recipe:
        return chat_recipe(self.conversation(text), add_generation_prompt=True)

    def _embedded(self, turn: _Turn, ids: list[int], offsets: list[Span]) -> PromptEmbeds:
        known_ids, rows, known = self._prefix
        kept = self._head.tokens if turn.start else 0
        shifted = [(start + turn.start, stop + turn.start) for start, stop in offsets]
        content = torch.tensor([*known[:kept], *content_mask(turn.text, turn.spans, shifted)])
        alike = _alike([known_ids[kept:], ids])
        vectors = torch.cat([rows[: kept + alike], self.space.lookup(ids[alike:])])
        return PromptEmbeds(vectors, content, self.space.fingerprint, turn.recipe)


@dataclass(frozen=True)
class _Head:
    """The beginning of every conversation, up to the last special token before the user's turn."""

    text: str
    """Empty where no seam is safe."""
    tokens: int
    spans: Sequence[Span]
    """Where the messages' own text stands in a conversation that begins so."""

    def begins(self, text: str, spans: Sequence[Span]) -> bool:
        """Whether a conversation begins with this text, and the same parts of it are the messages' own."""
        return text.startswith(self.text) and self._own(spans) == self._own(self.spans)

    def _own(self, spans: Sequence[Span]) -> list[Span]:
        return [(start, min(stop, len(self.text))) for start, stop in spans if start < len(self.text)]


@dataclass(frozen=True)
class _Turn:
    """A whole conversation as text."""

    text: str
    spans: Sequence[Span]
    start: int
    """Characters that belong to the head and are tokenised already."""
    recipe: Recipe


def _cut(tokenizer: Tokenizer, common: str, ids: Sequence[int], offsets: Sequence[Span]) -> int:
    """Number of tokens before the last special token at which a text may be cut and tokenised in two parts.

    Special tokens are found before anything else, and what stands between two of them is normalised, split
    and merged by itself. So the parts before such a token and from it on can be tokenised apart, given
    that the token takes no white space from its neighbours, and that no longer added token may begin at or
    before it, whatever follows the text that is known.

    Args:
        tokenizer: of the model.
        common: the text that all conversations begin with.
        ids: of tokens of one of these conversations.
        offsets: theirs.
    """
    added = tokenizer.added_tokens
    for position in range(len(ids) - 1, 0, -1):
        token = added.get(ids[position])
        if token is None or token.normalized or token.lstrip or token.rstrip or token.single_word:
            continue
        start, stop = offsets[position]
        exact = common[start:stop] == token.content and not token.content[0].isspace()
        if exact and _decided(common, start, [other.content for other in added.values()]):
            return position
    return 0


def _decided(common: str, start: int, contents: Iterable[str]) -> bool:
    """Whether it is known of every added token if it begins at or before ``start``, whatever follows the text."""
    return not any(
        content.startswith(common[begin:])
        for content in contents
        for begin in range(max(0, len(common) - len(content) + 1), start + 1)
    )


def _alike(sequences: Sequence[Sequence[object]]) -> int:
    """Number of leading elements in which all sequences agree."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
