"""What a cache can tell about itself: counts, and whether every entry and the file are sound."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

from embedspace.cache.database import is_damage
from embedspace.cache.entries import decode_entry


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds, and what was asked of this object."""

    entries: int
    value_bytes: int
    """Sizes of all entries together."""
    file_bytes: int
    """Size of the file and its write-ahead log."""
    max_bytes: int
    hits: int
    misses: int
    damaged: int
    """Misses whose entry was there and was not what had been written."""


@dataclass(frozen=True)
class Pruned:
    """What a clean-up took away."""

    damaged: int
    evicted: int
    freed_bytes: int
    """Of the file and its write-ahead log."""


@dataclass(frozen=True)
class Verification:
    """What a check of every entry found."""

    entries: int
    damaged: tuple[bytes, ...]
    """Keys of the entries that are not what was written."""
    problems: tuple[str, ...]
    """What is wrong with the file itself."""

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and not self.problems


def check_file(connection: sqlite3.Connection) -> Verification:
    """Read every page and every entry.

    Raises:
        sqlite3.Error: the file cannot be read for another reason than damage.
    """
    entries, damaged, problems = 0, list[bytes](), list[str]()
    try:
        entries, problems = _check_entries(connection, damaged), structure_problems(connection)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        problems = [str(error)]
    return Verification(entries, tuple(damaged), tuple(problems))


def _check_entries(connection: sqlite3.Connection, damaged: list[bytes]) -> int:
    """How many entries there are; the keys of those that are not what was written join the list."""
    entries = 0
    # Entry by entry: one long statement would keep the log from being written back.
    key = b""
    while row := _next(connection, key):
        key, stored, value = row
        entries += 1
        try:
            decode_entry(key, value, stored)
        except ValueError:
            damaged.append(key)
    return entries


def structure_problems(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file's own structure."""
    said = [str(line, "utf-8", "replace") for (line,) in connection.execute("PRAGMA quick_check(10)")]
    return [line for line in said if line != "ok"]


def _next(connection: sqlite3.Connection, key: bytes) -> tuple[bytes, bytes, bytes | None] | None:
    found: tuple[bytes, bytes, bytes | None] | None = connection.execute(
        "SELECT e.key, e.checksum, v.value FROM entries e LEFT JOIN vals v ON v.id = e.id "
        "WHERE e.key > ? ORDER BY e.key LIMIT 1",
        (key,),
    ).fetchone()
    return found
