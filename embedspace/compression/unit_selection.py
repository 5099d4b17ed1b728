"""Selection of units under a limit of rows, with a separator wherever two of them would read as one word."""

from __future__ import annotations

import itertools
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from embedspace.compression.text_units import Units, is_separator, needs_separator

INSERTED = -1
"""In place of a row's number: a space that the text itself does not have there."""


@dataclass
class UnitSelection:
    """Units that are kept, and how many rows they take with the separators between them.

    >>> selection = UnitSelection(Units((0, 1, 2, 4), ("5", ",", " 17")))
    >>> selection.add_in_order([2, 0, 1], 3)
    >>> selection.kept, selection.size, selection.rows()
    ([0, 2], 3, [0, 2, 3])
    """

    units: Units
    before: str = " "
    """What stands before the text, and is kept."""
    after: str = " "
    """What stands after it."""
    separator_size: int = 1
    """Rows of an inserted separator."""
    together: Mapping[int, range] = field(default_factory=dict)
    """Units that are kept with others or not at all: unit -> all of them."""
    kept: list[int] = field(default_factory=list)
    """Numbers of the kept units, in order."""
    size: int = 0
    """Rows of the kept units and separators."""

    def cost(self, unit: int) -> int:
        """Rows that keeping one more unit adds."""
        at = bisect_left(self.kept, unit)
        left = self.kept[at - 1] if at else -1
        right = self.kept[at] if at < len(self.kept) else len(self.units)
        gaps = self._gap(left, unit) + self._gap(unit, right)
        return self.units.sizes[unit] + gaps - (self._gap(left, right) if self.kept else 0)

    def add(self, unit: int) -> None:
        """Keep one more unit."""
        self.size += self.cost(unit)
        self.kept.insert(bisect_left(self.kept, unit), unit)

    def remove(self, unit: int) -> None:
        """Drop a unit that was kept."""
        self.kept.remove(unit)
        self.size -= self.cost(unit)

    def add_in_order(self, order: Iterable[int], length: int) -> None:
        """Keep units with those that belong to them, the first first, if they still fit into ``length`` rows."""
        own = set(self.kept)
        for unit in order:
            if self.size >= length:
                break
            if unit in own:
                continue
            added = [each for each in self.together.get(unit, (unit,)) if each not in own]
            for each in added:
                self.add(each)
            if self.size <= length:
                own.update(added)
            else:
                for each in added:
                    self.remove(each)

    def rows(self) -> list[int]:
        """Rows of the kept units and separators in order; ``INSERTED`` for a separator that the text does not have."""
        found: list[int] = []
        edges = [-1, *self.kept, len(self.units)]
        for left, right in itertools.pairwise(edges):
            if left >= 0:
                found += range(self.units.rows[left], self.units.rows[left + 1])
            if self._gap(left, right) and self.kept:
                found.append(self._separator(left, right))
        return found

    def _gap(self, left: int, right: int) -> int:
        """Rows of the separator between two units that follow each other once those in between are dropped."""
        if right == left + 1:
            return 0
        before = self.units.texts[left] if left >= 0 else self.before
        after = self.units.texts[right] if right < len(self.units) else self.after
        return self.separator_size if needs_separator(before, after) else 0

    def _separator(self, left: int, right: int) -> int:
        """The row of a separator that stands between two units: a line break, else a space, else a sign."""
        best, rank = INSERTED, 0
        for unit in range(right - 1, left, -1):
            text = self.units.texts[unit]
            if self.units.sizes[unit] == 1 and is_separator(text):
                own = 3 if "\n" in text else 2 if text.isspace() else 1
                if own > rank:
                    best, rank = self.units.rows[unit], own
        return best
