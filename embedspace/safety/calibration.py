"""The threshold: calibrated on benign prompts so that at most a given share of them is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedspace.metrics import CONFIDENCE


@dataclass(frozen=True)
class Calibration:
    """How a threshold was calibrated; see :func:`conformal_threshold`."""

    rate: float
    """The requested false-positive rate."""
    prompts: int
    """Number of benign prompts."""
    low: float
    high: float
    """95% interval of this threshold's true rate: quantiles of its Beta distribution (Vovk 2012), exact for scores
    without ties."""


def conformal_threshold(scores: Sequence[float], rate: float) -> tuple[float, Calibration]:
    """The split-conformal threshold of benign scores (Vovk et al. 2005).

    With n scores, the ceil((n + 1)(1 - rate))-th smallest. The probability that the score of a new, exchangeable benign
    prompt is higher is at most ``rate`` for any distribution, on average over calibration sets; :class:`Calibration`
    has the interval for the given set.

    >>> threshold, calibration = conformal_threshold([n / 100 for n in range(99)], rate=0.05)
    >>> threshold, calibration.prompts, round(calibration.high, 2)
    (0.94, 99, 0.1)

    Raises:
        ValueError: a rate outside (0, 1), a score that is not a number, or too few scores for the rate.
    """
    if not 0 < rate < 1:
        raise ValueError(
            f"max_false_positive_rate must lie between 0 and 1, got {rate!r}; 0.01 is a common choice"
        )
    if any(math.isnan(score) for score in scores):
        raise ValueError(
            f"{sum(map(math.isnan, scores))} of {len(scores)} calibration scores are not numbers"
        )
    count = len(scores)
    needed = math.ceil(1 / rate - 1e-9) - 1
    if count < needed:
        raise ValueError(
            f"{count} benign prompts are too few for a false-positive rate of {rate:g}: give at least {needed}, "
            f"or ask for a rate of at least {1 / (count + 1):.3g}"
        )
    from scipy.stats import beta

    rank = min(count, math.ceil((count + 1) * (1 - rate) - 1e-9))
    bounds = beta.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], count + 1 - rank, rank)
    return sorted(scores)[rank - 1], Calibration(rate, count, float(bounds[0]), float(bounds[1]))
