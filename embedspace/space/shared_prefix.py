"""PrefixedPrompts: many user turns after the same system message and examples."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.space.conversation import Message, Span, chat_recipe, check_messages
from embedspace.space.message_spans import content_mask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space.embedding_space import EmbeddingSpace
    from embedspace.space.tokenizer import Tokenizer

_PROBES = ("a", "1", " x", "\n\n.", "é")
"""User turns with no common prefix: the common prefix of their conversations is that of all conversations."""


@dataclass(frozen=True, eq=False)
class PrefixedPrompts:
    """Prompts with a common prefix: system message, examples, and then a user's turn.

    Every prompt is one whole conversation through the chat template, never two templated pieces put
    together, and equals :meth:`EmbeddingSpace.embed_chat` of that conversation bit for bit, recipe
    included. The rows of the longest common token prefix are looked up once. If that prefix holds a
    special token across which no tokens can merge, only the text from that token on is tokenised again.

    >>> from embedspace.space import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompts = PrefixedPrompts(space, system="Answer in one word.", few_shot=[("2 + 2?", "4")])
    >>> len(prompts.prefix), len(prompts("And 3 + 3?"))
    (29, 43)

    Raises:
        TypeError: a system message or an example that is not of strings.
        ValueError: an example that is not a pair, no chat template, or one that refuses the conversation or does not
            read a variable.
    """

    space: EmbeddingSpace
    _: KW_ONLY
    system: str | None = None
    """System message; without one the template may put in its own."""
    few_shot: Sequence[tuple[str, str]] = ()
    """Examples: pairs of a user's message and the assistant's answer."""
    template: Mapping[str, object] | None = None
    """Variables of the chat template, as in :meth:`EmbeddingSpace.embed_chat`."""

    def __post_init__(self) -> None:
        for position, pair in enumerate(self.few_shot):
            if isinstance(pair, str) or len(pair) != 2:
                raise ValueError(
                    f"few_shot[{position}] must be a pair (user's text, assistant's answer), got {pair!r:.80}"
                )
        check_messages(self.conversation("a user's turn"))
        _ = self._common

    def __call__(self, text: str) -> PromptEmbeds:
        """The prompt with this user turn; see :meth:`prompt`."""
        return self.prompt(text)

    @property
    def prefix(self) -> PromptEmbeds:
        """The longest token prefix that all conversations have in common.

        A user turn whose first characters merge with the template's last token shares a row or two less.

        Raises:
            ValueError: they have no common prefix.
        """
        whole = self.space.embed_chat(self.conversation(_PROBES[0]), template=self.template)
        return whole.first_rows(len(self._common.ids))

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
            texts: consumed lazily.
            batch_size: how many are tokenised together; it bounds the memory.

        Raises:
            TypeError, ValueError: as :meth:`prompt`; the message names the text's position.
        """
        numbered = enumerate(texts)
        while batch := list(itertools.islice(numbered, batch_size)):
            turns = [self._turn(position, text) for position, text in batch]
            encoded = self.space.tokenizer.encode_batch([turn.text[turn.start :] for turn in turns])
            for turn, (ids, offsets) in zip(turns, encoded, strict=True):
                yield self._embed(turn, ids, offsets)

    @cached_property
    def _common(self) -> _CommonPrefix:
        rendered = [self._render(probe) for probe in _PROBES]
        encoded = self.space.tokenizer.encode_batch([text for text, _, _ in rendered])
        (text, spans, _), (ids, offsets) = rendered[0], encoded[0]
        ids = ids[: _common_length([ids for ids, _ in encoded])]
        common = text[: _common_length([text for text, _, _ in rendered])]
        kept = _split_position(self.space.tokenizer, common, ids, offsets)
        content = content_mask(text, spans, offsets[: len(ids)])
        return _CommonPrefix(
            ids, self.space.lookup(ids), content, text[: offsets[kept][0]] if kept else "", kept, spans
        )

    def _turn(self, position: int, text: str) -> _Turn:
        try:
            if not isinstance(text, str):
                raise TypeError(f"a user turn must be a string, got a {type(text).__name__}")
            rendered, spans, recipe = self._render(text)
        except (TypeError, ValueError) as error:
            raise type(error)(f"text {position}: {error}") from error
        start = len(self._common.text) if self._common.begins(rendered, spans) else 0
        return _Turn(rendered, spans, start, recipe)

    def _render(self, text: str) -> tuple[str, list[Span], Recipe]:
        tokenizer, messages = self.space.tokenizer, self.conversation(text)
        values = tokenizer.template_values(self.space.template, self.template)
        rendered, spans = tokenizer.render_with_spans(messages, values=values)
        return rendered, spans, chat_recipe(messages, template=values.recorded)

    def _embed(self, turn: _Turn, ids: list[int], offsets: list[Span]) -> PromptEmbeds:
        common = self._common
        kept = common.kept if turn.start else 0
        shifted = [(first + turn.start, stop + turn.start) for first, stop in offsets]
        content = torch.tensor([*common.content[:kept], *content_mask(turn.text, turn.spans, shifted)])
        shared = _common_length([common.ids[kept:], ids])
        vectors = torch.cat([common.rows[: kept + shared], self.space.lookup(ids[shared:])])
        return PromptEmbeds(vectors, content, self.space.fingerprint, turn.recipe)


