"""Estimates whose items come in clusters: several questions about one document, several fillings of one pattern."""

from __future__ import annotations

from collections.abc import Hashable, Sequence

from embedspace.metrics.intervals import (
    MIN_ITEMS,
    Condition,
    Interval,
    Measure,
    bootstrap_bounds,
    share_interval,
)


def ratio_interval(
    values: Sequence[float],
    weights: Sequence[float] | None,
    clusters: Sequence[Hashable],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> Interval:
    """Sum of the values over the sum of the weights, with a percentile bootstrap interval over clusters.

    Items of a cluster are drawn together, since they are not independent (Field and Welsh 2007). Without weights the
    estimate is the mean. The interval's ``items`` are the clusters. Of fewer than ten clusters no interval is made. Nor
    do equal values make one, but a share of none or of all items has Wilson's, in which each cluster counts once.

    >>> f"{ratio_interval([1.0, 1.0, 0.0, 0.0] * 5, None, [number // 2 for number in range(20)]):.1f}"
    '0.5 (0.1 to 0.9)'
    >>> f"{ratio_interval([0.0] * 20, None, range(20)):.2f}"
    '0.00 (0.00 to 0.16)'

    Args:
        values: one for each item.
        weights: one for each item; None for weights of 1.
        clusters: what each item belongs to.
        resamples: number of draws.
        seed: of the draws.

    Raises:
        ValueError: no items, or not as many values, weights and clusters.
    """
    import numpy as np

    own = [1.0] * len(values) if weights is None else weights
    if not len(values) == len(own) == len(clusters) or not len(values):
        raise ValueError(
            f"a ratio needs a value, a weight and a cluster for each of its items, got {len(values)}, {len(own)} and "
            f"{len(clusters)}"
        )
    numbers = {cluster: number for number, cluster in enumerate(dict.fromkeys(clusters))}
    place = [numbers[cluster] for cluster in clusters]
    sums = np.stack([np.bincount(place, each, minlength=len(numbers)) for each in (values, own)])
    estimate = float(sums[0].sum() / sums[1].sum())
    if weights is None and estimate in (0, 1) and {*values} == {estimate}:
        return share_interval(round(estimate) * len(numbers), len(numbers))
    if len(numbers) < MIN_ITEMS:
        return Interval.unknown(estimate, len(numbers))
    draws = np.random.default_rng(seed).integers(len(numbers), size=(resamples, len(numbers)))
    drawn = sums[:, draws].sum(axis=2)
    low, high = bootstrap_bounds(drawn[0] / drawn[1], len(numbers))
    if high - low < 1e-12:
        return Interval.unknown(estimate, len(numbers))
    return Interval(estimate, low, high, len(numbers))


def kept_share(
    measure: Measure, condition: Condition, *, nothing: Condition, everything: Condition, seed: int = 0
) -> Interval | None:
    """Share of the gain from ``nothing`` to ``everything`` that a condition keeps; None if it was not measured.

    The ratio of mean gains, not the mean of ratios, which items with a gain near zero would dominate. Percentile
    bootstrap interval over items, where there are ten or more; the three values of an item are drawn together.

    >>> values = {("none",): (0.0, 0.0), ("half",): (1.0, 2.0), ("all",): (2.0, 4.0)}
    >>> measure = Measure({name: dict(enumerate(items)) for name, items in values.items()})
    >>> f"{kept_share(measure, ('half',), nothing=('none',), everything=('all',)):.0%}"
    '50% (n = 2)'
    """
    found = [measure.values.get(place, {}) for place in (condition, nothing, everything)]
    shared = sorted(set.intersection(*map(set, found)))
    kept, gains = ([values[item] - found[1][item] for item in shared] for values in (found[0], found[2]))
    return ratio_interval(kept, gains, shared, seed=seed) if sum(gains) else None
