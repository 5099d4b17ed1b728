"""Populations whose truth is known, and the intervals that reports would write of samples of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.random import Generator

from embedspace.metrics import (
    Interval,
    Measure,
    SourceScores,
    kept_share,
    mean_interval,
    ratio_interval,
    recall_difference,
    share_interval,
)

CLUSTER_SIZE = 5
"""Items in each cluster."""
_TEXTS, _BENIGN_SOURCES, _RATE = 15, 12, 0.05
"""Attacks of a source, sources of 60 benign texts each, and the false-positive rate."""
_HARD, _SOURCE_SPREAD, _BETTER, _BETTER_SPREAD = 1.5, 0.7, 0.5, 0.5
"""Scores of attacks: mean and spread over sources; how much higher the better detector's are, and that one's spread."""


@dataclass(frozen=True)
class Population:
    """One kind of interval on one kind of data."""

    interval: str
    """As ``embedspace.metrics`` names it."""
    items: str
    """What is drawn."""
    truth: float
    sample: Callable[[Generator, int], Interval]
    """The interval of a sample of so many independent units."""


def _mean(draw: Callable[[Generator, int], np.ndarray], rng: Generator, units: int) -> Interval:
    return mean_interval(draw(rng, units).tolist())


def _share(truth: float, method: str, rng: Generator, units: int) -> Interval:
    return share_interval(int(rng.binomial(units, truth)), units, "exact" if method == "exact" else "wilson")


def _clusters(rng: Generator, units: int) -> tuple[np.ndarray, list[int]]:
    """Items of which half of the variance is their cluster's."""
    effects = np.repeat(rng.normal(0, math.sqrt(0.5), units), CLUSTER_SIZE)
    own = [number for number in range(units) for _ in range(CLUSTER_SIZE)]
    return effects + rng.normal(0, math.sqrt(0.5), len(effects)), own


def _clustered(rng: Generator, units: int) -> Interval:
    values, clusters = _clusters(rng, units)
    return ratio_interval(values.tolist(), None, clusters)


def _clusters_ignored(rng: Generator, units: int) -> Interval:
    return mean_interval(_clusters(rng, units)[0].tolist())


def _clustered_share(rng: Generator, units: int) -> Interval:
    """Clusters that are right throughout with probability 0.6, wrong throughout with 0.2, and mixed otherwise."""
    chances = rng.choice([1.0, 0.0, 0.5], size=units, p=[0.6, 0.2, 0.2])
    hits = rng.random((units, CLUSTER_SIZE)) < chances[:, None]
    clusters = [number for number in range(units) for _ in range(CLUSTER_SIZE)]
    return ratio_interval(hits.astype(float).ravel().tolist(), None, clusters)


def _kept(rng: Generator, units: int) -> Interval:
    """A method that keeps half of gains that differ much between items, and are negative for some."""
    gains = rng.lognormal(0, 0.7, units) - 0.3
    kept = 0.5 * gains + rng.normal(0, 0.5, units)
    names = {("none",): np.zeros(units), ("kept",): kept, ("all",): gains}
    measure = Measure({name: dict(enumerate(values.tolist())) for name, values in names.items()})
    share = kept_share(measure, ("kept",), nothing=("none",), everything=("all",))
    assert share is not None
    return share


def _recall_difference(rng: Generator, units: int) -> Interval:
    """Two detectors on sources of attacks that are hard to different degrees."""
    hard = rng.normal(_HARD, _SOURCE_SPREAD, units)
    better = rng.normal(_BETTER, _BETTER_SPREAD, units)
    benign = {f"b{number}": rng.normal(0, 1, 60) for number in range(_BENIGN_SOURCES)}
    weak = {f"a{number}": rng.normal(mean, 1, _TEXTS) for number, mean in enumerate(hard)}
    strong = {name: scores + more for (name, scores), more in zip(weak.items(), better, strict=True)}
    own, other = (
        SourceScores(
            *({name: scores.tolist() for name, scores in side.items()} for side in (attacks, benign))
        )
        for attacks in (strong, weak)
    )
    return recall_difference(own, other, _RATE)


def _true_recall_difference() -> float:
    """Of all sources: both detectors' scores of an attack are normal."""
    from scipy.stats import norm

    threshold = norm.ppf(1 - _RATE)
    strong = norm.sf(threshold, _HARD + _BETTER, math.sqrt(1 + _SOURCE_SPREAD**2 + _BETTER_SPREAD**2))
    return float(strong - norm.sf(threshold, _HARD, math.sqrt(1 + _SOURCE_SPREAD**2)))


POPULATIONS = (
    Population("mean_interval", "normal", 0.0, partial(_mean, lambda rng, n: rng.normal(0, 1, n))),
    Population(
        "mean_interval",
        "skewed (log-normal, sigma 1)",
        math.exp(0.5),
        partial(_mean, lambda rng, n: rng.lognormal(0, 1, n)),
    ),
    Population(
        "mean_interval",
        "heavy tails (t, 3 degrees)",
        0.0,
        partial(_mean, lambda rng, n: rng.standard_t(3, n)),
    ),
    *(
        Population(
            f"share_interval, {method}", f"0 or 1, share {truth:g}", truth, partial(_share, truth, method)
        )
        for method in ("wilson", "exact")
        for truth in (0.5, 0.9, 0.98)
    ),
    Population(
        "ratio_interval", f"clusters of {CLUSTER_SIZE}, half of the variance between them", 0.0, _clustered
    ),
    Population(
        "ratio_interval", f"0 or 1, share 0.7, clusters of {CLUSTER_SIZE} alike", 0.7, _clustered_share
    ),
    Population(
        "mean_interval, clusters ignored", "the same clusters, for comparison", 0.0, _clusters_ignored
    ),
    Population("kept_share", "half of gains that differ much", 0.5, _kept),
    Population(
        "recall_difference",
        "sources of attacks, at a rate of 5%",
        _true_recall_difference(),
        _recall_difference,
    ),
)
"""What is measured, in the order of the table."""
