"""Cases: what an experiment asks, and the shape that experiments share."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedspace.engines import Prompt
from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.runs.records import Tag

if TYPE_CHECKING:
    pass


@dataclass(frozen=True)
class AnswerOf:
    """Stands for the first answer to an earlier case of the same run."""

    key: str


Continuation = str | AnswerOf


@dataclass(frozen=True)
class Case:
    """One question to an engine: a prompt, and continuations whose likelihood is wanted."""

    key: str
    """Name, unique in the experiment and the same in every run."""
    prompt: Prompt
    tags: Mapping[str, Tag] = field(default_factory=dict)
    """What the case is, for grouping its records."""
    continuations: Mapping[str, Continuation] = field(default_factory=dict)
    """Texts, or answers to earlier cases, to be scored after the prompt; left out with engines that cannot."""
    answered: bool = True
    """False where only the likelihoods are wanted; with engines that cannot tell them, the case is skipped."""
    timed: bool = False
    """Asked alone and for one token, so that the seconds of its record are the time to the first token."""

    @property
    def recipe(self) -> Recipe:
        """How the prompt was made; token ids are their own recipe."""
        if isinstance(self.prompt, PromptEmbeds):
            return self.prompt.recipe
        return Recipe.of("token_ids", {"ids": " ".join(map(str, self.prompt))})

    def under(self, prefix: str) -> Case:
        """The case as part of a larger experiment: ``prefix/`` before its key and the keys it refers to."""
        continuations = {
            name: AnswerOf(f"{prefix}/{target.key}") if isinstance(target, AnswerOf) else target
            for name, target in self.continuations.items()
        }
        return dataclasses.replace(self, key=f"{prefix}/{self.key}", continuations=continuations)


def prompt_sha256(prompt: Prompt) -> str:
    """Hash of a prompt's dtype, shape and bytes, or of its token ids: equal for bit-identical prompts alone."""
    import torch

    if not isinstance(prompt, PromptEmbeds):
        return hashlib.sha256(f"token ids {list(prompt)}".encode()).hexdigest()
    rows = prompt.vectors.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{rows.dtype} {list(rows.shape)} ".encode())
    digest.update(rows.view(torch.uint8).numpy().data)
    return digest.hexdigest()
