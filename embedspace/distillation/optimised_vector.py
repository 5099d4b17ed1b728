"""Optimisation of a style vector by gradient through the frozen model, ``StyleVector.fit(method="optimised")``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import torch

from embedspace._util.progress import progress
from embedspace.distillation.gradient_descent import Minimum, Schedule, minimise
from embedspace.distillation.objectives import Objective, distillation_objective, supervised_objective
from embedspace.distillation.settings import Optimisation
from embedspace.prompt import PromptEmbeds, Recipe, Value, require_content, require_finite, row_mask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace


def optimise(
    space: EmbeddingSpace,
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
) -> tuple[Float[Tensor, " hidden"], Recipe]:
    """The best vector over all restarts, float32, and its recipe.

    Raises:
        TypeError: an example that is not a string, or for ``answers="distilled"`` not a prompt.
        ValueError: an engine or prompts of another space, fewer than two examples on a side, equal sides, or, for
            ``whole`` and ``distilled`` answers, not one of each side for every prompt.
    """
    _check(space, positive, negative, settings)
    norm = settings.norm if settings.norm is not None else 0.375 * float(space.norms.mean())
    make_objective = distillation_objective if settings.answers == "distilled" else supervised_objective
    objective = make_objective(positive, negative, settings)
    training, held_out = objective.draw(random.Random(0))
    best: Minimum | None = None
    total = settings.restarts * settings.epochs * (len(training) + len(held_out))
    with progress("optimised style vector", total) as advance:
        for restart in range(settings.restarts):
            run = _run(settings, objective, norm, random.Random(f"{settings.seed} {restart}"), advance)
            best = run if best is None or run.loss < best.loss else best
    assert best is not None
    vector = best.parameters
    if not bool(vector.any()):
        raise ValueError(
            "no vector lowers the loss on the held-out prompts; give more prompts, answers that differ more, or a "
            "larger norm"
        )
    return vector, _recipe(positive, negative, settings, norm)


def _run(
    settings: Optimisation,
    objective: Objective,
    norm: float,
    rng: random.Random,
    advance: Callable[[], None],
) -> Minimum:
    generator = torch.Generator().manual_seed(rng.getrandbits(62))
    start = torch.randn(settings.engine.space.hidden_size, generator=generator)
    start = (0.01 * norm * start / start.norm()).to(settings.engine.device)
    # Adam moves each coordinate by about the rate, so the whole vector by the rate times sqrt(hidden).
    rate = settings.learning_rate * norm / math.sqrt(len(start))
    schedule = Schedule(settings.epochs, settings.batch_size, rate, False, settings.patience)
    return minimise(
        start,
        torch.zeros_like(start),
        objective.draw,
        objective.losses,
        partial(bounded, norm=norm),
        schedule,
        rng,
        advance,
    )


def bounded(vector: Tensor, *, norm: float) -> Tensor:
    """The vector, shortened to a norm if it is longer."""
    return vector * min(1.0, norm / max(float(vector.norm()), 1e-12))


def _check(
    space: EmbeddingSpace,
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
) -> None:
    if settings.engine.space.fingerprint != space.fingerprint:
        raise ValueError(
            f"the engine's model has the space {settings.engine.space.fingerprint}, the vector is fitted in "
            f"{space.fingerprint}; give the engine of the same model"
        )
    wanted = PromptEmbeds if settings.answers == "distilled" else str
    for side, examples in (("positive", positive), ("negative", negative)):
        if len(examples) < 2:
            raise ValueError(f"{side} has {len(examples)} answers and at least 2 are needed")
        for position, example in enumerate(examples):
            if not isinstance(example, wanted):
                raise TypeError(
                    f"{side}[{position}] must be a {'prompt' if wanted is PromptEmbeds else 'string'} for "
                    f"answers={settings.answers!r}, got a {type(example).__name__}"
                )
            if isinstance(example, str) and not example.strip():
                raise ValueError(f"{side}[{position}] is an empty text; leave it out")
        if settings.answers != "openings" and len(examples) != len(settings.prompts):
            raise ValueError(
                f"{side} has {len(examples)} {settings.answers} answers for {len(settings.prompts)} prompts; give one "
                "for each"
            )
    given = [example for example in (*positive, *negative) if isinstance(example, PromptEmbeds)]
    for prompt in (*settings.prompts, *given):
        space.require(prompt)
        require_content(prompt, "an optimised style vector")
        require_finite(prompt, "an optimised style vector")
    for prompt in settings.prompts:
        row_mask(prompt, settings.rows)
    if sorted(map(_identity, positive)) == sorted(map(_identity, negative)):
        raise ValueError(
            "the positive and the negative answers are the same, so there is no difference to learn"
        )


def _identity(example: str | PromptEmbeds) -> str:
    return example if isinstance(example, str) else example.recipe.digest


def _recipe(
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
    norm: float,
) -> Recipe:
    """With digests in place of the examples, since each record of a run holds the recipe of its prompt."""
    sides = {"positive": positive, "negative": negative, "prompts": settings.prompts}
    digests = {
        side: hashlib.blake2b(
            repr([_identity(example) for example in given]).encode(), digest_size=16
        ).hexdigest()
        for side, given in sides.items()
    }
    # "taught" is the name of distilled answers in recipes that were recorded before.
    answers = "taught" if settings.answers == "distilled" else settings.answers
    engine = repr(sorted(settings.engine.describe().items()))
    parameters: dict[str, Value] = {
        **digests,
        "method": "optimised",
        "engine": engine,
        "answers": answers,
        "norm": norm,
    }
    others = {name: value for name, value in vars(settings).items() if name not in (*parameters, "prompts")}
    return Recipe.of("fit_style", parameters | others)
