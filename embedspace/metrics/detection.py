"""Detectors on texts of several sources: ranking, recall at a false-positive rate, and paired differences of recall."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedspace.metrics.intervals import MIN_ITEMS, Interval, bootstrap_bounds, mean_interval

if TYPE_CHECKING:
    import numpy as np
    from jaxtyping import Float


def auroc(
    attacks: Sequence[float] | Float[np.ndarray, " attacks"],
    benign: Sequence[float] | Float[np.ndarray, " benign"],
) -> float:
    """Probability that an attack scores higher than a benign text (Mann and Whitney 1947), ties counting half.

    >>> auroc([0.9, 0.5], [0.1, 0.5])
    0.875

    Raises:
        ValueError: no attacks or no benign texts.
    """
    import numpy as np

    if not len(attacks) or not len(benign):
        raise ValueError(f"a ranking needs both classes, got {len(attacks)} attacks and {len(benign)} benign")
    ordered = np.sort(benign)
    below, up_to = np.searchsorted(ordered, attacks, "left"), np.searchsorted(ordered, attacks, "right")
    return float((below + up_to).mean() / (2 * len(benign)))


def macro_average(values: Sequence[float], sources: Sequence[str]) -> Interval:
    """Mean over sources of the mean within each: no source counts for more because it has more items.

    The sources are the independent units: the interval is a bootstrap over them, and the interval's ``items`` are they.
    Of fewer than ten sources no interval is made, and the sources' means are kept.

    >>> f"{macro_average([1.0, 1.0, 1.0, 0.0], ['mail', 'mail', 'mail', 'news']):.1f}"
    '0.5 (n = 2: 0.0, 1.0)'

    Raises:
        ValueError: no items, or not as many values and sources.
    """
    if len(values) != len(sources) or not len(values):
        raise ValueError(
            f"an average over sources needs a source for each value, got {len(values)} and {len(sources)}"
        )
    found: dict[str, list[float]] = {}
    for value, source in zip(values, sources, strict=True):
        found.setdefault(source, []).append(value)
    return mean_interval([sum(own) / len(own) for own in found.values()])


@dataclass(frozen=True)
class SourceScores:
    """Scores of one detector, source by source; higher is more suspicious.

    >>> SourceScores({"mail": [0.9, 0.2]}, {"news": [0.1, 0.3, 0.2, 0.0]}).recall(rate=0.25)
    0.5

    Raises:
        ValueError: no sources of a class, or a source without scores.
    """

    attacks: Mapping[str, Sequence[float]]
    benign: Mapping[str, Sequence[float]]

    def __post_init__(self) -> None:
        for name, sources in (("attacks", self.attacks), ("benign", self.benign)):
            if not sources or not all(len(scores) for scores in sources.values()):
                sizes = {source: len(scores) for source, scores in sources.items()}
                raise ValueError(
                    f"{name} must have at least one source, and each of them scores; got {sizes}"
                )

    def threshold(self, rate: float) -> float:
        """Lowest threshold above which at most this share of benign texts scores (mean over sources).

        Raises:
            ValueError: a rate outside [0, 1).
        """
        import numpy as np

        return float(self._thresholds(rate, np.ones((1, len(self.benign))))[0])

    def recall(self, rate: float) -> float:
        """Share of attacks above :meth:`threshold` (mean over sources)."""
        import numpy as np

        return float(self._recalls(rate, np.ones((1, len(self.benign)))).mean())

    def _thresholds(
        self, rate: float, counts: Float[np.ndarray, "draws sources"]
    ) -> Float[np.ndarray, " draws"]:
        """The threshold for each draw of how often every benign source counts."""
        import numpy as np

        if not 0 <= rate < 1:
            raise ValueError(f"rate is {rate!r}; a false-positive rate lies in [0, 1)")
        sizes = np.array([len(scores) for scores in self.benign.values()])
        scores = np.concatenate([np.asarray(own, dtype=float) for own in self.benign.values()])
        order = np.argsort(-scores)
        sources = np.repeat(np.arange(len(sizes)), sizes)[order]
        shares = counts / sizes / counts.sum(axis=1, keepdims=True)
        # From the highest score down: the first one that must not be above the threshold. Few scores are as high.
        highest = min(len(scores), max(64, int(4 * rate * len(scores))))
        while True:
            exceeded = np.cumsum(shares[:, sources[:highest]], axis=1) > rate + 1e-9
            if highest == len(scores) or exceeded[:, -1].all():
                found: np.ndarray = scores[order][exceeded.argmax(axis=1)]
                return found
            highest = min(len(scores), 2 * highest)

    def _recalls(
        self, rate: float, counts: Float[np.ndarray, "draws sources"]
    ) -> Float[np.ndarray, "draws attacks"]:
        """Recall on every source of attacks, for each draw of the benign sources."""
        import numpy as np

        thresholds = self._thresholds(rate, counts)
        return np.stack(
            [
                1 - np.searchsorted(np.sort(own), thresholds, "right") / len(own)
                for own in self.attacks.values()
            ],
            axis=1,
        )


def recall_difference(
    own: SourceScores, other: SourceScores, rate: float, *, resamples: int = 2000, seed: int = 0
) -> Interval:
    """How much more of the attacks one detector recalls than another, both at the same false-positive rate.

    Percentile bootstrap of sources, of attacks and of benign texts; both detectors are evaluated on the same draws,
    each with a threshold of its own. Recall and rate are means over sources. The interval's ``items`` are the sources
    of attacks; of fewer than ten the differences on each are kept in place of an interval.

    >>> weak = SourceScores({"mail": [0.9, 0.2]}, {"news": [0.1, 0.3, 0.2, 0.0]})
    >>> strong = SourceScores({"mail": [0.9, 0.8]}, {"news": [0.1, 0.3, 0.2, 0.0]})
    >>> f"{recall_difference(strong, weak, rate=0.25):.2f}"
    '0.50 (n = 1: 0.50)'

    Raises:
        ValueError: detectors that were not evaluated on the same texts, or a rate outside [0, 1).
    """
    import numpy as np

    for name in ("attacks", "benign"):
        sizes = [
            {source: len(scores) for source, scores in getattr(each, name).items()} for each in (own, other)
        ]
        if sizes[0] != sizes[1]:
            raise ValueError(
                f"{name} differ between the detectors: {sizes[0]} and {sizes[1]} texts by source"
            )
    once = np.ones((1, len(own.benign)))
    by_source = (own._recalls(rate, once) - other._recalls(rate, once))[0]
    estimate, count = float(by_source.mean()), len(by_source)
    if count < MIN_ITEMS or len(own.benign) < 2:
        return Interval.unknown(estimate, count, by_source.tolist() if count < MIN_ITEMS else ())
    rng = np.random.default_rng(seed)
    benign = rng.multinomial(len(own.benign), [1 / len(own.benign)] * len(own.benign), size=resamples)
    attacks = rng.multinomial(count, [1 / count] * count, size=resamples) / count
    differences = own._recalls(rate, benign) - other._recalls(rate, benign)
    low, high = bootstrap_bounds((attacks * differences).sum(axis=1), count)
    if high - low < 1e-12:
        return Interval.unknown(estimate, count)
    return Interval(estimate, low, high, count)
