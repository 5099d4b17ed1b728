"""What one way of telling attacks from benign texts says of the sealed texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from embedspace.metrics import Interval, share_interval
from embedspace.safety.calibration import conformal_threshold
from experiments.safety.data import Example

SHIPPED = "shipped filter"
"""Name of the way that all others are compared with."""


@dataclass(frozen=True, eq=False)
class Measured:
    """What one way says of the sealed texts, and of the two halves of the calibration texts."""

    examples: Sequence[Example]
    scores: np.ndarray
    half: np.ndarray
    rest: np.ndarray

    def threshold(self, rate: float) -> float:
        """The conformal threshold on the first half."""
        return conformal_threshold([float(score) for score in self.half], rate)[0]

    def rows(self, side: str, *, hard: bool | None, first_look: bool = False) -> list[bool]:
        """Which texts are of a side, hard or not where that is asked for, of sources never looked at before or any."""
        return [
            e.source.side == side and hard in (None, e.source.hard) and not (first_look and e.source.looks)
            for e in self.examples
        ]

    def share(self, rows: Sequence[bool], threshold: float) -> Interval:
        """Share of some texts whose score is above a threshold."""
        picked = self.scores[np.asarray(rows)]
        return share_interval(int((picked > threshold).sum()), len(picked))

    def refused(
        self, side: str, threshold: float, *, hard: bool = False, first_look: bool = False
    ) -> Interval:
        """Share of texts of a side that are refused; attacks are direct ones unless ``hard``."""
        return self.share(self.rows(side, hard=hard, first_look=first_look), threshold)

    def allowed(self, threshold: float, *, hard: bool | None = None, first_look: bool = False) -> Interval:
        """Share of benign texts that are allowed."""
        refused = self.share(self.rows("benign", hard=hard, first_look=first_look), threshold)
        return Interval(1 - refused.estimate, 1 - refused.high, 1 - refused.low, refused.items)

    def auroc(self, resamples: int = 1000, seed: int = 0) -> Interval:
        """Probability that a direct attack scores higher than a benign text, with a bootstrap over texts."""
        attacks = np.sort(self.scores[np.asarray(self.rows("attack", hard=False))])
        benign = np.sort(self.scores[np.asarray(self.rows("benign", hard=None))])
        draw = np.random.default_rng(seed)
        values = [
            _auroc(draw.choice(attacks, len(attacks)), draw.choice(benign, len(benign)))
            for _ in range(resamples)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(_auroc(attacks, benign), float(low), float(high), len(attacks) + len(benign))


def _auroc(attacks: np.ndarray, benign: np.ndarray) -> float:
    """Mann and Whitney's statistic (1947), ties counting half."""
    ordered = np.sort(benign)
    below, up_to = np.searchsorted(ordered, attacks, "left"), np.searchsorted(ordered, attacks, "right")
    return float((below + up_to).mean() / (2 * len(benign)))
