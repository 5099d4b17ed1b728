"""What a comparison of paired values allows to say: stronger, as strong within a margin, weaker, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embedspace.metrics.intervals import MIN_ITEMS, Interval, mean_interval

SIGNIFICANCE = 0.05
"""Of each one-sided test."""
POWER = 0.8
"""Probability with which the stated number of items would tell."""

Kind = Literal["stronger", "as strong", "not weaker", "weaker", "no effect", "undecided"]


@dataclass(frozen=True)
class StrengthVerdict:
    """A treatment against a reference and against no treatment, on the same items.

    >>> plain, said = [0.1, -0.2, 0.3, 0.0, 0.2, -0.1] * 4, [4.0, 5.0, 4.5, 5.5, 4.2, 4.8] * 4
    >>> moved = [value + 0.1 * (-1) ** place for place, value in enumerate(said)]
    >>> compare_strength(moved, said, plain, margin=0.5).kind
    'as strong'
    >>> compare_strength(plain[::-1], said, plain, margin=0.5).kind
    'no effect'
    """

    kind: Kind
    """``as strong``: within the margin on both sides (two one-sided tests, Schuirmann 1987). ``not weaker``: by no more
    than the margin weaker. ``no effect``: not told from no treatment. ``undecided``: too few items to tell."""
    difference: Interval
    """Treatment less reference."""
    change: Interval
    """Treatment less no treatment."""
    margin: float
    items: int
    items_needed: int | None
    """How many items would tell, if they varied as these do; None where these tell, or nothing varies."""
    untreated_within: bool = False
    """Whether no treatment at all is at most the margin weaker than the reference by the same test: then being as
    strong as the reference says little."""

    @property
    def established(self) -> bool:
        """Whether the treatment is at least as strong as the reference, less the margin, and has an effect at all."""
        return self.kind in ("stronger", "as strong", "not weaker")

    def text(self, treatment: str, reference: str, unit: str = "nats") -> str:
        """One clause for a report.

        >>> verdict = compare_strength([1.0, 2.0], [1.0, 2.0], [0.0, 0.0], margin=0.5)
        >>> verdict.text("the vector", "the instruction")
        '2 items cannot tell whether the vector is as strong as the instruction (about 10 would)'
        """
        needed = "" if self.items_needed is None else f" (about {self.items_needed} would)"
        neither = ", and so is no change at all" if self.untreated_within else ""
        match self.kind:
            case "stronger":
                return f"{treatment} is stronger than {reference}"
            case "as strong":
                return f"{treatment} is as strong as {reference}, within {self.margin:g} {unit}{neither}"
            case "not weaker":
                return f"{treatment} is at most {self.margin:g} {unit} weaker than {reference}{neither}"
            case "weaker":
                return f"{treatment} is weaker than {reference}"
            case "no effect":
                return f"{treatment} cannot be told from no change at all on {self.items} items"
            case "undecided":
                return (
                    f"{self.items} items cannot tell whether {treatment} is as strong as {reference}{needed}"
                )


def compare_strength(
    treatment: Sequence[float], reference: Sequence[float], without: Sequence[float], *, margin: float
) -> StrengthVerdict:
    """Judge a treatment by paired one-sided t tests.

    Args:
        treatment: strength of each item under the treatment, larger is stronger.
        reference: of the same items under the reference.
        without: of the same items with neither.
        margin: what counts as equally strong, in the unit of the values.

    Raises:
        ValueError: lists of different lengths, no items, or a margin that is not positive.
    """
    if not (len(treatment) == len(reference) == len(without)) or not treatment:
        raise ValueError(
            f"a comparison needs the same items three times, got {len(treatment)}, {len(reference)} and {len(without)}"
        )
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be above 0, got {margin!r}; it says which difference does not matter")
    differences = [own - other for own, other in zip(treatment, reference, strict=True)]
    changes = [own - other for own, other in zip(treatment, without, strict=True)]
    kind = _kind(differences, changes, margin)
    return StrengthVerdict(
        kind,
        mean_interval(differences),
        mean_interval(changes),
        margin,
        len(treatment),
        _items_needed(differences, margin) if kind == "undecided" else None,
        len(reference) >= MIN_ITEMS
        and _exceeds([plain - said for plain, said in zip(without, reference, strict=True)], -margin),
    )


def _kind(differences: Sequence[float], changes: Sequence[float], margin: float) -> Kind:
    if len(differences) < MIN_ITEMS:
        return "undecided"
    if not _exceeds(changes, 0.0):
        return "no effect"
    if _exceeds(differences, 0.0):
        return "stronger"
    not_weaker = _exceeds(differences, -margin)
    if not_weaker and _exceeds([-difference for difference in differences], -margin):
        return "as strong"
    if not_weaker:
        return "not weaker"
    return "weaker" if _exceeds([-difference for difference in differences], 0.0) else "undecided"


def _exceeds(values: Sequence[float], bound: float) -> bool:
    """Whether the mean of the items' population is above a bound, by a one-sided t test."""
    import numpy as np
    from scipy.stats import ttest_1samp

    if np.ptp(values) < 1e-12:  # the test needs some spread; equal values decide by themselves
        return values[0] > bound
    return float(ttest_1samp(values, bound, alternative="greater").pvalue) < SIGNIFICANCE


def _items_needed(differences: Sequence[float], margin: float) -> int | None:
    """Items with which two equally strong treatments would be told to be so, at the power above."""
    import numpy as np
    from scipy.stats import norm

    if len(differences) < 2:
        return None
    spread = float(np.std(differences, ddof=1))
    if spread < 1e-12:
        return MIN_ITEMS
    # Both of the two tests have to succeed, hence half of the error on each side.
    factor = float(norm.ppf(1 - SIGNIFICANCE) + norm.ppf(1 - (1 - POWER) / 2))
    return max(MIN_ITEMS, math.ceil((factor * spread / margin) ** 2) + 1)
