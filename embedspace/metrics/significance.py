"""P-values of paired differences against a margin, and Holm's correction for families of them."""

from __future__ import annotations

import math
from collections.abc import Sequence


def superiority_p(differences: Sequence[float], bound: float = 0.0) -> float:
    """Of the mean difference being above a bound, by a one-sided t test.

    Equal differences, which leave the test without a spread, decide by themselves.

    >>> superiority_p([0.9, 1.1] * 6) < 0.001 < 0.9 < superiority_p([-0.9, -1.1] * 6)
    True

    Raises:
        ValueError: fewer than two differences.
    """
    import numpy as np
    from scipy.stats import ttest_1samp

    if len(differences) < 2:
        raise ValueError(f"a test needs at least two differences, got {len(differences)}")
    if np.ptp(differences) < 1e-12:
        return 0.0 if differences[0] > bound else 1.0
    return float(ttest_1samp(differences, bound, alternative="greater").pvalue)


def non_inferiority_p(differences: Sequence[float], margin: float) -> float:
    """Of the mean difference being above ``-margin``: a treatment that is by less than the margin worse.

    >>> non_inferiority_p([-0.1, 0.1] * 6, margin=0.5) < 0.001
    True

    Raises:
        ValueError: fewer than two differences, or a margin that is not positive.
    """
    return superiority_p(differences, -_positive(margin))


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """Of the mean difference lying within the margin on both sides: two one-sided tests (Schuirmann 1987).

    >>> equivalence_p([-0.1, 0.1] * 6, margin=0.5) < 0.001 < 0.9 < equivalence_p([0.9, 1.1] * 6, margin=0.5)
    True

    Raises:
        ValueError: fewer than two differences, or a margin that is not positive.
    """
    turned = [-difference for difference in differences]
    return max(non_inferiority_p(differences, margin), non_inferiority_p(turned, margin))


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for a family of comparisons (Holm 1979), in the order in which they are given.

    Where all below a level are called significant, the probability of calling any difference that does not exist is at
    most that level, however the comparisons depend on each other.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    for p_value in p_values:
        if not 0 <= p_value <= 1:
            raise ValueError(f"a p-value lies between 0 and 1, got {p_value!r}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        adjusted[place] = largest
    return adjusted


def _positive(margin: float) -> float:
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be above 0, got {margin!r}; it says which difference does not matter")
    return margin
