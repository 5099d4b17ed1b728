"""EmbeddingSpace: the input embedding space of one language model."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds

import hashlib
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace._util.files import read_cached_json, write_cached_json
from embedspace.models import cache_folder, hub_id, local_folder
from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.space.chat_template import (
    Message,
    chat_recipe,
    check_messages,
    content_mask,
    render_with_spans,
)
from embedspace.space.table import EmbeddingTable, read_config
from embedspace.space.tokenizer import Tokenizer, tokenizer_digest

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.prompt import PromptStore

Conversation = Sequence[Message]


@dataclass(frozen=True, eq=False)
class EmbeddingSpace:
    """Tokenizer and input embedding rows of one model, and never the rest of it."""

    name: str
    """As it was asked for."""
    folder: Path
    """Holds configuration, tokenizer and table; ``models.resolve`` makes the whole model's folder of it."""
    tokenizer: Tokenizer
    table: EmbeddingTable
    fingerprint: str
    """Identity by content: hash of the whole table, the tokenizer and the chat template."""
    context_length: int | None
    """Most rows and new tokens together that the model has positions for, where its configuration says."""

    def __post_init__(self) -> None:
        remember(self)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, table: str | None = None, revision: str | None = None
    ) -> EmbeddingSpace:
        """The space of a model.

        Args:
            name: packaged name, local folder or hub id. Of a hub model only configuration, tokenizer and
                the byte range of the table are fetched, once; see
                :func:`embedspace.space.hub_table.table_folder`.
            table: name of the table's tensor, for an architecture that is not known here: vouches that
                the model's layers receive these rows unchanged.
            revision: branch, tag or commit of a hub model; its main branch by default.

        Raises:
            ValueError: unknown model, a folder without configuration, tokenizer or table, a hub that does
                not give them, or an architecture that nobody has vouched for.
            OSError: the cache folder cannot be written, or is full.
        """
        repository = hub_id(name)
        if repository is None:
            folder = local_folder(name, revision)
        else:
            from embedspace.space.hub_table import table_folder

            folder = table_folder(repository, revision=revision, tensor=table)
        rows = EmbeddingTable.from_folder(folder, tensor=table)
        length = read_config(folder).get("max_position_embeddings")
        return cls(str(name), folder, Tokenizer.from_folder(folder), rows, _fingerprint(folder, rows), length)

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

        Raises:
            ValueError: the text is empty.
        """
        ids = self.tokenize(_not_empty(text))
        return self._prompt(ids, [True] * len(ids), Recipe.of("embed", {"text": text}))

    def embed_chat(self, messages: Conversation, add_generation_prompt: bool = True) -> PromptEmbeds:
        """Embed a conversation through the model's chat template; rows of message text are content.

        Args:
            messages: ``{"role": ..., "content": ...}`` mappings with string contents.
            add_generation_prompt: end with the header after which the model answers.

        Raises:
            TypeError: messages of another form.
            ValueError: no messages, no template, or a template that rewrites the messages' text.
        """
        text, spans, recipe = self._rendered(messages, add_generation_prompt)
        ids, offsets = self.tokenizer.encode_with_offsets(text)
        return self._prompt(ids, content_mask(text, spans, offsets), recipe)

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

        Args:
            items: strings as for :meth:`embed`, lists of messages as for :meth:`embed_chat`.
            batch_size: how many are read and tokenised together; memory stays bounded by it.
            cache: keeps the prompts on disk. What it holds is not looked up again; texts are tokenised all the
                same, since the token ids are part of what a prompt is kept under.

        Raises:
            ValueError: as :meth:`embed` and :meth:`embed_chat`; the message names the item.
        """
        numbered = enumerate(items)
        while batch := list(itertools.islice(numbered, batch_size)):
            yield from self._embed_batch(batch, cache)

    def nearest(
        self, vectors: Float[Tensor, "n hidden"], k: int = 5
    ) -> tuple[Int[Tensor, "n k"], Float[Tensor, "n k"]]:
        """The k vocabulary rows of highest cosine to each vector, both taken after removing the mean row.

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

    def _rendered(
        self, messages: Conversation, add_generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]], Recipe]:
        check_messages(messages)

        def render(conversation: Conversation) -> str:
            return self.tokenizer.render(conversation, add_generation_prompt=add_generation_prompt)

        text, spans = render_with_spans(render, messages)
        return text, spans, chat_recipe(messages, add_generation_prompt)

    def _embed_batch(
        self, batch: Sequence[tuple[int, str | Conversation]], cache: PromptStore | None
    ) -> Iterator[PromptEmbeds]:
        prepared = []
        for position, item in batch:
            try:
                if isinstance(item, str):
                    text = _not_empty(item)
                    prepared.append((text, [(0, len(text))], Recipe.of("embed", {"text": text})))
                else:
                    prepared.append(self._rendered(item, add_generation_prompt=True))
            except (TypeError, ValueError) as error:
                raise type(error)(f"item {position}: {error}") from error
        encoded = self.tokenizer.encode_batch([text for text, _, _ in prepared])

        def made(number: int) -> PromptEmbeds:
            (text, spans, recipe), (ids, offsets) = prepared[number], encoded[number]
            plain = recipe.operation == "embed"
            content = [True] * len(ids) if plain else content_mask(text, spans, offsets)
            return self._prompt(ids, content, recipe)

        if cache is None:
            yield from map(made, range(len(batch)))
        else:
            recipes = [recipe for _, _, recipe in prepared]
            keys = [self._key(ids, recipe) for (ids, _), recipe in zip(encoded, recipes, strict=True)]
            yield from cache.get_or_make(keys, made)

    def _key(self, ids: Sequence[int], recipe: Recipe) -> bytes:
        from embedspace.prompt import cache_key

        template = None if recipe.operation == "embed" else self.tokenizer.chat_template
        return cache_key(
            space=self.fingerprint, template=template, token_ids=ids, recipe=recipe, dtype=self.dtype
        )

    def _prompt(self, ids: Sequence[int], content: Sequence[bool], recipe: Recipe) -> PromptEmbeds:
        return PromptEmbeds(self.lookup(ids), torch.tensor(content), self.fingerprint, recipe)


def _not_empty(text: str) -> str:
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got a {type(text).__name__}; for messages use embed_chat")
    if not text:
        raise ValueError("text is empty; a prompt needs at least one token")
    return text


def _fingerprint(folder: Path, table: EmbeddingTable) -> str:
    """Hash of the whole table, tokenizer and template; remembered by the identity of the files."""
    stat = table.path.stat()
    tokenizer = tokenizer_digest(folder)
    identity: Mapping[str, object] = {
        "path": str(table.path.resolve()),
        "file": [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns],
        "table": [list(table.rows.shape), str(table.rows.dtype), table.rows.storage_offset(), table.scale],
        "tokenizer": tokenizer.hex(),
    }
    key = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
    path = cache_folder() / "fingerprints" / f"{key}.json"
    memo = read_cached_json(path)
    if memo is not None:
        return str(memo["fingerprint"])
    fingerprint = content_fingerprint(folder, table)
    write_cached_json(path, {"fingerprint": fingerprint})
    return fingerprint


def content_fingerprint(folder: Path, table: EmbeddingTable) -> str:
    """The fingerprint computed from every byte, whatever is remembered."""
    return hashlib.blake2b(table.digest() + tokenizer_digest(folder), digest_size=16).hexdigest()


_SPACES: WeakSet[EmbeddingSpace] = WeakSet()
_LOCK = Lock()


def remember(space: EmbeddingSpace) -> None:
    """Let prompts find this space for as long as somebody holds it."""
    with _LOCK:
        _SPACES.add(space)


def space_of(prompt: PromptEmbeds, given: EmbeddingSpace | None, why: str) -> EmbeddingSpace:
    """The space that a prompt lives in: the one given, or one in use that has its fingerprint.

    A fingerprint is the content of table, tokenizer and template: any space that has it gives the same numbers.

    Args:
        prompt: whose space is wanted.
        given: what the caller was told, if anything.
        why: what needs the space, for the error.

    Raises:
        ValueError: another space is given; or none is, and none with that fingerprint is in use.
    """
    space = given
    if space is None:
        with _LOCK:
            space = next((known for known in _SPACES if known.fingerprint == prompt.space), None)
    if space is None:
        raise ValueError(
            f"{why}, and no space with the prompt's fingerprint {prompt.space} is in use: pass the prompt's space="
        )
    space.require(prompt)
    return space
