"""The pooled head: a logistic regression on the mean centred row, the cheapest of the learned layers."""

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


@dataclass(frozen=True, eq=False)
class PooledHead:
    """Probability of an attack from the mean row of each window, the vocabulary's mean removed; the highest counts."""

    name: ClassVar[str] = "pooled"

    coefficients: Float[Tensor, " hidden"]
    intercept: Float[Tensor, ""]

    @classmethod
    def fit(cls, safe: Sequence[Reading], unsafe: Sequence[Reading], *, strength: float = 3.0) -> PooledHead:
        """Fitted on all windows of all prompts, a prompt's windows weighing as much as one.

        Args:
            safe, unsafe: the two sides.
            strength: inverse of the regularisation, scikit-learn's ``C``, on features of unit variance each.
        """
        from sklearn.linear_model import LogisticRegression

        readings = [*safe, *unsafe]
        means = [window_means(r.space, r.rows, r.windows) for r in readings]
        features = torch.cat(means)
        scale = features.std(dim=0).clamp_min(1e-6)
        labels = [int(n >= len(safe)) for n, each in enumerate(means) for _ in each]
        weights = [1 / len(each) for each in means for _ in each]
        fitted = LogisticRegression(
            C=strength / features.shape[1], max_iter=2000, class_weight="balanced"
        ).fit((features / scale).numpy(), labels, sample_weight=weights)
        coefficients = torch.from_numpy(fitted.coef_[0]).float() / scale
        return cls(coefficients, torch.tensor(float(fitted.intercept_[0])))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """Probability of the window that looks worst."""
        logits = self._logits(reading.space, reading.rows, reading.windows)
        worst = int(logits.argmax())
        probability = float(logits[worst].sigmoid())
        return Finding(
            probability, f"mean row like those of attacks: {probability:.2f}", reading.windows[worst]
        )

    def logit(self, space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        """Log-odds of the window that looks worst, differentiable in the rows.

        The windows are laid over all rows, as over a prompt without special tokens.
        """
        from embedspace.safety.reading import spread

        return self._logits(space, vectors.float(), spread(0, len(vectors))).max()

    def _logits(
        self, space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], windows: Sequence[tuple[int, int]]
    ) -> Float[Tensor, " windows"]:
        means = window_means(space, rows, windows)
        return means @ self.coefficients.to(rows.device) + self.intercept.to(rows.device)


def window_means(
    space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], windows: Sequence[tuple[int, int]]
) -> Float[Tensor, "windows hidden"]:
    """The mean row of each window, minus the vocabulary's."""
    return torch.stack([rows[start:stop].mean(dim=0) for start, stop in windows]) - space.mean.to(rows.device)
