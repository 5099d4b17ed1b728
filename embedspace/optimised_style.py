"""A style vector found by gradient through the frozen model: what ``StyleVector.fit`` calls ``optimised``."""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.nn.functional import softplus

from embedspace.answer_nats import answer_nats
from embedspace.finite import require_finite
from embedspace.progress import progress
from embedspace.prompt import PromptEmbeds, require_content, tensor_digest
from embedspace.recipe import Recipe

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines.transformers import TransformersEngine
    from embedspace.space import EmbeddingSpace

Answers = Literal["openings", "whole"]


@dataclass(frozen=True, eq=False)
class Optimisation:
    """What the method ``optimised`` learns on, and how.

    One vector, added to the content rows of every prompt, is moved by Adam until the model finds the
    positive answers likely, and likelier than the negative ones (prompt tuning, Lester et al. 2021, of a
    single shared row). The vector stays inside a ball; the step that does best on held-out prompts is kept.

    Raises:
        ValueError: a setting is out of its range, or fewer than two prompts.
    """

    engine: TransformersEngine
    """The frozen model; only the in-process engine can take gradients."""
    prompts: Sequence[PromptEmbeds]
    """At least two prompts, of the vector's space, after which the answers are given."""
    answers: Answers = "openings"
    """``openings``: every text fits every prompt and may go on. ``whole``: ``positive[i]`` and ``negative[i]``
    are whole answers to ``prompts[i]``, and that they end is learnt as well."""
    norm: float | None = None
    """Largest norm of the vector; by default 3/8 of the vocabulary's mean row norm."""
    contrast: float = 1.0
    """Weight of "likelier than the negative answer" beside "likely"."""
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
            "answers": (self.answers in ("openings", "whole"), "'openings' or 'whole'"),
            "norm": (self.norm is None or (math.isfinite(self.norm) and self.norm > 0), "None or above 0"),
            "contrast": (math.isfinite(self.contrast) and self.contrast >= 0, "0 or more"),
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
class _Case:
    """One prompt with a better and a worse answer."""

    prompt: PromptEmbeds
    positive: list[int]
    negative: list[int]


def optimise(
    space: EmbeddingSpace,
    positive: Sequence[str | PromptEmbeds],
    negative: Sequence[str | PromptEmbeds],
    settings: Optimisation,
) -> tuple[Float[Tensor, " hidden"], Recipe]:
    """The best vector over all restarts, float32, and the recipe of its making.

    Raises:
        TypeError: an answer that is not a string.
        ValueError: an engine or prompts of another space, fewer than two answers on a side, equal sides,
            or, for whole answers, not one of each side for every prompt.
    """
    better, worse = _texts(positive, "positive"), _texts(negative, "negative")
    _check(space, better, worse, settings)
    draw = _cases(better, worse, settings)
    norm = settings.norm if settings.norm is not None else 0.375 * float(space.norms.mean())
    best = (math.inf, torch.zeros(space.hidden_size))
    with progress("optimised style vector", settings.restarts * settings.epochs) as advance:
        for restart in range(settings.restarts):
            run = _descend(settings, draw, norm, random.Random(f"{settings.seed} {restart}"), advance)
            best = min(best, run, key=lambda result: result[0])
    vector = best[1]
    if not bool(vector.any()):
        raise ValueError(
            "no vector does better on the held-out prompts than none at all; give more prompts, answers that "
            "differ more, or a larger norm"
        )
    return vector, _recipe(better, worse, settings, norm)


