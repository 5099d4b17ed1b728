"""Detection metrics of one method on the sealed texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedspace.metrics import Interval, auroc, share_interval
from embedspace.safety import conformal_threshold
from experiments.safety.data import Example

SHIPPED = "shipped filter"
"""Name of the method that all others are compared with."""


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Scores of one method on the sealed texts and on the two halves of the calibration texts."""

    examples: Sequence[Example]
    scores: np.ndarray
    calibration: np.ndarray
    held_out: np.ndarray

    def threshold(self, rate: float) -> float:
        """The conformal threshold of the calibration half."""
        return conformal_threshold([float(score) for score in self.calibration], rate)[0]

    def rows(self, side: str, *, hard: bool | None, unseen: bool = False) -> list[bool]:
        """Which texts are of a class, optionally only hard ones or not, or only of sources without earlier uses."""
        return [
            e.source.side == side and hard in (None, e.source.hard) and not (unseen and e.source.looks)
            for e in self.examples
        ]

    def share(self, rows: Sequence[bool], threshold: float) -> Interval:
        """Share of the selected texts with a score above a threshold."""
        picked = self.scores[np.asarray(rows)]
        return share_interval(int((picked > threshold).sum()), len(picked))

    def refused(self, side: str, threshold: float, *, hard: bool = False, unseen: bool = False) -> Interval:
        """Share of texts of a class that are refused; direct attacks unless ``hard``."""
        return self.share(self.rows(side, hard=hard, unseen=unseen), threshold)

    def allowed(self, threshold: float, *, hard: bool | None = None, unseen: bool = False) -> Interval:
        """Share of benign texts that are allowed."""
        refused = self.share(self.rows("benign", hard=hard, unseen=unseen), threshold)
        return Interval(1 - refused.estimate, 1 - refused.high, 1 - refused.low, refused.items)

    def auroc(self, resamples: int = 1000, seed: int = 0) -> Interval:
        """Probability that a direct attack scores higher than a benign text, with a bootstrap over texts."""
        attacks = np.sort(self.scores[np.asarray(self.rows("attack", hard=False))])
        benign = np.sort(self.scores[np.asarray(self.rows("benign", hard=None))])
        rng = np.random.default_rng(seed)
        values = [
            auroc(rng.choice(attacks, len(attacks)), rng.choice(benign, len(benign)))
            for _ in range(resamples)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(auroc(attacks, benign), float(low), float(high), len(attacks) + len(benign))
