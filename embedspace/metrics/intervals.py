"""Estimates with 95% confidence intervals: means, paired differences, effect sizes and shares."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float

CONFIDENCE = 0.95
MIN_ITEMS = 10
"""Of fewer values no bootstrap interval is made: it would be far too narrow."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its 95% confidence interval, or the values where they are too few for one.

    >>> f"{Interval(1.234, 0.98, 1.51, items=12):.2f}"
    '1.23 (0.98 to 1.51)'
    >>> f"{mean_interval([0.5, 1.0, 1.5]):.1f}"
    '1.0 (n = 3: 0.5, 1.0, 1.5)'
    """

    estimate: float
    low: float
    high: float
    items: int
    """Number of independent items (prompts, pairs)."""
    values: tuple[float, ...] = ()
    """Of the items, sorted, where they are too few for an interval."""

    @property
    def known(self) -> bool:
        """Whether there are bounds; they are NaN, and no comparison with them is true, where there are too few items or
        all values are equal."""
        return math.isfinite(self.low) and math.isfinite(self.high)

    @property
    def clear(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0

    def uncertainty(self, write: Callable[[float], str]) -> str:
        """What stands in brackets after the estimate: bounds, or number and values.

        Args:
            write: how a number is written.
        """
        if self.known:
            return f"{write(self.low)} to {write(self.high)}"
        if self.items >= MIN_ITEMS or (len(self.values) > 1 and self.values[0] == self.values[-1]):
            return f"n = {self.items}, all equal"
        return f"n = {self.items}" + (f": {', '.join(map(write, self.values))}" if self.values else "")

    def __format__(self, spec: str) -> str:
        """``f"{interval:.2f}"`` gives ``1.23 (0.98 to 1.51)``."""
        return f"{self.estimate:{spec}} ({self.uncertainty(lambda value: format(value, spec))})"

    @classmethod
    def unknown(cls, estimate: float, items: int, values: Iterable[float] = ()) -> Self:
        """An estimate without bounds."""
        return cls(estimate, math.nan, math.nan, items, tuple(sorted(values)))


Condition = tuple[str | float, ...]
"""Experimental condition, e.g. ``("style", 2.0)``."""


@dataclass(frozen=True)
class Measure:
    """One measure of many items (questions, pairs of prompts) under many conditions.

    >>> measure = Measure.of([(("plain",), 0, 1.0), (("plain",), 1, 2.0), (("style",), 0, 3.0), (("style",), 1, 4.0)])
    >>> measure.change(("plain",), ("style",)).estimate
    2.0
    """

    values: Mapping[Condition, Mapping[int, float]]
    """Condition -> item -> value."""

    @classmethod
    def of(cls, measured: Iterable[tuple[Condition, int, float]]) -> Self:
        """From (condition, item, value) triples; several values of an item under one condition are averaged."""
        found: dict[Condition, dict[int, list[float]]] = {}
        for condition, item, value in measured:
            found.setdefault(condition, {}).setdefault(item, []).append(value)
        return cls(
            {
                condition: {item: sum(values) / len(values) for item, values in items.items()}
                for condition, items in found.items()
            }
        )

    def __bool__(self) -> bool:
        """Whether anything was measured."""
        return bool(self.values)

    def mean(self, condition: Condition) -> Interval | None:
        """Mean over the items; None if none was measured."""
        found = self.values.get(condition)
        return mean_interval(list(found.values())) if found else None

    def share(self, condition: Condition) -> Interval | None:
        """Share of the items whose value is 1, with Wilson's interval; the mean where some are neither 0 nor 1.

        >>> f"{Measure({('plain',): dict.fromkeys(range(12), 1.0)}).share(('plain',)):.2f}"
        '1.00 (0.76 to 1.00)'
        """
        found = self.values.get(condition, {}).values()
        if not found or not {*found} <= {0, 1}:
            return self.mean(condition)
        return share_interval(round(sum(found)), len(found))

    def change(self, before: Condition, after: Condition) -> Interval | None:
        """Mean difference over the items measured under both conditions; None if there are none."""
        low, high = self.values.get(before, {}), self.values.get(after, {})
        shared = sorted(low.keys() & high.keys())
        return mean_interval([high[item] - low[item] for item in shared]) if shared else None

    def effect(self, before: Condition, after: Condition) -> Effect | None:
        """Size and p-value of :meth:`change`; None if fewer than two items were measured under both conditions."""
        from scipy.stats import wilcoxon

        low, high = self.values.get(before, {}), self.values.get(after, {})
        changes = [high[item] - low[item] for item in sorted(low.keys() & high.keys())]
        if len(changes) < 2:
            return None
        mean = sum(changes) / len(changes)
        spread = math.sqrt(sum((change - mean) ** 2 for change in changes) / (len(changes) - 1))
        if spread == 0:
            return Effect(0.0 if mean == 0 else math.copysign(math.inf, mean), 1.0 if mean == 0 else 0.0)
        return Effect(mean / spread, float(wilcoxon(changes).pvalue))

    def curve(self, places: Mapping[float, Condition]) -> dict[float, Interval]:
        """Means along an axis: position -> condition becomes position -> mean, where measured."""
        means = {position: self.mean(condition) for position, condition in sorted(places.items())}
        return {position: mean for position, mean in means.items() if mean is not None}


@dataclass(frozen=True)
class Effect:
    """Size of a paired difference, and the probability of one as large by chance."""

    size: float
    """Mean over standard deviation of the differences (Cohen's d of paired samples)."""
    p_value: float
    """Of Wilcoxon's signed-rank test (1945), two-sided."""


def bootstrap_confidence(items: int) -> float:
    """Confidence level of the quantiles that are taken for a 95% interval of a bootstrap over so many items.

    Samples that are drawn from a sample vary too little, by the share that divides by n and n - 1 and by the normal
    distribution in place of Student's; the quantiles are moved outwards accordingly (Hesterberg 2015, section 5.3).

    >>> [round(bootstrap_confidence(items), 3) for items in (10, 40, 1000)]
    [0.983, 0.959, 0.95]

    Raises:
        ValueError: fewer than two items.
    """
    from scipy.stats import norm, t

    if items < 2:
        raise ValueError(f"a bootstrap needs at least two items, got {items}")
    tail = norm.cdf(-math.sqrt(items / (items - 1)) * t.ppf((1 + CONFIDENCE) / 2, items - 1))
    return float(1 - 2 * tail)


def bootstrap_bounds(estimates: Float[np.ndarray, " draws"], items: int) -> tuple[float, float]:
    """Bounds of a percentile bootstrap over so many items, at :func:`bootstrap_confidence`.

    >>> import numpy as np
    >>> [round(bound, 1) for bound in bootstrap_bounds(np.linspace(0, 100, 1001), items=10)]
    [0.9, 99.1]
    """
    import numpy as np

    level = bootstrap_confidence(items)
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def mean_interval(values: Sequence[float], *, resamples: int = 2000, seed: int = 0) -> Interval:
    """Mean over items, with a bootstrap interval (bias-corrected and accelerated; Efron 1987) for ten or more.

    Of fewer items the values themselves are kept, and equal values make no interval: that they do not differ says
    little about how others would.

    >>> f"{mean_interval([1.0, 2.0] * 6):.2f}"
    '1.50 (1.17 to 1.83)'
    >>> f"{mean_interval([0.8] * 12):.2f}"
    '0.80 (n = 12, all equal)'

    Raises:
        ValueError: no values.
    """
    import numpy as np
    from scipy.stats import bootstrap

    sample = np.asarray(values, dtype=float)
    if not len(sample):
        raise ValueError("a mean needs at least one value, got none")
    mean = float(sample.mean())
    if len(sample) < MIN_ITEMS:
        return Interval.unknown(mean, len(sample), sample.tolist())
    if np.ptp(sample) < 1e-12:
        return Interval.unknown(mean, len(sample))
    resample = partial(
        bootstrap,
        (sample,),
        np.mean,
        n_resamples=resamples,
        confidence_level=bootstrap_confidence(len(sample)),
        rng=seed,
    )
    bounds = resample(method="BCa").confidence_interval
    if not np.isfinite([bounds.low, bounds.high]).all():  # BCa is not defined for some samples of few values
        bounds = resample(method="percentile").confidence_interval
    return Interval(mean, float(bounds.low), float(bounds.high), len(sample))


def share_interval(hits: int, items: int, method: Literal["wilson", "exact"] = "wilson") -> Interval:
    """Share of items that are independent of each other, with an interval that is meaningful near 0 and 1.

    >>> f"{share_interval(hits=9, items=10):.0%}", f"{share_interval(hits=9, items=10, method='exact'):.0%}"
    ('90% (60% to 98%)', '90% (55% to 100%)')

    Args:
        hits: items that count.
        items: all items.
        method: ``wilson`` (1927), whose coverage is 95% on average over shares; ``exact`` (Clopper and Pearson 1934),
            whose coverage is at least 95% for every share.

    Raises:
        ValueError: no items.
    """
    from scipy.stats import binomtest

    if not items:
        raise ValueError("a share needs at least one item, got none")
    bounds = binomtest(hits, items).proportion_ci(CONFIDENCE, method=method)
    return Interval(hits / items, float(bounds.low), float(bounds.high), items)
