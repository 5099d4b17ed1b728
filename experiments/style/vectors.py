"""The vectors that the style experiment compares: several methods, and controls of equal norm."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector
from embedspace.models import cache_folder

if TYPE_CHECKING:
    from embedspace.style import Direction

OPTIMISED = "optimised"
"""Distilled from the model's own answers under instruction and examples."""
RANDOM, SHUFFLED = "random", "shuffled labels"
"""Controls: a random direction, and the mean difference of examples with shuffled labels."""

LABELS = {"mean_difference": "mean difference", "pca": "PCA", "logistic": "logistic regression"}
"""How reports name the ways to find a direction."""

_FORMAT = 1
"""Raised when the distillation changes, so that cached vectors are computed anew."""


@dataclass(frozen=True)
class DistillationSource:
    """What an optimised vector is distilled from: questions, the instruction, and example answers in the style."""

    questions: Sequence[str]
    wanted: str
    """The instruction that stands before the question."""
    examples: Sequence[tuple[str, str]]
    """Questions with answers in the style: earlier turns of the conversation."""
    options: Mapping[str, Any]
    """Of :class:`~embedspace.distillation.Optimisation`."""

    def vector(self, space: EmbeddingSpace) -> StyleVector:
        """The distilled vector; it is stored in the cache folder, since distilling takes minutes."""
        path = self.path(space)
        if not path.exists():
            draft = path.with_name(f"{path.name}.draft")
            self._distilled(space).save(draft)
            draft.replace(path)
        return StyleVector.load(path, space)

    def path(self, space: EmbeddingSpace) -> Path:
        """Where it is stored: the name is a hash of everything that determines it."""
        identity = [
            _FORMAT,
            space.fingerprint,
            list(self.questions),
            self.wanted,
            list(self.examples),
            dict(self.options),
        ]
        name = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
        return cache_folder() / "styles" / f"{name}.safetensors"

    def _distilled(self, space: EmbeddingSpace) -> StyleVector:
        from embedspace.distillation import Optimisation

        shown = [
            {"role": role, "content": text}
            for example in self.examples
            for role, text in zip(("user", "assistant"), example, strict=True)
        ]
        plain = [chat(space, question) for question in self.questions]
        wanted = [
            space.embed_chat([*shown, {"role": "user", "content": f"{self.wanted} {question}"}])
            for question in self.questions
        ]
        settings = Optimisation(_engine(space), plain, answers="distilled", **self.options)
        return StyleVector.fit(space, wanted, plain, method="optimised", optimisation=settings)


def direction(
    space: EmbeddingSpace, positive: Sequence[str], negative: Sequence[str], *, method: Direction, norm: float
) -> StyleVector:
    """The direction that a method finds, of a given norm."""
    return scaled(StyleVector.fit(space, positive=positive, negative=negative, method=method), norm)


def shuffled(
    space: EmbeddingSpace, positive: Sequence[str], negative: Sequence[str], *, norm: float, seed: int
) -> StyleVector:
    """The mean difference of examples with shuffled labels, of a given norm."""
    examples = [*positive, *negative]
    random.Random(seed).shuffle(examples)
    high, low = examples[: len(positive)], examples[len(positive) :]
    return scaled(StyleVector.fit(space, positive=high, negative=low), norm)


def scaled(vector: StyleVector, norm: float) -> StyleVector:
    """The vector at a given norm."""
    return (norm / vector.norm) * vector


def chat(space: EmbeddingSpace, text: str) -> PromptEmbeds:
    """A question as the model's chat template puts it."""
    return space.embed_chat([{"role": "user", "content": text}])


@cache
def _engine(space: EmbeddingSpace) -> Any:
    """One for all vectors of a process."""
    from embedspace.engines import TransformersEngine

    return TransformersEngine(space)
