"""Eviction: entries are removed, those used longest ago first, so that the cache's file stays within its bound."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence

from embedspace.cache.database import PAGE_BYTES, pragma

MAX_ENTRY_ROW_BYTES = 256
"""Most that a row of ``entries`` takes up, in pages that may be half empty."""

SPARE_PAGES = 8
"""For the tables' own structure, as far as one transaction can grow it."""

TARGET_SHARE = 0.9
"""Of the bound, to which an eviction goes down: it sorts all times of use, so it is rare and evicts many."""


def pages_of(values: Iterable[bytes]) -> int:
    """Most pages that values and their entries take up."""
    pages = 0.0
    for value in values:
        share = len(value) / (PAGE_BYTES - 64)
        # Small values share a page, and two pages side by side are more than half full; a large one is a chain.
        pages += (2 * share if share < 1 else share + 1) + MAX_ENTRY_ROW_BYTES / PAGE_BYTES
    return math.ceil(pages)


def make_room(connection: sqlite3.Connection, values: Sequence[bytes], max_bytes: int) -> int:
    """Evict entries, inside a transaction, until values fit; returns how many were evicted."""
    limit = max_bytes // PAGE_BYTES - pages_of(values) - SPARE_PAGES
    if _used(connection) <= limit:
        return 0
    target = min(limit, int(TARGET_SHARE * max_bytes / PAGE_BYTES))
    evicted = 0
    while (excess := _used(connection) - target) > 0 and (oldest := _oldest(connection, excess)):
        remove_rows(connection, oldest)
        evicted += len(oldest)
    return evicted


def shrink(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Give free pages back to the disk, outside a transaction, until the file is within a bound."""
    excess = pragma(connection, "page_count") - max_bytes // PAGE_BYTES
    if excess > 0 and pragma(connection, "freelist_count"):
        # A script runs the statement to its end; execute stops at each page.
        connection.executescript(f"PRAGMA incremental_vacuum({excess})")


def remove_rows(connection: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Remove entries, inside a transaction; unknown keys are ignored."""
    listed = [(key,) for key in keys]
    connection.executemany("DELETE FROM vals WHERE id = (SELECT id FROM entries WHERE key = ?)", listed)
    connection.executemany("DELETE FROM entries WHERE key = ?", listed)


def remove_orphans(connection: sqlite3.Connection) -> None:
    """Remove values that no entry refers to, inside a transaction: only damage leaves such."""
    connection.execute("DELETE FROM vals WHERE id NOT IN (SELECT id FROM entries)")


def _used(connection: sqlite3.Connection) -> int:
    return pragma(connection, "page_count") - pragma(connection, "freelist_count")


def _oldest(connection: sqlite3.Connection, pages: int) -> list[bytes]:
    keys = []
    for key, size in connection.execute("SELECT key, size FROM entries ORDER BY used"):
        keys.append(key)
        pages -= -(-size // PAGE_BYTES)
        if pages <= 0:
            break
    return keys
