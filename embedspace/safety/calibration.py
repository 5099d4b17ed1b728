"""The threshold: from scores of benign prompts to a bound on the share of them that is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedspace.metrics import CONFIDENCE


@dataclass(frozen=True)
class Calibration:
    """How a threshold came about."""

    rate: float
    """The false-positive rate that was asked for."""
    prompts: int
    """Benign prompts that it was found on."""
    low: float
    high: float
    """Between these lies the true rate of this threshold, with a confidence of 95%: the quantiles of its Beta
    distribution (Vovk 2012), which is exact for scores without ties."""


def conformal_threshold(scores: Sequence[float], rate: float) -> tuple[float, Calibration]:
    """The split-conformal threshold of benign scores (Vovk et al. 2005).

    With n scores, the ceil((n + 1)(1 - rate))-th smallest. For a new benign prompt, exchangeable with those, the
    probability that its score is higher is at most ``rate``, whatever the distribution; taken over the draw of the
    calibration set as well. For one calibration set the rate itself varies: :class:`Calibration` says how much.

    Raises:
        ValueError: a rate outside (0, 1), a score that is not a number, or too few scores for the rate.
    """
    if not 0 < rate < 1:
        raise ValueError(
            f"max_false_positive_rate must lie between 0 and 1, got {rate!r}; 0.01 is a usable one"
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
