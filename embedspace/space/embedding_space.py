"""EmbeddingSpace: the input embedding space of one language model."""

from __future__ import annotations

import functools
import itertools
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING
from weakref import WeakSet

import torch

from embedspace._util.forks import lock_across_forks
from embedspace._util.model_config import context_length
from embedspace.models import hub_id, local_folder
from embedspace.prompt import PromptEmbeds, Recipe, cache_key
from embedspace.space.conversation import Conversation, check_messages
from embedspace.space.embedding_table import EmbeddingTable
from embedspace.space.fingerprint import cached_fingerprint
from embedspace.space.rendered_prompt import (
    ChatOptions,
    RenderedPrompt,
    Tokens,
    encode,
    render_chat,
    rendered_text,
)
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
    template: Mapping[str, object] = field(default_factory=dict)
    """Variables of the chat template for every conversation of this space."""

    def __post_init__(self) -> None:
        register_space(self)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        *,
        table: str | None = None,
        revision: str | None = None,
        template: Mapping[str, object] | None = None,
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
            template: variables of the chat template for every conversation, as in :meth:`embed_chat`.

        Raises:
            TypeError: a variable of the template that JSON cannot hold.
            ValueError: unknown model or architecture, no configuration, tokenizer or table, the hub's refusal, or a
                variable that the template does not read.
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
        if template:
            tokenizer.template_values(template)
        variables = dict(template or {})
        return cls(str(name), folder, tokenizer, rows, fingerprint, context_length(folder), variables)

    def __reduce__(self) -> tuple[Callable[..., EmbeddingSpace], tuple[object, ...]]:
        """Another process opens the model's folder for itself: a pickle holds neither table nor tokenizer.

        Reading it raises ``ValueError`` where the folder is not there, or has another table or tokenizer by now.
        """
        rest = (self.fingerprint, self.context_length, self.template)
        if self.table.tensor is None:
            return type(self), (self.name, self.folder, self.tokenizer, self.table, *rest)
        return _reopened, (self.name, self.folder, self.table, *rest)

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

    def tokenize(self, text: str, *, special_tokens: bool = False) -> list[int]:
        """Token ids of plain text: no template, and special tokens around it only where they are asked for."""
        ids = self.tokenizer.encode(text)
        return [*self.tokenizer.before, *ids, *self.tokenizer.after] if special_tokens else ids

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

    def embed(self, text: str, special_tokens: bool | None = None) -> PromptEmbeds:
        """Embed plain text; every row of it is content.

        >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
        >>> space.embed("Hello world").vectors.shape
        torch.Size([2, 576])

        Args:
            text: not empty.
            special_tokens: put the special tokens around the text that the model's tokenizer puts there, such as
                ``<bos>``, without which many base models write rubbish. Their rows are template rows: no content.
                ``False`` leaves them out, as for rows that go into a message; ``None`` does so too, and warns once
                where there are any.

        Raises:
            ValueError: the text is empty.
        """
        return next(self._embed_batch([self._plain(text, special_tokens)], None))

    def embed_chat(
        self,
        messages: Conversation,
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        template: Mapping[str, object] | None = None,
    ) -> PromptEmbeds:
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
        >>> begun = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Good day, my"}]
        >>> space.read(space.embed_chat(begun, continue_final_message=True))[-22:]
        'assistant\\nGood day, my'

        Args:
            messages: ``{"role": ..., "content": ...}`` mappings. A content is text, a PromptEmbeds (of :meth:`embed`,
                of a projector, of an adapter), a SoftPrompt, or a list of text and those, which are joined as they
                are.
            add_generation_prompt: end with the header after which the model answers.
            continue_final_message: end with the text of the last message, the assistant's, which the model goes on
                with; no header is added then.
            template: the template's own variables by name, such as ``{"enable_thinking": False}``, ``tools``,
                ``documents`` or ``date_string``; they go before those of the space. ``{"strftime_now": "2026-07-12"}``
                sets the clock of templates that read it, which otherwise is read once in a run or process. The
                recipe keeps all of these.

        Raises:
            TypeError: messages of another form, or a variable that JSON cannot hold.
            ValueError: no messages, no template, a template that rewrites the messages' text, leaves out a message or
                does not read a variable, rows of another space or with a template of their own, or a last message
                that cannot be continued.
        """
        options = ChatOptions(add_generation_prompt, continue_final_message, template)
        return next(self._embed_batch([self._render(messages, options)], None))

    def chat_pieces(
        self,
        messages: Conversation,
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        template: Mapping[str, object] | None = None,
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
        options = ChatOptions(add_generation_prompt, continue_final_message, template)
        [encoded] = encode(self.tokenizer, [self._render(messages, options)])
        return [piece if isinstance(piece, PromptEmbeds) else piece.ids for piece in encoded]

    def chat_ids(
        self,
        messages: Conversation,
        add_generation_prompt: bool = True,
        *,
        continue_final_message: bool = False,
        template: Mapping[str, object] | None = None,
    ) -> list[int]:
        """Token ids of a conversation through the chat template: the ordinary way to prompt the model.

        Raises:
            TypeError, ValueError: as :meth:`embed_chat`; the template may rewrite the messages' text.
        """
        check_messages(messages)
        values = self.tokenizer.template_values(self.template, template)
        return self.tokenizer.encode(
            self.tokenizer.render(
                messages,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=continue_final_message,
                values=values,
            )
        )

    def embed_many(
        self,
        items: Iterable[str | Conversation],
        *,
        batch_size: int = 256,
        cache: PromptStore | None = None,
        special_tokens: bool | None = None,
        template: Mapping[str, object] | None = None,
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
            special_tokens: of strings, as for :meth:`embed`.
            template: of conversations, as for :meth:`embed_chat`.

        Raises:
            ValueError: as :meth:`embed` and :meth:`embed_chat`; the message names the item.
        """
        options = ChatOptions(template=template)

        def rendered(position: int, item: str | Conversation) -> RenderedPrompt:
            try:
                return (
                    self._plain(item, special_tokens)
                    if isinstance(item, str)
                    else self._render(item, options)
                )
            except (TypeError, ValueError) as error:
                raise type(error)(f"item {position}: {error}") from error

        numbered = enumerate(items)
        while batch := list(itertools.islice(numbered, batch_size)):
            yield from self._embed_batch([rendered(*item) for item in batch], cache)

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

    def _render(self, messages: Conversation, options: ChatOptions) -> RenderedPrompt:
        rendered = render_chat(self.tokenizer, messages, options, self.template)
        for rows in rendered.rows:
            self.require(rows)
        return rendered

    def _plain(self, text: str, special_tokens: bool | None) -> RenderedPrompt:
        if special_tokens is None and (self.tokenizer.before or self.tokenizer.after):
            _warn_of_special_tokens(self)
        return rendered_text(text, bool(special_tokens))

    def _embed_batch(
        self, rendered: Sequence[RenderedPrompt], cache: PromptStore | None
    ) -> Iterator[PromptEmbeds]:
        encoded = encode(self.tokenizer, rendered)

        def embedded(number: int) -> PromptEmbeds:
            parts = [
                (piece.vectors.cpu(), piece.content.tolist())
                if isinstance(piece, PromptEmbeds)
                else (self.lookup(piece.ids), piece.content)
                for piece in encoded[number]
            ]
            return self._prompt(parts, rendered[number].recipe)

        if cache is None:
            yield from map(embedded, range(len(rendered)))
        else:
            keys = [
                self._key(
                    [token for piece in own if isinstance(piece, Tokens) for token in piece.ids], one.recipe
                )
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


def _reopened(
    name: str,
    folder: Path,
    table: EmbeddingTable,
    fingerprint: str,
    length: int | None,
    template: Mapping[str, object],
) -> EmbeddingSpace:
    found = cached_fingerprint(folder, table)
    if found != fingerprint:
        raise ValueError(
            f"the pickled space {name!r} was {fingerprint}, and {folder} holds {found} now: table, tokenizer or "
            "template changed. Load the space again with EmbeddingSpace.from_pretrained"
        )
    return EmbeddingSpace(name, folder, Tokenizer.from_folder(folder), table, fingerprint, length, template)


_WARNED: set[str] = set()


def _warn_of_special_tokens(space: EmbeddingSpace) -> None:
    """Once for each space of a process."""
    if space.fingerprint in _WARNED:
        return
    _WARNED.add(space.fingerprint)
    tokenizer = space.tokenizer
    around = [tokenizer.decode([token]) for token in (*tokenizer.before, *tokenizer.after)]
    warnings.warn(
        f"embed(text) leaves out the special tokens {' '.join(around)} that the tokenizer of {space.name!r} puts "
        "around a text. Pass special_tokens=True for a whole prompt, which models usually need, or "
        "special_tokens=False for rows that become part of a message or of another prompt",
        stacklevel=4,
    )


_SPACES: WeakSet[EmbeddingSpace] = WeakSet()
_LOCK = lock_across_forks()


def register_space(space: EmbeddingSpace) -> None:
    """Let :func:`resolve_space` find this space for as long as it is referenced."""
    with _LOCK:
        _SPACES.add(space)


def find_space(fingerprint: str) -> EmbeddingSpace | None:
    """A registered space with a fingerprint.

    >>> find_space("no such fingerprint")
    """
    with _LOCK:
        return next((known for known in _SPACES if known.fingerprint == fingerprint), None)


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
    space = find_space(prompt.space) if given is None else given
    if space is None:
        raise ValueError(
            f"{purpose}, and no space with the prompt's fingerprint {prompt.space} is in use: pass the prompt's space="
        )
    space.require(prompt)
    return space
