"""The layers on mean rows of windows: a logistic regression, and cosines to reference prompts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import normalize

from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from embedspace.safety.reading import Reading
    from embedspace.space import EmbeddingSpace


def window_means(
    space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], windows: Sequence[tuple[int, int]]
) -> Float[Tensor, "windows hidden"]:
    """The mean row of each window, minus the vocabulary's mean."""
    return torch.stack([rows[start:stop].mean(dim=0) for start, stop in windows]) - space.mean.to(rows.device)


@dataclass(frozen=True, eq=False)
class PooledHead:
    """Probability of an attack from the centred mean row of each window; a prompt gets its windows' highest."""

    name: ClassVar[str] = "pooled"
    costly: ClassVar[bool] = False
    stored: ClassVar[dict[str, torch.dtype]] = {"coefficients": torch.float32, "intercept": torch.float32}

    coefficients: Float[Tensor, " hidden"]
    intercept: Float[Tensor, ""]

    @classmethod
    def fit(cls, safe: Sequence[Reading], unsafe: Sequence[Reading], *, strength: float = 3.0) -> PooledHead:
        """Fitted on all windows; the weights of a prompt's windows sum to 1.

        Args:
            safe, unsafe: the two classes.
            strength: inverse of the regularisation, scikit-learn's ``C``, on features of unit variance each.
        """
        from sklearn.linear_model import LogisticRegression

        means = [_means(reading) for reading in (*safe, *unsafe)]
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
        """Probability of the highest-scoring window."""
        found = self.logits(_means(reading)).sigmoid().tolist()
        worst = max(range(len(found)), key=found.__getitem__)
        reason = f"mean row like those of attacks: {found[worst]:.2f}"
        return Finding(found[worst], reason, reading.windows[worst], windows=tuple(found))

    def logits(self, means: Float[Tensor, "windows hidden"]) -> Float[Tensor, " windows"]:
        """Log-odds of an attack for :func:`window_means`; differentiable."""
        return means @ self.coefficients + self.intercept


@dataclass(frozen=True, eq=False)
class References:
    """How much closer a prompt's windows are to unsafe reference prompts than to safe ones.

    A window's margin is its highest centred cosine to an unsafe reference minus that to a safe one. The score is a
    logistic function of the mean of the highest margin and the mean margin.
    """

    name: ClassVar[str] = "references"
    costly: ClassVar[bool] = False
    stored: ClassVar[dict[str, torch.dtype]] = {"directions": torch.float16, "unsafe": torch.bool}

    directions: Float[Tensor, "references hidden"]
    """Centred mean rows of the references' windows, of norm 1."""
    unsafe: Bool[Tensor, " references"]
    owners: tuple[str, ...]
    """The prompt of each direction: ``safe 3`` is the fourth safe prompt."""
    steepness: float = 8.0

    @classmethod
    def fit(cls, safe: Sequence[Reading], unsafe: Sequence[Reading]) -> References:
        """Keeps the direction of every window of every prompt."""
        means, labels, owners = [], [], []
        for side, readings in (("safe", safe), ("unsafe", unsafe)):
            for number, reading in enumerate(readings):
                means.append(_means(reading))
                labels += [side == "unsafe"] * len(means[-1])
                owners += [f"{side} {number}"] * len(means[-1])
        directions = normalize(torch.cat(means), dim=1).half().float()  # as they are stored
        return cls(directions, torch.tensor(labels), tuple(owners))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """From the highest margin and all of them."""
        margins, cosines, nearest = self._margins(_means(reading))
        worst = int(margins.argmax())
        owner = self.owners[int(nearest[worst])]
        cosine, margin = float(cosines[worst]), float(margins[worst])
        reason = f"centred cosine {cosine:.2f} to {owner}, {margin:+.2f} against safe ones"
        return Finding(float(self._probability(margins)), reason, reading.windows[worst], owner)

    def probability(self, means: Float[Tensor, "windows hidden"]) -> Float[Tensor, ""]:
        """The score for :func:`window_means`; differentiable."""
        return self._probability(self._margins(means)[0])

    def _margins(
        self, means: Float[Tensor, "windows hidden"]
    ) -> tuple[Float[Tensor, " windows"], Float[Tensor, " windows"], Int[Tensor, " windows"]]:
        """Margins, and cosine and index of the nearest unsafe reference."""
        cosines = normalize(means, dim=1) @ self.directions.T
        unsafe, nearest = cosines.masked_fill(~self.unsafe, -1).max(dim=1)
        return unsafe - cosines.masked_fill(self.unsafe, -1).max(dim=1).values, unsafe, nearest

    def _probability(self, margins: Float[Tensor, " windows"]) -> Float[Tensor, ""]:
        return (self.steepness * (margins.max() + margins.mean()) / 2).sigmoid()


def _means(reading: Reading) -> Float[Tensor, "windows hidden"]:
    return window_means(reading.space, reading.rows, reading.windows)
