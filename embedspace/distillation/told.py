"""Answers that are given as texts: what a style vector makes likely, and likelier than others."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch.nn.functional import softplus

from embedspace.distillation.likelihood import answer_nats, end_tokens
from embedspace.prompt import PromptEmbeds, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.distillation.settings import Optimisation, Task


@dataclass(frozen=True, eq=False)
class Told:
    """One prompt with a better and a worse answer."""

    prompt: PromptEmbeds
    positive: list[int]
    negative: list[int]


def told_task(
    positive: Sequence[str | PromptEmbeds], negative: Sequence[str | PromptEmbeds], settings: Optimisation
) -> Task:
    """Learning from texts: openings that fit every prompt, of which one a prompt is drawn, or whole answers."""
    from embedspace.distillation.settings import Task, split

    better, worse = ([str(text) for text in side] for side in (positive, negative))
    ids = settings.engine.space.tokenize
    end = end_tokens(settings.engine)[:1] if settings.answers == "whole" else []

    def key(prompt: PromptEmbeds) -> str:
        return tensor_digest(prompt.vectors)

    if settings.answers == "whole":
        triples = sorted(zip(settings.prompts, better, worse, strict=True), key=lambda t: (key(t[0]), *t[1:]))
        pools = [(prompt, [high], [low]) for prompt, high, low in triples]
    else:
        shared = sorted(better), sorted(worse)
        pools = [(prompt, *shared) for prompt in sorted(settings.prompts, key=key)]
    parts = split(pools, settings)

    def draw(chance: random.Random) -> tuple[list[Told], list[Told]]:
        # The held-out part is drawn first: with a given generator it is the same however many are learnt on.
        held_out, learnt = (
            [
                Told(prompt, ids(chance.choice(high)) + end, ids(chance.choice(low)) + end)
                for prompt, high, low in part
            ]
            for part in reversed(parts)
        )
        return learnt, held_out

    return Task(draw, lambda cases, vector: _losses(settings, cases, vector))


def _losses(settings: Optimisation, cases: Sequence[Told], vector: Tensor) -> Float[Tensor, " cases"]:
    """Nats a token of the positive answers, plus the contrast: how far they are from being the likelier ones."""
    likely = answer_nats(
        settings.engine, [(case.prompt, case.positive) for case in cases], vector, settings.rows
    )
    if not settings.contrast:
        return likely
    unlikely = answer_nats(
        settings.engine, [(case.prompt, case.negative) for case in cases], vector, settings.rows
    )
    return likely + settings.contrast * softplus(likely - unlikely)
