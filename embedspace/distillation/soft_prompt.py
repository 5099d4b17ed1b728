"""SoftPrompt: a few rows that stand for the beginning of a conversation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace.distillation.folder import read_folder, soft_prompt_folder, write_folder
from embedspace.distillation.placement import find_rows, student_conversation
from embedspace.distillation.settings import Distillation
from embedspace.prompt import PromptEmbeds, Recipe, describe_nonfinite_rows, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import Conversation, EmbeddingSpace, Message


@dataclass(frozen=True, eq=False)
class SoftPrompt:
    """Rows that stand in place of a system prompt, of examples or of a document, with the same effect on the answers.

    A message's content may be a soft prompt wherever :meth:`EmbeddingSpace.embed_chat` takes text:
    ``[{"role": "system", "content": soft}, {"role": "user", "content": "..."}]``.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> soft = SoftPrompt(space.embed("Be brief.").vectors.float(), space.fingerprint)
    >>> prompt = space.embed_chat(soft.conversation("Why does bread rise?"))
    >>> len(soft), len(prompt)
    (3, 22)

    Raises:
        TypeError: ``vectors`` is not a float32 tensor.
        ValueError: ``vectors`` is not of shape ``[tokens, hidden]``, or not finite.
    """

    vectors: Float[Tensor, "tokens hidden"]
    """The rows, float32."""
    space: str
    """Fingerprint of the embedding space that they live in."""
    role: str = "system"
    """Of the message that they were learnt in."""
    origin: Mapping[str, Any] = field(default_factory=dict)
    """How they were made: model, messages, questions, settings, divergence before and after."""

    def __post_init__(self) -> None:
        if not isinstance(self.vectors, torch.Tensor) or self.vectors.dtype != torch.float32:
            kind = getattr(self.vectors, "dtype", type(self.vectors).__name__)
            raise TypeError(f"vectors must be a float32 tensor [tokens, hidden], got {kind}")
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise ValueError(
                f"vectors must have shape [tokens, hidden] with at least one row, got {list(self.vectors.shape)}"
            )
        if fault := describe_nonfinite_rows(self.vectors):
            raise ValueError(f"a soft prompt must be finite; {fault}")

    @classmethod
    def distill(
        cls,
        engine: TransformersEngine,
        messages: Conversation,
        questions: Sequence[str] | None = None,
        *,
        tokens: int = 16,
        settings: Distillation | None = None,
        checkpoint: str | Path | None = None,
    ) -> SoftPrompt:
        """Learn rows that do to the frozen model what the messages do (Askell et al. 2021; Lester et al. 2021).

        The teacher answers the questions after the messages. The rows start as the best of the untrained compressions
        to as many rows, and are changed by gradient until the next-token distributions along these answers are those
        that the teacher has.

        Args:
            engine: the frozen model, in process.
            messages: the beginning of a conversation: a system prompt, examples, a document. If it begins with a system
                message, the rows stand in one, otherwise at the beginning of the user's first.
            questions: what users ask there, at least two; 30 are a good number. None lets the model write its own and
                adds general ones.
            tokens: how many rows.
            settings: of the distillation; its ``seed`` decides the split and the order.
            checkpoint: a file in which the state is kept after each epoch; the same call goes on from it.

        Raises:
            TypeError: an engine without gradients, or questions that are no list of strings.
            ValueError: messages without content or of another space, at least as many tokens as they have rows, fewer
                than two questions, no question that the model wrote, a loss that is not finite, or a checkpoint of
                another distillation.
            EngineError: the device ran out of memory.
        """
        from embedspace.distillation.soft_rows import distill_rows

        found = distill_rows(
            engine,
            messages,
            questions,
            tokens,
            settings or Distillation(),
            None if checkpoint is None else Path(checkpoint),
        )
        return cls(found.rows, engine.space.fingerprint, found.role, found.origin)

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.vectors)

    def __repr__(self) -> str:
        return f"SoftPrompt({len(self)} rows, hidden {self.vectors.shape[1]}, {self.role}, {self.digest})"

    @cached_property
    def digest(self) -> str:
        """Content hash of the rows."""
        return tensor_digest(self.vectors)

    @property
    def prompt(self) -> PromptEmbeds:
        """The rows alone. They are not content: style, blends and compression leave them as they were learnt."""
        content = torch.zeros(len(self), dtype=torch.bool)
        recipe = Recipe.of("soft_prompt", {"vectors": self.digest})
        return PromptEmbeds(self.vectors, content, self.space, recipe)

    def conversation(self, question: str) -> list[Message]:
        """A conversation that begins with the rows, as they were learnt, and then asks a question.

        >>> soft = SoftPrompt(torch.zeros(2, 4), "a space", role="user")
        >>> [turn["role"] for turn in soft.conversation("Why?")], soft.conversation("Why?")[0]["content"][1]
        (['user'], 'Why?')
        """
        return student_conversation(self.role, self, question)

    def save(self, folder: str | Path) -> None:
        """Write a folder: ``soft_prompt.safetensors``, ``soft_prompt.json`` and a card, ``README.md``.

        The card and the JSON hold the messages and questions: what they say can be read by whoever gets the folder.
        """
        write_folder(Path(folder), self.vectors, self.space, self.role, self.origin)

    @classmethod
    def load(cls, folder: str | Path, space: EmbeddingSpace) -> SoftPrompt:
        """Read a folder that :meth:`save` wrote.

        Raises:
            ValueError: no such folder, a damaged one, or rows of another space.
        """
        vectors, role, origin = read_folder(Path(folder), space)
        return cls(vectors, space.fingerprint, role, origin)

    @classmethod
    def from_pretrained(
        cls, name: str | Path, space: EmbeddingSpace, *, revision: str | None = None
    ) -> SoftPrompt:
        """Read a soft prompt from a local folder or from the hub.

        Args:
            name: folder, or hub id.
            space: the space of the model that it was learnt for.
            revision: branch, tag or commit on the hub.

        Raises:
            ValueError: as :meth:`load`, or the hub's refusal.
        """
        return cls.load(soft_prompt_folder(name, revision), space)

    def push_to_hub(self, repository: str, *, private: bool = True, token: str | None = None) -> str:
        """Upload what :meth:`save` writes; needs a login (``hf auth login``) or a token.

        Args:
            repository: ``owner/name``; it is made if there is none.
            private: whether a repository that is made is private. The card holds the messages.
            token: of the hub.

        Returns:
            The address of the commit.
        """
        from embedspace.models import upload_folder

        return upload_folder(self.save, repository, what="a soft prompt", private=private, token=token)

    def to_peft(self, folder: str | Path, space: EmbeddingSpace) -> None:
        """Write a prompt-tuning adapter that ``peft`` loads.

        PEFT puts an adapter's rows before everything else. The adapter therefore holds the template's rows before the
        soft rows as well, and :meth:`ids_after` gives the token ids that belong after them.

        Raises:
            ValueError: another space.
        """
        from embedspace.prompt.peft import write_peft

        space.require(self.prompt)
        whole = space.embed_chat(self.conversation("?"))
        write_peft(Path(folder), whole.vectors[: find_rows(whole, self.vectors).stop], space)

    def ids_after(self, question: str, space: EmbeddingSpace) -> list[int]:
        """Token ids of the conversation after the soft rows, for a model that has them from :meth:`to_peft`.

        Raises:
            ValueError: another space.
        """
        pieces = space.chat_pieces(self.conversation(question))
        after = next(number for number, piece in enumerate(pieces) if isinstance(piece, PromptEmbeds)) + 1
        return [token for piece in pieces[after:] if isinstance(piece, list) for token in piece]
