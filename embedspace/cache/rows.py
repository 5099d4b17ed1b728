"""The rows of a cache's file: read together, written together, and evicted so that the file stays within its bound."""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from embedspace.cache.database import PAGE_BYTES, pragma
from embedspace.cache.entries import checksum, decode_entry

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds

READ_TOGETHER = 64
"""Entries asked for in one statement."""
ENTRY_BYTES = 256
"""Most that a row of ``entries`` takes up, in pages that may be half empty."""
SPARE_PAGES = 8
"""For the tables' own structure, as far as one transaction can grow it."""
KEPT = 0.9
"""Share of the bound that is left full: eviction sorts all times of use, so it happens seldom and takes many."""


def read_rows(
    connection: sqlite3.Connection, keys: Sequence[bytes]
) -> Iterator[tuple[bytes, PromptEmbeds | None]]:
    """The entries of those keys that are there, in any order; None for one that is not what was written."""
    for start in range(0, len(keys), READ_TOGETHER):
        asked = keys[start : start + READ_TOGETHER]
        rows = connection.execute(
            "SELECT e.key, e.checksum, v.value FROM entries e LEFT JOIN vals v ON v.id = e.id "
            f"WHERE e.key IN ({','.join('?' * len(asked))})",
            asked,
        )
        for key, stored, value in rows:
            try:
                yield key, decode_entry(key, value, stored)
            except ValueError:
                yield key, None


def write_rows(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]], max_bytes: int) -> int:
    """Write keys and values, inside a transaction, in the place of what has given way.

    Returns:
        How many were written: those that the bound has room for at all.
    """
    fitting = [
        (key, value) for key, value in rows if pages_of([value]) + SPARE_PAGES <= max_bytes // PAGE_BYTES
    ]
    remove_rows(connection, [key for key, _ in fitting])
    make_room(connection, [value for _, value in fitting], max_bytes)
    # Within a transaction, the later the entry the younger it counts.
    for now, (key, value) in enumerate(fitting, time.time_ns()):
        place = connection.execute("INSERT INTO vals (value) VALUES (?)", (value,)).lastrowid
        connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (key, place, len(value), checksum(key, value), now)
        )
    return len(fitting)


def pages_of(values: Iterable[bytes]) -> int:
    """Most pages that values and their entries take up."""
    pages = 0.0
    for value in values:
        share = len(value) / (PAGE_BYTES - 64)
        # Small values share a page, and two pages side by side are more than half full; a large one is a chain.
        pages += (2 * share if share < 1 else share + 1) + ENTRY_BYTES / PAGE_BYTES
    return math.ceil(pages)


def make_room(connection: sqlite3.Connection, values: Sequence[bytes], max_bytes: int) -> int:
    """Evict entries, inside a transaction, until values fit; returns how many went."""
    limit = max_bytes // PAGE_BYTES - pages_of(values) - SPARE_PAGES
    if _used(connection) <= limit:
        return 0
    target = min(limit, int(KEPT * max_bytes / PAGE_BYTES))
    evicted = 0
    while (excess := _used(connection) - target) > 0 and (gone := _oldest(connection, excess)):
        remove_rows(connection, gone)
        evicted += len(gone)
    return evicted


def shrink(connection: sqlite3.Connection, max_bytes: int) -> None:
    """Give free pages back to the disk, outside a transaction, until the file is within a bound."""
    excess = pragma(connection, "page_count") - max_bytes // PAGE_BYTES
    if excess > 0 and pragma(connection, "freelist_count"):
        # A script runs the statement to its end; execute stops at each page.
        connection.executescript(f"PRAGMA incremental_vacuum({excess})")


def remove_rows(connection: sqlite3.Connection, keys: Iterable[bytes]) -> None:
    """Take entries out, inside a transaction; keys that are not there are no trouble."""
    listed = [(key,) for key in keys]
    connection.executemany("DELETE FROM vals WHERE id = (SELECT id FROM entries WHERE key = ?)", listed)
    connection.executemany("DELETE FROM entries WHERE key = ?", listed)


def remove_nameless(connection: sqlite3.Connection) -> None:
    """Take out values that no entry names any more, inside a transaction: damage alone leaves such."""
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
