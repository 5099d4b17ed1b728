"""The manifold layer: how far the rows of a prompt are from rows that a text could have."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.safety.verdict import Finding
from embedspace.space import nearest_tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.safety.reading import Reading
    from embedspace.space import EmbeddingSpace

MEASURES = ("farthest row", "rows on average", "largest angle", "angles on average", "norm out of range")
ROUNDING = 1 / 128
"""Distance, in units of a row's own, that a cast to bfloat16 may make."""


@dataclass(frozen=True, eq=False)
class Manifold:
    """Distance and angle of each row to the nearest row of the vocabulary, and its norm against the vocabulary's range.

    Rows of the table, casts of them included, score 0. For all others five measures are compared with what is allowed:
    the largest and the mean distance (in units of the vocabulary's mean distance from its mean row), the largest and
    the mean angle (1 - centred cosine), and how far a norm lies outside the vocabulary's range (in natural logarithms).
    The score is 0 up to what is allowed and 1 + log(measure / allowed) above it.
    """

    name: ClassVar[str] = "manifold"

    allowed: Float[Tensor, " measures"]
    """The most of each of ``MEASURES``."""

    @classmethod
    def fit(cls, readings: Sequence[Reading], *, margin: float = 1.1) -> Manifold:
        """What is allowed: rounding, or what the prompts of a deployment's own transforms need, with a margin.

        Args:
            readings: prompts as the declared transforms (a style shift, a blend, a projector) make them.
            margin: times the largest value of each measure among them.
        """
        allowed = torch.tensor([ROUNDING, ROUNDING, ROUNDING, ROUNDING, ROUNDING])
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
        """0 where every row is as near to the vocabulary as allowed, more than 1 elsewhere."""
        exact = reading.tokens.exact
        if bool(exact.all()):
            return Finding(0.0, "all rows are rows of the vocabulary")
        with torch.no_grad():
            ratios = measures(reading.space, reading.rows, reading.tokens.ids) / self.allowed
        worst = int(ratios.argmax())
        strange = int((~exact).sum())
        reason = (
            f"{strange} of {len(exact)} rows are no rows of the vocabulary; {MEASURES[worst]}: "
            f"{float(ratios[worst]):.3g} times what is allowed"
        )
        row = int((~exact).nonzero()[0])
        score = 0.0 if ratios[worst] <= 1 else 1 + float(ratios[worst].log())
        return Finding(score, reason, (row, row + 1) if score else None)

    def distance(self, space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """The largest of the measures' ratios to what is allowed (allowed up to 1), differentiable in the rows.

        The nearest rows are found without a gradient; the distances to them carry one.
        """
        ids = nearest_tokens(space, vectors.detach())
        return (measures(space, vectors.cpu().float(), ids) / self.allowed).max()


def measures(
    space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], ids: Tensor
) -> Float[Tensor, " measures"]:
    """The five ``MEASURES`` of a prompt's rows against the tokens they are nearest to; differentiable in the rows."""
    own = space.lookup(ids.tolist()).float()
    centred, target = rows - space.mean, own - space.mean
    unit = float((space.norms.square().mean() - space.mean.square().sum()).clamp_min(1e-12).sqrt())
    distances = (rows - own).square().sum(dim=1).clamp_min(1e-20).sqrt() / unit
    angles = 1 - torch.nn.functional.cosine_similarity(centred, target, dim=1)
    norms = rows.square().sum(dim=1).clamp_min(1e-20).sqrt()
    outside = torch.maximum(
        (norms / space.norms.max()).log(), (space.norms.min().clamp_min(1e-6) / norms).log()
    ).clamp_min(0)
    return torch.stack([distances.max(), distances.mean(), angles.max(), angles.mean(), outside.max()])