def _descend(
    settings: Optimisation,
    draw: Callable[[random.Random], tuple[list[_Case], list[_Case]]],
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
    _, held_out = draw(random.Random(0))
    best, waited = (_mean_loss(settings, held_out, torch.zeros_like(vector)), torch.zeros(len(vector))), 0
    for epoch in range(settings.epochs):
        learnt, _ = draw(chance)
        chance.shuffle(learnt)
        for batch in _batches(learnt, settings.batch_size):
            optimiser.zero_grad()
            with torch.enable_grad():
                _losses(settings, batch, vector).mean().backward()
            optimiser.step()
            with torch.no_grad():
                vector *= min(1.0, norm / max(float(vector.norm()), 1e-12))
        loss = _mean_loss(settings, held_out, vector)
        waited = 0 if loss < best[0] else waited + 1
        best = min(best, (loss, vector.detach().cpu().float().clone()), key=lambda result: result[0])
        advance()
        if waited == settings.patience:
            for _ in range(settings.epochs - epoch - 1):
                advance()
            break
    return best


@torch.no_grad()
def _mean_loss(settings: Optimisation, cases: Sequence[_Case], vector: Tensor) -> float:
    losses = [_losses(settings, batch, vector) for batch in _batches(cases, settings.batch_size)]
    return float(torch.cat(losses).mean())


def _losses(settings: Optimisation, cases: Sequence[_Case], vector: Tensor) -> Float[Tensor, " cases"]:
    """Nats a token of the positive answers, plus the contrast: how far they are from being the likelier ones."""
    likely = answer_nats(settings.engine, [(case.prompt, case.positive) for case in cases], vector)
    if not settings.contrast:
        return likely
    unlikely = answer_nats(settings.engine, [(case.prompt, case.negative) for case in cases], vector)
    return likely + settings.contrast * softplus(likely - unlikely)


def _cases(
    positive: Sequence[str], negative: Sequence[str], settings: Optimisation
) -> Callable[[random.Random], tuple[list[_Case], list[_Case]]]:
    """A function that draws cases to learn on and cases held out; the split is always the same."""
    ids = settings.engine.space.tokenize
    end = _end_of_turn(settings.engine) if settings.answers == "whole" else []

    def key(prompt: PromptEmbeds) -> str:
        return tensor_digest(prompt.vectors)

    if settings.answers == "whole":
        triples = sorted(
            zip(settings.prompts, positive, negative, strict=True), key=lambda t: (key(t[0]), *t[1:])
        )
        pools = [(prompt, [better], [worse]) for prompt, better, worse in triples]
    else:
        shared = sorted(positive), sorted(negative)
        pools = [(prompt, *shared) for prompt in sorted(settings.prompts, key=key)]
    random.Random(settings.seed).shuffle(pools)
    aside = min(max(1, round(settings.held_out * len(pools))), len(pools) - 1)

    def draw(chance: random.Random) -> tuple[list[_Case], list[_Case]]:
        cases = [
            _Case(prompt, ids(chance.choice(better)) + end, ids(chance.choice(worse)) + end)
            for prompt, better, worse in pools
        ]
        return cases[aside:], cases[:aside]

    return draw


def _end_of_turn(engine: TransformersEngine) -> list[int]:
    ends = engine.model.generation_config.eos_token_id
    return list(ends)[:1] if isinstance(ends, list | tuple) else [] if ends is None else [ends]


def _batches(cases: Sequence[_Case], size: int) -> Iterator[Sequence[_Case]]:
    return (cases[start : start + size] for start in range(0, len(cases), size))


def _check(
    space: EmbeddingSpace, positive: Sequence[str], negative: Sequence[str], settings: Optimisation
) -> None:
    if settings.engine.space.fingerprint != space.fingerprint:
        raise ValueError(
            f"the engine's model lives in the space {settings.engine.space.fingerprint}, the vector is asked for in "
            f"{space.fingerprint}; give the engine of the same model"
        )
    for side, answers in (("positive", positive), ("negative", negative)):
        if settings.answers == "whole" and len(answers) != len(settings.prompts):
            raise ValueError(
                f"{side} has {len(answers)} whole answers for {len(settings.prompts)} prompts; give one for each"
            )
    if sorted(positive) == sorted(negative):
        raise ValueError(
            "the positive and the negative answers are the same, so no vector can tell them apart"
        )
    for prompt in settings.prompts:
        space.require(prompt)
        require_content(prompt, "an optimised style vector")
        require_finite(prompt, "an optimised style vector")


def _texts(answers: Sequence[str | PromptEmbeds], side: str) -> list[str]:
    if len(answers) < 2:
        raise ValueError(f"{side} has {len(answers)} answers and at least 2 are needed")
    texts = []
    for position, answer in enumerate(answers):
        if not isinstance(answer, str):
            raise TypeError(f"{side}[{position}] must be a string, got a {type(answer).__name__}")
        if not answer.strip():
            raise ValueError(f"{side}[{position}] is an empty text; leave it out")
        texts.append(answer)
    return texts


def _recipe(positive: Sequence[str], negative: Sequence[str], settings: Optimisation, norm: float) -> Recipe:
    texts = {"positive": positive, "negative": negative}
    digests = {
        side: hashlib.blake2b(repr(list(said)).encode(), digest_size=16).hexdigest()
        for side, said in texts.items()
    }
    return Recipe.of(
        "fit_style",
        {
            **digests,
            "method": "optimised",
            "engine": repr(sorted(settings.engine.describe().items())),
            "answers": settings.answers,
            "norm": norm,
            "contrast": settings.contrast,
            "epochs": settings.epochs,
            "batch_size": settings.batch_size,
            "learning_rate": settings.learning_rate,
            "held_out": settings.held_out,
            "patience": settings.patience,
            "restarts": settings.restarts,
            "seed": settings.seed,
        },
        *(prompt.recipe for prompt in settings.prompts),
    )
