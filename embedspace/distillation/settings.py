"""What a vector is optimised for, and how: settings, and the task that an objective makes of them."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from embedspace.prompt import PromptEmbeds, Rows

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.engines import TransformersEngine


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
