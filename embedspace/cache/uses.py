"""When entries of a cache were used last: noted in memory, written many together."""

from __future__ import annotations

import contextlib
import itertools
import sqlite3
import time
from collections.abc import Iterable

from embedspace.cache.database import WAIT_SECONDS, transaction

MOST_NOTED = 4096


class CacheUses:
    """Uses that are not written yet. Losing them only makes eviction less well informed."""

    def __init__(self) -> None:
        self._used: dict[bytes, int] = {}

    @property
    def many(self) -> bool:
        """Whether it is time to write them."""
        return len(self._used) >= MOST_NOTED

    def note(self, keys: Iterable[bytes]) -> None:
        """These entries are used now, in this order."""
        self._used.update(zip(keys, itertools.count(time.time_ns())))

    def write(self, connection: sqlite3.Connection) -> None:
        """Write all of them, inside a transaction."""
        connection.executemany(
            "UPDATE entries SET used = ? WHERE key = ?", [(used, key) for key, used in self._used.items()]
        )
        self._used.clear()

    def flush(self, connection: sqlite3.Connection) -> None:
        """Write them if nobody else is writing, and forget them if that fails: a reader does not wait."""
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout=0")
            try:
                with transaction(connection):
                    self.write(connection)
            finally:
                connection.execute(f"PRAGMA busy_timeout={int(1000 * WAIT_SECONDS)}")
        self._used.clear()
