"""The vectors that the style experiment compares: several methods, and controls of equal norm."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
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
SHUFFLED_TARGETS, NEUTRAL_TARGETS = "trained on shuffled targets", "trained on neutral targets"
"""Controls that are trained as the optimised vector is: on its teacher's answers, each to another question, and on the
answers of a teacher that asks for no style."""
TRAINED_CONTROLS = SHUFFLED_TARGETS, NEUTRAL_TARGETS

LABELS = {"mean_difference": "mean difference", "pca": "PCA", "logistic": "logistic regression"}
"""How reports name the ways to find a direction."""

Move = tuple[str, StyleVector, float, float]
"""Condition, vector, strength as the report has it, and the strength at which the vector is applied."""

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
    shuffle_seed: int | None = None
    """Of a control: every question gets the teacher's answer to another one. None for the vector in question."""

    def teacher(self, space: EmbeddingSpace, question: str) -> PromptEmbeds:
        """The prompt whose answers are imitated: examples, instruction and question."""
        from embedspace.distillation import instructed

        return instructed(space, self.wanted, self.examples, question)

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
            *([] if self.shuffle_seed is None else [self.shuffle_seed]),
        ]
        name = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
        return cache_folder() / "styles" / f"{name}.safetensors"

    def _distilled(self, space: EmbeddingSpace) -> StyleVector:
        from embedspace.distillation import Optimisation

        plain = [chat(space, question) for question in self.questions]
        wanted = [self.teacher(space, question) for question in self.taught]
        settings = Optimisation(_engine(space), plain, answers="distilled", **self.options)
        return StyleVector.fit(space, wanted, plain, method="optimised", optimisation=settings)

    @property
    def taught(self) -> Sequence[str]:
        """The question that the teacher answers in place of each question."""
        if self.shuffle_seed is None:
            return self.questions
        order = list(self.questions)
        random.Random(self.shuffle_seed).shuffle(order)
        following = dict(zip(order, [*order[1:], *order[:1]], strict=True))  # one cycle: none keeps its own
        return [following[question] for question in self.questions]


def random_controls(
    space: EmbeddingSpace,
    examples: tuple[Sequence[str], Sequence[str]],
    *,
    norm: float,
    seeds: Sequence[int],
    alphas: Sequence[float],
) -> Iterator[Move]:
    """One random vector and one of shuffled labels for each seed."""
    for seed in seeds:
        random = StyleVector.random(space, norm=norm, seed=seed)
        relabelled = shuffled(space, *examples, norm=norm, seed=seed)
        for kind, vector in ((RANDOM, random), (SHUFFLED, relabelled)):
            for alpha in alphas:
                yield f"{kind} {seed}", vector, alpha, alpha


def optimised_controls(
    space: EmbeddingSpace,
    sources: Mapping[float, DistillationSource],
    neutral: Mapping[str, Any],
    learnt: Mapping[float, StyleVector],
    seeds: Sequence[int],
    strength: float,
) -> Iterator[Move]:
    """Vectors that are trained as those in question, at their norm and strength, on other targets.

    Args:
        space: of the vectors.
        sources: of the vectors in question, by the sign of the side.
        neutral: instruction, example questions and answers that ask for no style; one vector serves all sides.
        learnt: the vectors in question, by the sign of the side.
        seeds: of the order in which answers are dealt to questions, and of the optimisation on neutral targets.
        strength: at which the vectors in question are compared.
    """
    for seed in seeds:
        for sign, source in sources.items():
            vector = replace(source, shuffle_seed=seed).vector(space)
            yield f"{SHUFFLED_TARGETS} {seed}", scaled(vector, learnt[sign].norm), sign * strength, strength
        shown = list(zip(neutral["questions"], neutral["answers"], strict=True))
        source = next(iter(sources.values()))
        options = {**source.options, "seed": seed}
        vector = DistillationSource(source.questions, neutral["instruction"], shown, options).vector(space)
        norm = max(vector.norm for vector in learnt.values())
        yield f"{NEUTRAL_TARGETS} {seed}", scaled(vector, norm), strength, strength


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
