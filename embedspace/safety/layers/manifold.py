"""The manifold layer: how far the rows of a prompt are from the rows of the vocabulary."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.safety.reading import Reading
    from embedspace.space import EmbeddingSpace

MEASURES = ("largest distance", "mean distance", "largest angle", "mean angle", "norm out of range")
ROUNDING = 1 / 128
"""Relative distance that rounding to bfloat16 can cause."""


@dataclass(frozen=True, eq=False)
class Manifold:
    """Distance and angle of each row to the nearest row of the vocabulary, and its norm against the vocabulary's range.

    Rows of the table, in any dtype, score 0. For all others five measures are compared with their allowed maxima: the
    largest and the mean distance (in units of the root mean square distance of the vocabulary's rows from their mean),
    the largest and the mean angle (1 - centred cosine), and how far a norm lies outside the vocabulary's range (natural
    logarithm of the ratio). The score is 0 up to the maxima and 1 + log(measure / allowed) above.
    """

    name: ClassVar[str] = "manifold"
    costly: ClassVar[bool] = False
    stored: ClassVar[dict[str, torch.dtype]] = {"allowed": torch.float32}

    allowed: Float[Tensor, " measures"]
    """Allowed maximum of each of ``MEASURES``."""

    @classmethod
    def fit(cls, readings: Sequence[Reading], *, margin: float = 1.1) -> Manifold:
        """Maxima that allow for rounding and for the prompts of a deployment's own transforms.

        Args:
            readings: prompts after the declared transforms (a style shift, a blend, a projector).
            margin: factor on the largest value of each measure among them.
        """
        allowed = torch.full((len(MEASURES),), ROUNDING)
        for reading in readings:
            if not bool(reading.tokens.exact.all()):
                with torch.no_grad():
                    allowed = allowed.maximum(
                        margin * measures(reading.space, reading.rows, reading.tokens.ids)
                    )
        return cls(allowed)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """0 where every measure is within its maximum, otherwise more than 1."""
        exact = reading.tokens.exact
        if bool(exact.all()):
            return Finding(0.0, "all rows are rows of the vocabulary")
        with torch.no_grad():
            ratios = measures(reading.space, reading.rows, reading.tokens.ids) / self.allowed
        worst = int(ratios.argmax())
        foreign = int((~exact).sum())
        reason = (
            f"{foreign} of {len(exact)} rows are not rows of the vocabulary; {MEASURES[worst]}: "
            f"{float(ratios[worst]):.3g} times the allowed maximum"
        )
        row = int((~exact).nonzero()[0])
        score = 0.0 if ratios[worst] <= 1 else 1 + float(ratios[worst].log())
        return Finding(score, reason, (row, row + 1) if score else None)


def vocabulary_spread(space: EmbeddingSpace) -> float:
    """Root mean square distance of the vocabulary's rows from their mean."""
    return float((space.norms.square().mean() - space.mean.square().sum()).clamp_min(1e-12).sqrt())


def measures(
    space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], ids: Tensor
) -> Float[Tensor, " measures"]:
    """The five ``MEASURES`` of rows against those of the tokens nearest to them; differentiable in the rows."""
    own = space.lookup(ids.tolist()).float()
    centred, target = rows - space.mean, own - space.mean
    distances = (rows - own).square().sum(dim=1).clamp_min(1e-20).sqrt() / vocabulary_spread(space)
    angles = 1 - torch.nn.functional.cosine_similarity(centred, target, dim=1)
    norms = rows.square().sum(dim=1).clamp_min(1e-20).sqrt()
    outside = torch.maximum(
        (norms / space.norms.max()).log(), (space.norms.min().clamp_min(1e-6) / norms).log()
    ).clamp_min(0)
    return torch.stack([distances.max(), distances.mean(), angles.max(), angles.mean(), outside.max()])
