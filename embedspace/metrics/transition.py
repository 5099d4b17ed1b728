"""Transition: where along an axis a measure changes from one level to another, and how steeply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

WINDOW = 0.2
"""Fraction of the axis, around the middle of a transition, over which its slope is measured."""
STRAIGHT_WIDTH = 0.8
"""Width of a linear change."""
MIN_STEPS = 4
"""Of fewer steps the width would be one of the measured grid, not of the change."""


@dataclass(frozen=True)
class Transition:
    """The 10% and 90% points of a measure's change from its value at the axis's start to that at its end.

    Positions are fractions of the axis, 0 to 1. A linear change has a width of 0.8 and a slope of 1; a step between
    two measured positions has the width of the interpolated curve.

    >>> Transition.of({0.0: 1.0, 0.25: 1.5, 0.5: 2.0, 0.75: 2.5, 1.0: 3.0})
    Transition(begin=0.1, middle=0.5, end=0.9, slope=1.0)
    """

    begin: float
    """Position of 10% of the change."""
    middle: float
    """Position of 50% of the change."""
    end: float
    """Position of 90% of the change."""
    slope: float
    """Fraction of the change around the middle, over the fraction of the axis that it takes."""

    @property
    def width(self) -> float:
        """From 10% to 90%."""
        return self.end - self.begin

    @classmethod
    def of(cls, curve: Mapping[float, float]) -> Self | None:
        """The transition of a measured curve; None if its value at the end is not above that at the start.

        The curve is made monotone by isotonic regression (Barlow et al. 1972), so that each level has one position,
        and interpolated linearly between the measured positions.

        Args:
            curve: position -> value.

        Raises:
            ValueError: fewer than four steps, i.e. five positions.
        """
        import numpy as np
        from scipy.optimize import isotonic_regression

        if len(curve) <= MIN_STEPS:
            raise ValueError(
                f"a transition needs at least {MIN_STEPS + 1} positions of a curve, got {len(curve)}; between fewer, "
                "where it is and how wide it is would be a property of the positions"
            )
        positions, values = (np.array(part, dtype=float) for part in zip(*sorted(curve.items()), strict=True))
        rise = values[-1] - values[0]
        if not rise > 0:
            return None
        axis = (positions - positions[0]) / (positions[-1] - positions[0])
        fitted = isotonic_regression((values - values[0]) / rise).x.clip(0, 1)

        def position(level: float) -> float:
            after = int(np.searchsorted(fitted, level))
            before = after - 1
            part = (level - fitted[before]) / (fitted[after] - fitted[before])
            return float(axis[before] + part * (axis[after] - axis[before]))

        middle = position(0.5)
        low, high = max(0.0, middle - WINDOW / 2), min(1.0, middle + WINDOW / 2)
        slope = float(np.interp(high, axis, fitted) - np.interp(low, axis, fitted)) / (high - low)
        return cls(position(0.1), middle, position(0.9), slope)
