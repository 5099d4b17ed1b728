"""Settings of a style vector that is optimised by gradient."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from embedspace.distillation.gradient_descent import Schedule
from embedspace.prompt import PromptEmbeds, Rows

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Answers = Literal["openings", "whole", "distilled"]


@dataclass(frozen=True, eq=False)
class Optimisation:
    """Data, objective and optimiser settings of ``StyleVector.fit(method="optimised")``.

    One vector, added to rows of every prompt, is trained by Adam until the model finds the positive answers likely,
    and likelier than the negative ones (prompt tuning, Lester et al. 2021, of a single shared row). Its norm is
    bounded; the step with the lowest loss on held-out prompts is kept.

    With ``answers="distilled"`` the examples are prompts instead of texts, e.g. the same questions after an
    instruction: the vector makes the model answer without the instruction as it does with it, by matching the
    next-token distributions (prompt distillation; Askell et al. 2021, Snell et al. 2022).

    Raises:
        ValueError: a setting is out of its range, or fewer than two prompts.
    """

    engine: TransformersEngine
    """The frozen model; only the in-process engine computes gradients."""
    prompts: Sequence[PromptEmbeds]
    """At least two prompts, of the vector's space, to which the answers belong."""
    answers: Answers = "openings"
    """``openings``: beginnings of answers, each of which fits every prompt. ``whole``: ``positive[i]`` and
    ``negative[i]`` are complete answers to ``prompts[i]``, end of turn included. ``distilled``: ``positive[i]`` and
    ``negative[i]`` are prompts that ask ``prompts[i]`` for the style and for its opposite or for none (``taught``,
    the former name, is accepted)."""
    rows: Rows = "content"
    """Which rows of every prompt the vector is added to; apply it to the same ones."""
    norm: float | None = None
    """Upper bound of the vector's norm; by default 3/8 of the vocabulary's mean row norm."""
    contrast: float = 1.0
    """Weight of the loss "likelier than the negative answer"; not used by ``distilled``."""
    guidance: float = 0.0
    """For ``distilled``: how much further to go than the positive prompts do, away from the negative ones; 0 ignores
    the negative prompts."""
    answer_tokens: int = 40
    """For ``distilled``: limit on the tokens of a teacher's answer."""
    epochs: int = 12
    """Limit on the passes over the prompts."""
    batch_size: int = 8
    """Prompts per step."""
    learning_rate: float = 0.05
    """Length of Adam's first step, as a fraction of the norm bound."""
    held_out: float = 0.25
    """Fraction of the prompts (at least one) that is not trained on and decides when to stop."""
    patience: int = 3
    """Epochs without improvement on the held-out prompts before stopping."""
    restarts: int = 1
    """Runs from different random starts; the one with the lowest held-out loss is kept."""
    seed: int = 0
    """Of the split, the starts and the order."""

    def __post_init__(self) -> None:
        if self.answers == "taught":  # type: ignore[comparison-overlap]
            object.__setattr__(self, "answers", "distilled")
        checks = {
            "prompts": (len(self.prompts) >= 2, "at least two, one to train on and one to hold out"),
            "answers": (self.answers in get_args(Answers), "'openings', 'whole' or 'distilled'"),
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


@dataclass(frozen=True)
class Distillation:
    """Settings of ``SoftPrompt.distill`` and ``StyleVector.distill``; the defaults work for the packaged model.

    >>> Distillation(epochs=4).learning_rate
    0.15

    Raises:
        ValueError: a setting is out of its range.
    """

    answer_tokens: int = 32
    """Limit on the tokens of a teacher's answer."""
    sampled_answers: int = 0
    """Sampled answers of the teacher to each question, beside the greedy one."""
    temperature: float = 0.7
    """At which they are sampled."""
    epochs: int = 14
    """Limit on the passes over the questions."""
    batch_size: int = 4
    """Answers per step; on a GPU more are faster."""
    learning_rate: float = 0.15
    """Adam's first step in each coordinate, as a fraction of the vocabulary's typical coordinate (mean norm over
    sqrt(hidden)); it falls linearly to 0."""
    held_out: float = 0.15
    """Fraction of the questions (at least one) that is not trained on and decides when to stop."""
    patience: int = 4
    """Epochs without improvement on the held-out questions before stopping."""
    seed: int = 0
    """Of the split, the order and the sampled answers."""

    def schedule(self, space: EmbeddingSpace) -> Schedule:
        """How long and how fast, for rows of a space."""
        typical = float(space.norms.mean()) / math.sqrt(space.hidden_size)
        return Schedule(self.epochs, self.batch_size, self.learning_rate * typical, True, self.patience)

    def __post_init__(self) -> None:
        checks = {
            "answer_tokens": (self.answer_tokens >= 1, "at least 1"),
            "sampled_answers": (self.sampled_answers >= 0, "0 or more"),
            "temperature": (math.isfinite(self.temperature) and self.temperature > 0, "above 0"),
            "epochs": (self.epochs >= 1, "at least 1"),
            "batch_size": (self.batch_size >= 1, "at least 1"),
            "learning_rate": (0 < self.learning_rate <= 1, "in (0, 1]"),
            "held_out": (0 < self.held_out < 1, "between 0 and 1"),
            "patience": (self.patience >= 1, "at least 1"),
            "seed": (self.seed >= 0, "0 or more"),
        }
        for name, (fits, allowed) in checks.items():
            if not fits:
                raise ValueError(f"Distillation.{name} is {getattr(self, name)!r}; it must be {allowed}")
