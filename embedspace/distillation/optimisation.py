"""A style vector found by gradient through the frozen model: what ``StyleVector.fit`` calls ``optimised``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.progress import progress
from embedspace.distillation.settings import Optimisation, Task
from embedspace.distillation.taught import taught_task
from embedspace.distillation.told import told_task
from embedspace.prompt import PromptEmbeds, Recipe, require_content, require_finite, row_mask

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
    """The best vector over all restarts, float32, and the recipe of its making.

    Raises:
        TypeError: an example that is not a string, or with ``taught`` answers not a prompt.
        ValueError: an engine or prompts of another space, fewer than two examples on a side, equal sides,
            or, for whole and taught answers, not one of each side for every prompt.
    """
    _check(space, positive, negative, settings)
    norm = settings.norm if settings.norm is not None else 0.375 * float(space.norms.mean())
    task = (taught_task if settings.answers == "taught" else told_task)(positive, negative, settings)
    best = (math.inf, torch.zeros(space.hidden_size))
    with progress("optimised style vector", settings.restarts * settings.epochs) as advance:
        for restart in range(settings.restarts):
            run = _descend(settings, task, norm, random.Random(f"{settings.seed} {restart}"), advance)
            best = min(best, run, key=lambda result: result[0])
    vector = best[1]
    if not bool(vector.any()):
        raise ValueError(
            "no vector does better on the held-out prompts than none at all; give more prompts, answers that "
            "differ more, or a larger norm"
        )
    return vector, _recipe(positive, negative, settings, norm)


def _descend(
    settings: Optimisation,
    task: Task,
    norm: float,
    chance: random.Random,
    advance: Callable[[], None],
) -> tuple[float, Tensor]:
    """One run of Adam: the lowest loss on the held-out cases, and the vector that reached it."""
    engine = settings.engine
    generator = torch.Generator().manual_seed(chance.getrandbits(62))
    start = torch.randn(engine.space.hidden_size, generator=generator)
    vector = (0.01 * norm * start / start.norm()).to(engine.device).requires_grad_()
    # Adam moves every coordinate by about its rate: all together by the rate times the root of their number.
    rate = settings.learning_rate * norm / math.sqrt(len(vector))
    optimiser = torch.optim.Adam([vector], lr=rate)
    _, held_out = task.draw(random.Random(0))
    best, waited = (
        (_mean_loss(settings, task, held_out, torch.zeros_like(vector)), torch.zeros(len(vector))),
        0,
    )
    for epoch in range(settings.epochs):
        learnt = list(task.draw(chance)[0])
        chance.shuffle(learnt)
        for batch in _batches(learnt, settings.batch_size):
            optimiser.zero_grad()
            with torch.enable_grad():
                task.losses(batch, vector).mean().backward()
            optimiser.step()
            with torch.no_grad():
                vector *= min(1.0, norm / max(float(vector.norm()), 1e-12))
        loss = _mean_loss(settings, task, held_out, vector)
        waited = 0 if loss < best[0] else waited + 1
        best = min(best, (loss, vector.detach().cpu().float().clone()), key=lambda result: result[0])
        advance()
        if waited == settings.patience:
            for _ in range(settings.epochs - epoch - 1):
                advance()
            break
    return best


@torch.no_grad()
def _mean_loss(settings: Optimisation, task: Task, cases: Sequence[Any], vector: Tensor) -> float:
    losses = [task.losses(batch, vector) for batch in _batches(cases, settings.batch_size)]
    return float(torch.cat(losses).mean())


def _batches(cases: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (cases[start : start + size] for start in range(0, len(cases), size))


def _check(
    space: EmbeddingSpace,
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
) -> None:
    if settings.engine.space.fingerprint != space.fingerprint:
        raise ValueError(
            f"the engine's model lives in the space {settings.engine.space.fingerprint}, the vector is asked for in "
            f"{space.fingerprint}; give the engine of the same model"
        )
    wanted = PromptEmbeds if settings.answers == "taught" else str
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
    if sorted(map(_name, positive)) == sorted(map(_name, negative)):
        raise ValueError(
            "the positive and the negative answers are the same, so no vector can tell them apart"
        )


def _name(example: str | PromptEmbeds) -> str:
    return example if isinstance(example, str) else example.recipe.digest


def _recipe(
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
    norm: float,
) -> Recipe:
    """Digests in place of the examples: each record of a run holds the recipe of its prompt."""
    sides = {"positive": positive, "negative": negative, "prompts": settings.prompts}
    digests = {
        side: hashlib.blake2b(
            repr([_name(example) for example in given]).encode(), digest_size=16
        ).hexdigest()
        for side, given in sides.items()
    }
    return Recipe.of(
        "fit_style",
        {
            **digests,
            "method": "optimised",
            "engine": repr(sorted(settings.engine.describe().items())),
            "answers": settings.answers,
            "rows": settings.rows,
            "norm": norm,
            "contrast": settings.contrast,
            "guidance": settings.guidance,
            "answer_tokens": settings.answer_tokens,
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "held_out": settings.held_out,
            "patience": settings.patience,
            "restarts": settings.restarts,
            "seed": settings.seed,
        },
    )
