"""A style vector found by gradient through the frozen model: what ``StyleVector.fit`` calls ``optimised``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch

from embedspace._util.progress import progress
from embedspace.distillation.taught import taught_task
from embedspace.distillation.told import told_task
from embedspace.prompt import PromptEmbeds, Recipe, Rows, marked_rows, require_content, require_finite

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Answers = Literal["openings", "whole", "taught"]


@dataclass(frozen=True, eq=False)
class Optimisation:
    """What the method ``optimised`` learns on, and how.

    One vector, added to rows of every prompt, is moved by Adam until the model finds the
    positive answers likely, and likelier than the negative ones (prompt tuning, Lester et al. 2021, of a
    single shared row). The vector stays inside a ball; the step that does best on held-out prompts is kept.

    With ``answers="taught"`` there are no texts: the examples are prompts, say the same questions with an
    instruction before them, and the vector is to make the model say without the instruction what it says
    with it, learnt from the whole distribution of each next token (prompt distillation; Askell et al. 2021,
    Snell et al. 2022).

    Raises:
        ValueError: a setting is out of its range, or fewer than two prompts.
    """

    engine: TransformersEngine
    """The frozen model; only the in-process engine can take gradients."""
    prompts: Sequence[PromptEmbeds]
    """At least two prompts, of the vector's space, after which the answers are given."""
    answers: Answers = "openings"
    """``openings``: every text fits every prompt and may go on. ``whole``: ``positive[i]`` and ``negative[i]``
    are whole answers to ``prompts[i]``, and that they end is learnt as well. ``taught``: ``positive[i]`` and
    ``negative[i]`` are prompts that ask ``prompts[i]`` in the wanted and in the opposite or the plain way."""
    rows: Rows = "content"
    """Of every prompt, which rows the vector is learnt on; apply it to the same ones."""
    norm: float | None = None
    """Largest norm of the vector; by default 3/8 of the vocabulary's mean row norm."""
    contrast: float = 1.0
    """Weight of "likelier than the negative answer" beside "likely"; of no account in ``taught``."""
    guidance: float = 0.0
    """In ``taught``: how much further to go than the positive prompts do, away from the negative ones; at 0 these
    do not count."""
    answer_tokens: int = 40
    """In ``taught``: most tokens of an answer that is learnt."""
    epochs: int = 12
    """Most passes over the prompts."""
    batch_size: int = 8
    """Prompts a step."""
    learning_rate: float = 0.05
    """Length of Adam's first step, as a share of the largest norm."""
    held_out: float = 0.25
    """Share of the prompts (at least one) that is never learnt on and says when to stop."""
    patience: int = 3
    """Epochs without progress on the held-out prompts after which to stop."""
    restarts: int = 1
    """Runs from different random starts, of which the best on the held-out prompts is kept."""
    seed: int = 0
    """Of the split, the starts and the order."""

    def __post_init__(self) -> None:
        checks = {
            "prompts": (len(self.prompts) >= 2, "at least two, one to learn on and one to stop by"),
            "answers": (self.answers in get_args(Answers), "'openings', 'whole' or 'taught'"),
            "rows": (self.rows in get_args(Rows), ", ".join(map(repr, get_args(Rows)))),
            "norm": (self.norm is None or (math.isfinite(self.norm) and self.norm > 0), "None or above 0"),
            "contrast": (math.isfinite(self.contrast) and self.contrast >= 0, "0 or more"),
            "guidance": (math.isfinite(self.guidance) and self.guidance >= 0, "0 or more"),
            "answer_tokens": (self.answer_tokens >= 1, "at least 1"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate <= 1, "in (0, 1]"),
            "held_out": (0 < self.held_out < 1, "between 0 and 1"),
            "patience": (self.patience >= 1, "at least 1"),
            "restarts": (self.restarts >= 1, "at least 1"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (fits, allowed) in checks.items():
            if not fits:
                value = len(self.prompts) if name == "prompts" else getattr(self, name)
                raise ValueError(f"Optimisation.{name} is {value!r}; it must be {allowed}")


@dataclass(frozen=True, eq=False)
class Task:
    """What is learnt: cases, and how far a vector is from making the model answer them as it should."""

    draw: Callable[[random.Random], tuple[Sequence[Any], Sequence[Any]]]
    """Cases to learn on and cases to stop by; the split is always the same, the answers may be drawn anew."""
    losses: Callable[[Sequence[Any], Tensor], Tensor]
    """Of cases and a vector, in nats, one a case, with gradients to the vector."""


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


def split(pools: Sequence[Any], settings: Optimisation) -> tuple[list[Any], list[Any]]:
    """What is learnt on and what is held out, the same whatever the order of the prompts.

    Args:
        pools: one entry a prompt, in an order that hangs on the prompts alone.
        settings: the seed of the split, and the share that is held out.
    """
    shuffled = list(pools)
    random.Random(settings.seed).shuffle(shuffled)
    aside = min(max(1, round(settings.held_out * len(shuffled))), len(shuffled) - 1)
    return shuffled[aside:], shuffled[:aside]


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
        marked_rows(prompt, settings.rows)
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
