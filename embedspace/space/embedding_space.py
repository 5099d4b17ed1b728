"""EmbeddingSpace: the input embedding space of one language model."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch

from embedspace._util.forks import lock_across_forks
from embedspace._util.model_config import context_length
from embedspace.models import hub_id, local_folder
from embedspace.prompt import PromptEmbeds, Recipe, cache_key
from embedspace.space.conversation import (
    Conversation,
    MarkedConversation,
    Span,
    chat_recipe,
    check_messages,
    content_mask,
    text_recipe,
)
from embedspace.space.embedding_table import EmbeddingTable
from embedspace.space.fingerprint import cached_fingerprint
from embedspace.space.tokenizer import Tokenizer

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.prompt import PromptStore


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """Tokenizer and input embedding rows of one model, and never the rest of it.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> space.vocab_size, space.hidden_size, space.dtype
    (49152, 576, torch.bfloat16)
    """

    name: str
    """As the caller gave it."""
    folder: Path
    """Holds configuration, tokenizer and table; ``models.resolve`` returns the folder of its whole model."""
    tokenizer: Tokenizer
    table: EmbeddingTable
    fingerprint: str
    """Identity by content: hash of the whole table, the tokenizer and the chat template."""
    context_length: int | None
    """Most rows and new tokens together that the model has positions for, where its configuration says."""

    def __post_init__(self) -> None:
        register_space(self)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, table: str | None = None, revision: str | None = None
    ) -> EmbeddingSpace:
        """The space of a model.

        Args:
            name: packaged name, local folder or hub id. Of a hub model only configuration, tokenizer and
                the byte range of the table are downloaded, once; see
                :func:`embedspace.space.table_download.table_folder`.
            table: name of the table's tensor, where it has another one than its architecture's, or the architecture
                is not known here. It changes the name alone, not the scale of a known architecture; of one that is
                not known, the caller guarantees that its layers receive the rows unchanged.
            revision: branch, tag or commit of a hub model; its main branch by default.

        Raises:
            ValueError: unknown model or architecture, no configuration, tokenizer or table, or the hub's refusal.
            OSError: the cache folder cannot be written, or is full.
        """
        repository = hub_id(name)
        if repository is None:
            folder = local_folder(name, revision)
        else:
            from embedspace.space.table_download import table_folder

            folder = table_folder(repository, revision=revision, tensor=table)
        rows = EmbeddingTable.from_folder(folder, tensor=table)
        tokenizer, fingerprint = Tokenizer.from_folder(folder), cached_fingerprint(folder, rows)
        return cls(str(name), folder, tokenizer, rows, fingerprint, context_length(folder))

    def __repr__(self) -> str:
        return f"EmbeddingSpace({self.name!r}, {self.vocab_size} x {self.hidden_size}, {self.fingerprint})"

    @property
    def hidden_size(self) -> int:
        """Length of one row."""
        return self.table.rows.shape[1]

    @property
    def vocab_size(self) -> int:
        """Number of rows."""
        return self.table.rows.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the table as stored."""
        return self.table.rows.dtype

    @cached_property
    def mean(self) -> Float[Tensor, " hidden"]:
        """Mean row of the vocabulary, float32. Far from zero: similarities are taken after removing it."""
        total = sum(chunk.double().sum(dim=0) for chunk in self.table.chunks())
        return (torch.as_tensor(total) / self.vocab_size).float()

    @cached_property
    def norms(self) -> Float[Tensor, " vocabulary"]:
        """Euclidean norm of every row, float32."""
        return torch.cat([chunk.norm(dim=1) for chunk in self.table.chunks()])

    def tokenize(self, text: str) -> list[int]:
        """Token ids of plain text: no template, no special tokens around it."""
        return self.tokenizer.encode(text)

    def lookup(self, ids: Sequence[int]) -> Float[Tensor, "tokens hidden"]:
        """The model's own input embeddings of token ids.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> space.lookup(space.tokenize("Hello world")).shape
        torch.Size([2, 576])

        Raises:
            ValueError: an id outside the vocabulary.
        """
        ids = list(ids)
        for position, token in enumerate(ids):
            if not 0 <= token < self.vocab_size:
                raise ValueError(f"token id {token} at position {position} is not in [0, {self.vocab_size})")
        return self.table.lookup(ids)

    def embed(self, text: str) -> PromptEmbeds:
        """Embed plain text; every row is content.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> space.embed("Hello world").vectors.shape
        torch.Size([2, 576])

        Raises:
            ValueError: the text is empty.
        """
        ids = self.tokenize(_not_empty(text))
        return self._prompt([(self.lookup(ids), [True] * len(ids))], text_recipe(text))

    def embed_chat(self, messages: Conversation, add_generation_prompt: bool = True) -> PromptEmbeds:
        """Embed a conversation through the model's chat template; rows of message text are content.

        Rows may stand wherever text does: they are put in as they are, in the wider dtype of table and rows, and
        the text around them is tokenised in stretches.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> prompt = space.embed_chat([{"role": "user", "content": "Hello world"}])
        >>> len(prompt), int(prompt.content.sum())
        (32, 2)
        >>> same = space.embed_chat([{"role": "user", "content": ["Hello", space.embed(" world")]}])
        >>> bool((same.vectors == prompt.vectors).all())
        True

        Args:
            messages: ``{"role": ..., "content": ...}`` mappings. A content is text, a PromptEmbeds (of :meth:`embed`,
                of a projector, of an adapter), a SoftPrompt, or a list of text and those, which are joined as they
                are.
            add_generation_prompt: end with the header after which the model answers.

        Raises:
            TypeError: messages of another form.
            ValueError: no messages, no template, a template that rewrites the messages' text, or rows of another
                space or with a template of their own.
        """
        return next(self._embed_batch([self._render(messages, add_generation_prompt)], None))

    def chat_pieces(
        self, messages: Conversation, add_generation_prompt: bool = True
    ) -> list[list[int] | PromptEmbeds]:
        """A conversation in order: token ids of its text, and the rows that stand in it.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> rows = space.embed("Hello")
        >>> pieces = space.chat_pieces([{"role": "user", "content": rows}])
        >>> [len(piece) for piece in pieces], pieces[1] is rows
        ([24, 1, 6], True)

        Raises:
            TypeError, ValueError: as :meth:`embed_chat`.
        """
        pieces = self._render(messages, add_generation_prompt).pieces
        return [
            piece if isinstance(piece, PromptEmbeds) else self.tokenizer.encode(piece[0]) for piece in pieces
        ]

    def chat_ids(self, messages: Conversation, add_generation_prompt: bool = True) -> list[int]:
        """Token ids of a conversation through the chat template: the ordinary way to prompt the model."""
        check_messages(messages)
        return self.tokenizer.encode(
            self.tokenizer.render(messages, add_generation_prompt=add_generation_prompt)
        )

    def embed_many(
        self,
        items: Iterable[str | Conversation],
        *,
        batch_size: int = 256,
        cache: PromptStore | None = None,
    ) -> Iterator[PromptEmbeds]:
        """Embed texts and conversations, in order, a batch at a time.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> [len(prompt) for prompt in space.embed_many(["Hello", "Hello world"])]
        [1, 2]

        Args:
            items: strings as for :meth:`embed`, lists of messages (rows included) as for :meth:`embed_chat`.
            batch_size: how many are read and tokenised together; it bounds the memory.
            cache: stores the prompts on disk. Rows that it holds are not looked up again; texts are still
                tokenised, since the token ids are part of a prompt's key.

        Raises:
            ValueError: as :meth:`embed` and :meth:`embed_chat`; the message names the item.
        """
        numbered = enumerate(items)
        while batch := list(itertools.islice(numbered, batch_size)):
            yield from self._embed_batch([self._render_item(*item) for item in batch], cache)

    def nearest(
        self, vectors: Float[Tensor, "n hidden"], k: int = 5
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """The k vocabulary rows of highest cosine to each vector, both taken after removing the mean row.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> ids, cosines = space.nearest(space.embed(" cat").vectors, k=2)
        >>> [space.tokenizer.decode([token]) for token in ids[0].tolist()]
        [' cat', ' Cat']

        Returns:
            Token ids and cosines, best first.

        Raises:
            ValueError: vectors of another hidden size or not finite, or k outside [1, vocabulary].
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.hidden_size:
            raise ValueError(f"vectors must have shape [n, {self.hidden_size}], got {list(vectors.shape)}")
        if not bool(vectors.isfinite().all()):
            raise ValueError("vectors must be finite, got NaN or infinity")
        if not 1 <= k <= self.vocab_size:
            raise ValueError(f"k must be in [1, {self.vocab_size}], got {k}")
        queries = torch.nn.functional.normalize(vectors.detach().cpu().float() - self.mean, dim=1)
        best = queries.new_full((len(queries), k), -torch.inf)
        ids = torch.zeros(len(queries), k, dtype=torch.long)
        start = 0
        for chunk in self.table.chunks():
            cosines = queries @ torch.nn.functional.normalize(chunk - self.mean, dim=1).T
            candidates = torch.arange(start, start + len(chunk)).expand(len(queries), -1)
            best, order = torch.cat([best, cosines], dim=1).topk(k, dim=1)
            ids = torch.cat([ids, candidates], dim=1).gather(1, order)
            start += len(chunk)
        return ids, best

    def read(self, prompt: PromptEmbeds) -> str:
        """The text of the vocabulary rows nearest to a prompt's rows.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> space.read(space.embed("Hello world"))
        'Hello world'

        Raises:
            ValueError: the prompt lives in another space.
        """
        self.require(prompt)
        ids, _ = self.nearest(prompt.vectors, k=1)
        return self.tokenizer.decode(ids.flatten().tolist())

    def require(self, prompt: PromptEmbeds) -> None:
        """Raise ``ValueError`` unless a prompt lives in this space."""
        if prompt.space != self.fingerprint:
            raise ValueError(
                f"the prompt lives in the space {prompt.space}, not in that of {self.name!r} "
                f"({self.fingerprint}); embed it with this space"
            )

    def _render(self, messages: Conversation, add_generation_prompt: bool) -> _Rendered:
        marked = MarkedConversation.of(messages)
        for rows in marked.rows.values():
            self.require(rows)
        text, spans = self.tokenizer.render_with_spans(
            marked.messages, add_generation_prompt=add_generation_prompt
        )
        recipe = chat_recipe(marked.recipe_messages, add_generation_prompt, marked.recipe_inputs)
        return _Rendered(marked.split(text, spans), recipe)

    def _render_item(self, position: int, item: str | Conversation) -> _Rendered:
        try:
            if isinstance(item, str):
                return _Rendered([(_not_empty(item), None)], text_recipe(item))
            return self._render(item, add_generation_prompt=True)
        except (TypeError, ValueError) as error:
            raise type(error)(f"item {position}: {error}") from error

    def _embed_batch(
        self, rendered: Sequence[_Rendered], cache: PromptStore | None
    ) -> Iterator[PromptEmbeds]:
        texts = [piece[0] for one in rendered for piece in one.pieces if not isinstance(piece, PromptEmbeds)]
        unused = iter(self.tokenizer.encode_batch(texts))
        encoded = [
            [([], []) if isinstance(piece, PromptEmbeds) else next(unused) for piece in one.pieces]
            for one in rendered
        ]

        def embedded(number: int) -> PromptEmbeds:
            parts = []
            for piece, (ids, offsets) in zip(rendered[number].pieces, encoded[number], strict=True):
                if isinstance(piece, PromptEmbeds):
                    parts.append((piece.vectors.cpu(), piece.content.tolist()))
                else:
                    text, spans = piece
                    content = [True] * len(ids) if spans is None else content_mask(text, spans, offsets)
                    parts.append((self.lookup(ids), content))
            return self._prompt(parts, rendered[number].recipe)

        if cache is None:
            yield from map(embedded, range(len(rendered)))
        else:
            keys = [
                self._key([token for ids, _ in own for token in ids], one.recipe)
                for own, one in zip(encoded, rendered, strict=True)
            ]
            yield from cache.get_or_make(keys, embedded)

    def _key(self, ids: Sequence[int], recipe: Recipe) -> bytes:
        template = None if recipe.operation == "embed" else self.tokenizer.chat_template
        return cache_key(
            space=self.fingerprint, template=template, token_ids=ids, recipe=recipe, dtype=self.dtype
        )

    def _prompt(self, parts: Sequence[tuple[Tensor, Sequence[bool]]], recipe: Recipe) -> PromptEmbeds:
        """Rows, and which of them are content, one part after another."""
        if len(parts) == 1:
            vectors = parts[0][0]
        else:
            wider = functools.reduce(torch.promote_types, (rows.dtype for rows, _ in parts))
            vectors = torch.cat([rows.to(wider) for rows, _ in parts])
        content = [mark for _, marks in parts for mark in marks]
        return PromptEmbeds(vectors, torch.tensor(content), self.fingerprint, recipe)


@dataclass(frozen=True, eq=False)
class _Rendered:
    """What a prompt is embedded from."""

    pieces: Sequence[tuple[str, list[Span] | None] | PromptEmbeds]
    """Text with the spans of its content (None: all of it), and rows, in order."""
    recipe: Recipe


def _not_empty(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got a {type(text).__name__}; for messages use embed_chat")
    if not text:
        raise ValueError("text is empty; a prompt needs at least one token")
    return text


_SPACES: WeakSet[EmbeddingSpace] = WeakSet()
_LOCK = lock_across_forks()


def register_space(space: EmbeddingSpace) -> None:
    """Let :func:`resolve_space` find this space for as long as it is referenced."""
    with _LOCK:
        _SPACES.add(space)


def resolve_space(prompt: PromptEmbeds, given: EmbeddingSpace | None, purpose: str) -> EmbeddingSpace:
    """The space of a prompt: the one given, or a registered one with its fingerprint.

    Spaces with one fingerprint have the same table, tokenizer and template, and give the same numbers.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> resolve_space(space.embed("Hello"), None, "slerp needs the mean row").fingerprint == space.fingerprint
    True

    Args:
        prompt: whose space is wanted.
        given: the caller's ``space`` argument.
        purpose: what needs the space, for the error.

    Raises:
        ValueError: another space is given; or none is, and none with that fingerprint is registered.
    """
    space = given
    if space is None:
        with _LOCK:
            space = next((known for known in _SPACES if known.fingerprint == prompt.space), None)
    if space is None:
        raise ValueError(
            f"{purpose}, and no space with the prompt's fingerprint {prompt.space} is in use: pass the prompt's space="
        )
    space.require(prompt)
    return space
