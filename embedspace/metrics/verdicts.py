"""What a comparison of paired values allows to say: stronger, as strong within a margin, weaker, or nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from embedspace.metrics.intervals import MIN_ITEMS, Interval, mean_interval
from embedspace.metrics.significance import holm, non_inferiority_p, superiority_p

SIGNIFICANCE = 0.05
"""Of each one-sided test, over the family of comparisons that it belongs to."""
POWER = 0.8
"""Probability with which the stated number of items would tell."""

Standing = Literal["above", "below", "not told", "too few"]
"""Where a mean of the population lies, as far as an interval shows it."""

Kind = Literal["stronger", "as strong", "not weaker", "weaker", "reversed", "no effect", "undecided"]


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
    than the margin weaker. ``reversed``: weaker than no treatment. ``no effect``: not told from no treatment.
    ``undecided``: too few items to tell."""
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
            case "reversed":
                return f"{treatment} has the opposite effect"
            case "no effect":
                return f"{treatment} cannot be told from no change at all on {self.items} items"
            case "undecided":
                return (
                    f"{self.items} items cannot tell whether {treatment} is as strong as {reference}{needed}"
                )


def standing(interval: Interval, bound: float = 0.0) -> Standing:
    """Where the population's mean is relative to a bound: above or below it only where the whole interval is.

    Of fewer than ten items, and where equal values make no interval, nothing is said, whatever the estimate is.

    >>> standing(Interval(0.5, 0.2, 0.8, 12)), standing(Interval(0.5, -0.1, 0.9, 12))
    ('above', 'not told')
    >>> standing(mean_interval([0.5] * 4))
    'too few'
    """
    if interval.low > bound:
        return "above"
    if interval.high < bound:
        return "below"
    return "too few" if interval.items < MIN_ITEMS and not interval.known else "not told"


Paired = tuple[Sequence[float], Sequence[float], Sequence[float]]
"""Strength of each item under the treatment (larger is stronger), under the reference, and with neither."""


def compare_strength(
    treatment: Sequence[float], reference: Sequence[float], without: Sequence[float], *, margin: float
) -> StrengthVerdict:
    """Judge one treatment by paired one-sided t tests.

    Args:
        treatment: strength of each item under the treatment, larger is stronger.
        reference: of the same items under the reference.
        without: of the same items with neither.
        margin: what counts as equally strong, in the unit of the values.

    Raises:
        ValueError: lists of different lengths, no items, or a margin that is not positive.
    """
    return compare_strengths([(treatment, reference, without)], margin=margin)[0]


def compare_strengths(comparisons: Sequence[Paired], *, margin: float) -> list[StrengthVerdict]:
    """Judge a family of treatments, each as :func:`compare_strength` does, with Holm's correction of every question.

    The questions are whether a treatment has an effect or the opposite one, and whether it is stronger, not weaker, not
    stronger and weaker than its reference. Comparisons of fewer than ten items decide nothing and are in no family.

    >>> reference = [4.0, 5.0, 4.5, 5.5, 4.2, 4.8] * 4
    >>> nearly = [value + 0.08 + 0.4 * (-1) ** place for place, value in enumerate(reference)]
    >>> better = [value + 0.1 + 0.25 * (-1) ** place for place, value in enumerate(reference)]
    >>> compare_strength(better, reference, [0.0] * 24, margin=0.5).kind
    'stronger'
    >>> family = [(better, reference, [0.0] * 24), *[(nearly, reference, [0.0] * 24)] * 5]
    >>> compare_strengths(family, margin=0.5)[0].kind
    'as strong'

    Raises:
        ValueError: lists of different lengths, no items, or a margin that is not positive.
    """
    if not (math.isfinite(margin) and margin > 0):
        raise ValueError(f"margin must be above 0, got {margin!r}; it says which difference does not matter")
    for lists in comparisons:
        if len({*map(len, lists)}) != 1 or not lists[0]:
            counts = " and ".join(map(str, map(len, lists)))
            raise ValueError(f"a comparison needs the same items three times, got {counts}")
    large = [place for place, lists in enumerate(comparisons) if len(lists[0]) >= MIN_ITEMS]
    tested = [_p_values(comparisons[place], margin) for place in large]
    adjusted = zip(*(holm(own) for own in zip(*tested, strict=True)), strict=True)
    kinds = {place: _kind(*own) for place, own in zip(large, adjusted, strict=True)}
    return [_verdict(lists, kinds.get(place, "undecided"), margin) for place, lists in enumerate(comparisons)]


def _verdict(lists: Paired, kind: Kind, margin: float) -> StrengthVerdict:
    treatment, reference, without = lists
    differences = _differences(treatment, reference)
    untreated = len(without) >= MIN_ITEMS and (
        non_inferiority_p(_differences(without, reference), margin) < SIGNIFICANCE
    )
    return StrengthVerdict(
        kind,
        mean_interval(differences),
        mean_interval(_differences(treatment, without)),
        margin,
        len(treatment),
        _items_needed(differences, margin) if kind == "undecided" else None,
        untreated,
    )


def _p_values(lists: Paired, margin: float) -> tuple[float, ...]:
    """Of an effect, of the opposite one, and of being stronger, not weaker, not stronger and weaker."""
    treatment, reference, without = lists
    more, less = _differences(treatment, reference), _differences(reference, treatment)
    return (
        superiority_p(_differences(treatment, without)),
        superiority_p(_differences(without, treatment)),
        superiority_p(more),
        non_inferiority_p(more, margin),
        non_inferiority_p(less, margin),
        superiority_p(less),
    )


def _kind(
    effect: float, reverse: float, stronger: float, not_weaker: float, not_stronger: float, weaker: float
) -> Kind:
    """What p-values allow to say."""
    if reverse < SIGNIFICANCE:
        return "reversed"
    if effect >= SIGNIFICANCE:
        return "no effect"
    if stronger < SIGNIFICANCE:
        return "stronger"
    if not_weaker < SIGNIFICANCE:
        return "as strong" if not_stronger < SIGNIFICANCE else "not weaker"
    return "weaker" if weaker < SIGNIFICANCE else "undecided"


def _differences(own: Sequence[float], other: Sequence[float]) -> list[float]:
    return [one - two for one, two in zip(own, other, strict=True)]


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
