"""The rows that the distillation experiment compares: distilled ones, stored on disk, and controls of as many rows."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NotRequired, TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, SoftPrompt
from embedspace.compression import Method
from embedspace.distillation import (
    Distillation,
    full_conversation,
    messages_content,
    start_rows,
    student_conversation,
)
from embedspace.engines import TransformersEngine
from embedspace.metrics import random_rows
from embedspace.models import cache_folder

_FORMAT = 1
"""Raised when the distillation changes, so that stored rows are learnt anew."""


class Sealed(TypedDict):
    """A question that nothing is learnt from."""

    question: str
    contains: NotRequired[Sequence[str]]
    """A right answer has one of these strings."""


class SystemPrompt(TypedDict):
    """A beginning of a conversation, and questions to it."""

    name: str
    kind: str
    messages: Sequence[Mapping[str, str]]
    facts: NotRequired[str]
    """The part of the text that is repeated word for word, and may stay as text beside the rows."""
    form: str | None
    """A regular expression that a faithful answer matches."""
    training: Sequence[str]
    sealed: Sequence[Sealed]


@dataclass(frozen=True)
class RowSource:
    """Makes the rows of one system prompt."""

    space: EmbeddingSpace
    prompt: SystemPrompt
    settings: Mapping[str, Any]
    """Of :class:`~embedspace.distillation.Distillation`."""

    @property
    def content(self) -> PromptEmbeds:
        """The rows of the messages' content."""
        return messages_content(self.space, self.prompt["messages"])

    def distilled(self, tokens: int, questions: int) -> SoftPrompt:
        """Learnt from the first questions; stored in the cache folder, since learning takes minutes."""
        asked = list(self.prompt["training"])[:questions]
        identity = [
            _FORMAT,
            self.space.fingerprint,
            [dict(message) for message in self.prompt["messages"]],
            asked,
            tokens,
            dict(self.settings),
            *([dict(self.space.template)] if self.space.template else []),
        ]
        name = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
        folder = cache_folder() / "soft_prompts" / name
        if not folder.exists():
            draft = folder.with_name(f"{name}.draft")
            soft = SoftPrompt.distill(
                engine_of(self.space),
                self.prompt["messages"],
                asked,
                tokens=tokens,
                settings=Distillation(**self.settings),
                checkpoint=folder.with_name(f"{name}.state.safetensors"),
            )
            soft.save(draft)
            draft.replace(folder)
            folder.with_name(f"{name}.state.safetensors").unlink(missing_ok=True)
            shutil.rmtree(draft, ignore_errors=True)
        return SoftPrompt.load(folder, self.space)

    def compressed(self, method: Method, tokens: int) -> SoftPrompt:
        """The content compressed without training."""
        rows = start_rows(self.space, self.content, tokens, method)
        return SoftPrompt(rows, self.space.fingerprint, self._role)

    def random(self, tokens: int, seed: int) -> SoftPrompt:
        """Rows of the vocabulary, drawn at random."""
        short = self.content.first_rows(tokens)
        rows = random_rows(self.space, short, seed).vectors.float()
        return SoftPrompt(rows, self.space.fingerprint, self._role)

    def whole(self, question: str) -> PromptEmbeds:
        """The question after the messages as they are."""
        return self.space.embed_chat(full_conversation(self.prompt["messages"], question))

    def asked(self, beginning: SoftPrompt | str, question: str, *, facts: bool = False) -> PromptEmbeds:
        """The question after rows or text, in the message that this prompt's own stand in.

        With ``facts``, the prompt's facts follow as text.
        """
        parts = [beginning, f"\n{self.prompt['facts']}"] if facts else beginning
        return self.space.embed_chat(student_conversation(self._role, parts, question))

    @property
    def _role(self) -> str:
        return "system" if self.prompt["messages"][0]["role"] == "system" else "user"


@cache
def engine_of(space: EmbeddingSpace) -> TransformersEngine:
    """One model in process for all prompts."""
    return TransformersEngine(space)
