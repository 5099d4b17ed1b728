"""Rows of the table, and records compared with the expected ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One claim with what was counted for it."""

    what: str
    """What was injected, and how often."""
    counted: str
    detail: str
    holds: bool
    """Whether the count is as required."""
    claim: str
    """What is required."""


@dataclass(frozen=True)
class Counts:
    """Records against the expected ones."""

    right: int
    lost: int
    duplicated: int
    wrong: int

    @property
    def clean(self) -> bool:
        """Whether each is there once and right."""
        return not (self.lost or self.duplicated or self.wrong)

    def in_words(self) -> str:
        """For the table."""
        return f"{self.right:,} right, {self.lost} lost, {self.duplicated} duplicated, {self.wrong} wrong"


def compared(found: Sequence[tuple[str, str]], expected: Mapping[str, str]) -> Counts:
    """Count the records that are there once and right, and the others."""
    texts = dict(found)
    right = sum(texts.get(key) == text for key, text in expected.items())
    lost = len(expected.keys() - texts.keys())
    return Counts(right, lost, len(found) - len(texts), len(texts) - right)


def listed(counts: Mapping[Any, int]) -> str:
    """Counts by name, for the table."""
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "nothing"
