"""Selection of units under a limit of rows, with a separator wherever two of them would read as one word."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from embedspace.compression.text_units import (
    Units,
    ends_clause,
    has_digit,
    is_separator,
    needs_separator,
)

INSERTED, INSERTED_BREAK = -1, -2
"""In place of a row's number: a space, and a line break, that the text itself does not have there."""

_ENDS_IN_DIGITS = re.compile(r"(?<!\d)\d{1,3}\s*\Z")
_THREE_DIGITS = re.compile(r"\s*\d{3}(?!\d)")


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
    """Most rows of an inserted separator."""
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
        """Rows of the kept units and separators in order; ``INSERTED`` or ``INSERTED_BREAK`` for a separator that the
        text does not have."""
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
        before, after = self._edges(left, right)
        parted = needs_separator(before, after) or self._needs_break(left, right, before, after)
        return self.separator_size if parted else 0

    def _edges(self, left: int, right: int) -> tuple[str, str]:
        before = self.units.texts[left] if left >= 0 else self.before
        return before, self.units.texts[right] if right < len(self.units) else self.after

    def _needs_break(self, left: int, right: int, before: str, after: str) -> bool:
        """Whether a space would not do, because what is read after it would be taken as part of what stands before:
        digits of one number, or a word of another clause as what a number counts or a negation denies."""
        if before[-1:] == "\n" or after[:1] == "\n":
            return False
        if before.isspace() and left > 0:
            before = self.units.texts[left - 1] + before
        if after.isspace() and right + 1 < len(self.units):
            after += self.units.texts[right + 1]
        if _ENDS_IN_DIGITS.search(before) and _THREE_DIGITS.match(after):
            return True
        if left < 0 or right >= len(self.units) or self._clause_ends[right] <= left:
            return False
        if right in self._negated_starts:
            return True
        is_counted = has_digit(before) and self._counts(left)
        return after.strip()[:1].isalpha() and (is_counted or left in self._negated_ends)

    def _counts(self, unit: int) -> bool:
        """Whether a word follows a number in the text."""
        texts = self.units.texts[unit + 1 : unit + 3]
        return "".join(texts).strip()[:1].isalpha()

    @cached_property
    def _clause_ends(self) -> list[int]:
        """For each unit, and the end, the number of the last one before it that ends a clause; -1 without one."""
        found, last = [], -1
        for unit, text in enumerate(self.units.texts):
            found.append(last)
            if ends_clause(text):
                last = unit
        return [*found, last]

    @cached_property
    def _negated_ends(self) -> frozenset[int]:
        return frozenset(span[-1] for span in self.together.values())

    @cached_property
    def _negated_starts(self) -> frozenset[int]:
        return frozenset(span[0] for span in self.together.values())

    def _separator(self, left: int, right: int) -> int:
        """The row of a separator that stands between two units: a line break, else a space, else a sign."""
        needs_break = self._needs_break(left, right, *self._edges(left, right))
        best, rank = (INSERTED_BREAK, 2) if needs_break else (INSERTED, 0)
        for unit in range(right - 1, left, -1):
            text = self.units.texts[unit]
            if self.units.sizes[unit] == 1 and is_separator(text):
                own = 3 if "\n" in text else 2 if text.isspace() else 1
                if own > rank:
                    best, rank = self.units.rows[unit], own
        return best
