"""The threshold: calibrated on benign prompts so that at most a given share of them is refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from embedspace.metrics import CONFIDENCE

LENGTHS = (8, 64, 512)
"""Longest prompts of each class of lengths, in rows; the last class has the longer ones."""


@dataclass(frozen=True)
class LengthClass:
    """The threshold of prompts of some lengths."""

    most_rows: int | None
    """Rows of its longest prompts, of which the template's do not count; None: there is no limit."""
    threshold: float
    prompts: int
    """Number of benign prompts of these lengths."""
    low: float
    high: float
    """95% interval of this threshold's true rate."""


@dataclass(frozen=True)
class Calibration:
    """How a threshold was calibrated; see :func:`conformal_threshold` and :func:`thresholds_by_length`."""

    rate: float
    """The requested false-positive rate."""
    prompts: int
    """Number of benign prompts."""
    low: float
    high: float
    """95% interval of this threshold's true rate: quantiles of its Beta distribution (Vovk 2012), exact for scores
    without ties. With several classes the lowest and the highest bound of any."""
    classes: tuple[LengthClass, ...] = ()
    """Shortest first; empty where one threshold is for all lengths."""

    def __repr__(self) -> str:
        by_length = ", ".join(
            f"{'more' if each.most_rows is None else f'up to {each.most_rows}'} rows {each.threshold:.3f}"
            for each in self.classes
        )
        thresholds = f", thresholds: {by_length}" if by_length else ""
        return f"Calibration(rate={self.rate:g}, prompts={self.prompts}{thresholds})"

    def threshold(self, rows: int) -> float | None:
        """The threshold of prompts of so many rows; None where there is one for all lengths."""
        return next(
            (each.threshold for each in self.classes if each.most_rows is None or rows <= each.most_rows),
            None,
        )


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
    needed = _least_prompts(rate)
    if count < needed:
        raise ValueError(
            f"{count} benign prompts are too few for a false-positive rate of {rate:g}: give at least {needed}, "
            f"or ask for a rate of at least {1 / (count + 1):.3g}"
        )
    from scipy.stats import beta

    rank = min(count, math.ceil((count + 1) * (1 - rate) - 1e-9))
    bounds = beta.ppf([(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], count + 1 - rank, rank)
    return sorted(scores)[rank - 1], Calibration(rate, count, float(bounds[0]), float(bounds[1]))


def thresholds_by_length(
    scores: Sequence[float], rows: Sequence[int], rate: float
) -> tuple[float, Calibration]:
    """A conformal threshold for each class of lengths, so that the rate holds for short prompts and for long ones.

    The highest of many windows is higher than that of one, so a threshold for all lengths would refuse long benign
    prompts and let short attacks pass. Each class is calibrated by itself (Mondrian conformal prediction, Vovk et al.
    2005); one with too few prompts for the rate joins its longer neighbour.

    >>> scores = [n / 1000 for n in range(400)]
    >>> threshold, calibration = thresholds_by_length(scores, [5] * 200 + [90] * 200, 0.05)
    >>> [(each.most_rows, each.threshold) for each in calibration.classes]
    [(8, 0.19), (None, 0.39)]
    >>> threshold, calibration.threshold(6)
    (0.39, 0.19)

    Args:
        scores: of benign prompts.
        rows: of each, without the template's.
        rate: the false-positive rate.

    Returns:
        The highest threshold, and the calibration.

    Raises:
        ValueError: as :func:`conformal_threshold`.
    """
    highest, overall = conformal_threshold(scores, rate)
    needed = _least_prompts(rate)
    groups: list[tuple[int | None, list[float]]] = []
    waiting: list[float] = []
    shortest = 0
    for most in (*LENGTHS, None):
        waiting += [
            score
            for score, length in zip(scores, rows, strict=True)
            if shortest < length and (most is None or length <= most)
        ]
        shortest = most or shortest
        if len(waiting) >= needed:
            groups.append((most, waiting))
            waiting = []
    groups[-1] = (None, groups[-1][1] + waiting)
    if len(groups) < 2:
        return highest, overall
    classes = []
    for most, own in groups:
        threshold, found = conformal_threshold(own, rate)
        classes.append(LengthClass(most, threshold, found.prompts, found.low, found.high))
    return max(each.threshold for each in classes), Calibration(
        rate,
        overall.prompts,
        min(each.low for each in classes),
        max(each.high for each in classes),
        tuple(classes),
    )


def _least_prompts(rate: float) -> int:
    """Benign prompts that a threshold for a rate needs."""
    return math.ceil(1 / rate - 1e-9) - 1
