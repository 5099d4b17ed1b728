"""Transition: where along an axis a measure goes from one level to another, and how suddenly."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

WINDOW = 0.2
"""Share of the axis, around the middle of a transition, over which its slope is taken."""
STRAIGHT_WIDTH = 0.8
"""Width of a straight line."""


@dataclass(frozen=True)
class Transition:
    """The stretch in which a measure makes 80% of its way from its value at the axis's start to that at its end.

    Positions are shares of the axis, 0 to 1. A straight line has a width of 0.8 and a slope of 1; a step that
    falls between two measured positions is as wide as the curve through them.
    """

    begin: float
    """Where 10% of the way is made."""
    middle: float
    """Where half of it is made."""
    end: float
    """Where 90% of it is made."""
    slope: float
    """Share of the way made around the middle, over the share of the axis that it takes."""

    @property
    def width(self) -> float:
        """From 10% to 90%."""
        return self.end - self.begin

    @classmethod
    def of(cls, curve: Mapping[float, float]) -> Self | None:
        """The transition of a measured curve; None where its value at the end is not above that at the start.

        The curve is first brought to the nearest one that never falls (isotonic regression, Barlow et al. 1972),
        so that each level has one position, and read in straight lines between the measured positions.

        Args:
            curve: position -> value.

        Raises:
            ValueError: fewer than two positions.
        """
        import numpy as np
        from scipy.optimize import isotonic_regression

        if len(curve) < 2:
            raise ValueError(f"a transition needs at least two positions of a curve, got {len(curve)}")
        positions, values = (np.array(part, dtype=float) for part in zip(*sorted(curve.items()), strict=True))
        rise = values[-1] - values[0]
        if not rise > 0:
            return None
        axis = (positions - positions[0]) / (positions[-1] - positions[0])
        made = isotonic_regression((values - values[0]) / rise).x.clip(0, 1)

        def position(level: float) -> float:
            after = int(np.searchsorted(made, level))
            before = after - 1
            part = (level - made[before]) / (made[after] - made[before])
            return float(axis[before] + part * (axis[after] - axis[before]))

        middle = position(0.5)
        low, high = max(0.0, middle - WINDOW / 2), min(1.0, middle + WINDOW / 2)
        slope = float(np.interp(high, axis, made) - np.interp(low, axis, made)) / (high - low)
        return cls(position(0.1), middle, position(0.9), slope)
