"""What the parts of the soak have in common: rows of the table, and records compared with what they should be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One claim with what was counted for it."""

    what: str
    """What was made to happen, and how often."""
    counted: str
    detail: str
    holds: bool
    """Whether the count is what it has to be."""


@dataclass(frozen=True)
class Counts:
    """Records against what they should be."""

    right: int
    lost: int
    doubled: int
    wrong: int

    @property
    def clean(self) -> bool:
        """Whether each is there once and right."""
        return not (self.lost or self.doubled or self.wrong)

    def in_words(self) -> str:
        """For the table."""
        return f"{self.right:,} right, {self.lost} lost, {self.doubled} doubled, {self.wrong} wrong"


def compared(found: Sequence[tuple[str, str]], expected: Mapping[str, str]) -> Counts:
    """Count what is there once and right, and what is not."""
    texts = dict(found)
    right = sum(texts.get(key) == text for key, text in expected.items())
    lost = len(expected.keys() - texts.keys())
    return Counts(right, lost, len(found) - len(texts), len(texts) - right)


def listed(counts: Mapping[Any, int]) -> str:
    """Counts by name, for the table."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"