@dataclass(frozen=True, eq=False)
class _CommonPrefix:
    """What all conversations begin with."""

    ids: list[int]
    """The longest common token prefix."""
    rows: Float[Tensor, "tokens hidden"]
    content: list[bool]
    text: str
    """Not tokenised again: up to the last special token at which the text may be split, empty if there is none."""
    kept: int
    """Tokens of this text."""
    spans: Sequence[Span]
    """Where the messages' own text stands in one of the conversations."""

    def begins(self, text: str, spans: Sequence[Span]) -> bool:
        """Whether a conversation begins with this text, and the same parts of it are the messages' own."""
        return text.startswith(self.text) and self._clip(spans) == self._clip(self.spans)

    def _clip(self, spans: Sequence[Span]) -> list[Span]:
        return [(start, min(stop, len(self.text))) for start, stop in spans if start < len(self.text)]


@dataclass(frozen=True)
class _Turn:
    """A whole conversation as text."""

    text: str
    spans: Sequence[Span]
    start: int
    """Number of characters at its beginning that are tokenised already."""
    recipe: Recipe


def _split_position(tokenizer: Tokenizer, common: str, ids: Sequence[int], offsets: Sequence[Span]) -> int:
    """Number of tokens before the last special token at which a text may be split and tokenised in two parts.

    Special tokens are found before anything else, and the text between two of them is normalised, split
    and merged by itself. So the parts before such a token and from it on can be tokenised separately, provided
    that the token strips no white space from its neighbours, and that no longer added token can begin at or
    before it, whatever follows the common text.

    Args:
        tokenizer: of the model.
        common: the text that all conversations begin with.
        ids: of tokens of one of these conversations.
        offsets: theirs.
    """
    added = tokenizer.added_tokens
    contents = [token.content for token in added.values()]
    for position in range(len(ids) - 1, 0, -1):
        token = added.get(ids[position])
        if token is None or token.normalized or token.lstrip or token.rstrip or token.single_word:
            continue
        start, stop = offsets[position]
        verbatim = common[start:stop] == token.content and not token.content[0].isspace()
        if verbatim and not _may_begin(contents, common, start):
            return position
    return 0


def _may_begin(contents: Iterable[str], common: str, start: int) -> bool:
    """Whether an added token could begin at or before ``start`` and end beyond the common text."""
    return any(
        content.startswith(common[begin:])
        for content in contents
        for begin in range(max(0, len(common) - len(content) + 1), start + 1)
    )


def _common_length(sequences: Sequence[Sequence[object]]) -> int:
    """Length of the longest common prefix."""
    columns = zip(*sequences, strict=False)
    return sum(1 for _ in itertools.takewhile(lambda column: len(set(column)) == 1, columns))
