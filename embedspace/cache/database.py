"""The SQLite file of a cache: opened, recognised, quarantined where it is damaged; its connection outlasts forks."""

from __future__ import annotations

import itertools
import os
import sqlite3
import threading
import warnings
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from embedspace.prompt import CACHE_FORMAT

if TYPE_CHECKING:
    from filelock import BaseFileLock

APPLICATION_ID = 0x456D6245
"""SQLite's ``application_id`` of our files: ``EmbE``."""
PAGE_BYTES = 32768
"""Eight times SQLite's own: entries are tens of kilobytes, and larger pages are read twice as fast."""
PAGES_KIB = 512
"""SQLite's own page cache: the system keeps the pages anyway, and these stay in the processor's."""
LOG_BYTES = 8 * 2**20
"""Size of the write-ahead log at which it is written back."""
WAIT_SECONDS = 20.0
"""How long a writer waits for the others."""

# Times of use change at every read: beside the large values, each change would write them anew.
SCHEMA = {
    "entries": "CREATE TABLE entries (key BLOB PRIMARY KEY, id INTEGER NOT NULL, size INTEGER NOT NULL, "
    "checksum BLOB NOT NULL, used INTEGER NOT NULL) WITHOUT ROWID",
    "vals": "CREATE TABLE vals (id INTEGER PRIMARY KEY, value BLOB NOT NULL)",
}


class FileDamagedError(Exception):
    """The file is not, or is no longer, a cache that this version can read."""


def is_damage(error: Exception) -> bool:
    """Whether SQLite says that the file itself is broken, and not the disk full or the file locked."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """Write all or nothing; alone among the writers from the start, so that nothing has to be tried again."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def pragma(connection: sqlite3.Connection, name: str) -> int:
    """The number that a setting or counter of the file has."""
    value = connection.execute(f"PRAGMA {name}").fetchone()[0]
    return int(value)


def file_bytes(path: Path) -> int:
    """Size of the file and its write-ahead log."""
    return sum(file.stat().st_size for file in (path, beside(path, "-wal")) if file.exists())


def open_file(path: Path) -> sqlite3.Connection:
    """A connection to a cache's file, which is made where there is none.

    Raises:
        FileDamagedError: it is damaged beyond reading, no database, or of an older format.
        ValueError: another program's database, or a newer format.
        sqlite3.Error: it can be neither opened nor made.
    """
    # Read before SQLite does: it takes the rest of a page that was cut off for zeros.
    size, log = (file.stat().st_size if file.exists() else 0 for file in (path, beside(path, "-wal")))
    connection = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # Not memory-mapped: a file that somebody cuts short would end the process.
        connection.text_factory = bytes
        _recognise(connection, path)
        if size % PAGE_BYTES and not log:
            raise FileDamagedError(f"it was cut short: {size} bytes are not whole pages")
        _set(
            connection,
            "journal_mode=WAL",
            "synchronous=NORMAL",
            "secure_delete=OFF",
            f"cache_size={-PAGES_KIB}",
            f"wal_autocheckpoint={LOG_BYTES // PAGE_BYTES}",
            f"journal_size_limit={LOG_BYTES}",
        )
    except BaseException as error:
        connection.close()
        if isinstance(error, sqlite3.DatabaseError) and is_damage(error):
            raise FileDamagedError(str(error)) from error
        raise
    return connection


def _set(connection: sqlite3.Connection, *settings: str) -> None:
    for setting in settings:
        connection.execute(f"PRAGMA {setting}").fetchall()


def _recognise(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables of a new file, or see that those of an old one are ours."""
    found = dict(connection.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'").fetchall())
    if not found:
        _set(connection, f"page_size={PAGE_BYTES}", "auto_vacuum=INCREMENTAL")
        with transaction(connection):
            connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version={CACHE_FORMAT}")
            for statement in SCHEMA.values():
                connection.execute(statement)
        return
    if pragma(connection, "application_id") != APPLICATION_ID:
        raise ValueError(f"{path} is a database of another program; choose another path for the cache")
    version = pragma(connection, "user_version")
    if version > CACHE_FORMAT:
        raise ValueError(
            f"the cache {path} has the newer format {version} (known here: {CACHE_FORMAT}); update embedspace or "
            "choose another path"
        )
    if version < CACHE_FORMAT:
        raise FileDamagedError(f"it has the older format {version}, the present one is {CACHE_FORMAT}")
    if found != {name.encode(): statement.encode() for name, statement in SCHEMA.items()}:
        raise FileDamagedError("its tables are not those of a cache")


def quarantine(path: Path, reason: str) -> None:
    """Rename a damaged file and what belongs to it, with a warning.

    Nobody may open the file meanwhile: SQLite takes any log beside a file for that file's own.

    Raises:
        OSError: it cannot be renamed.
    """
    names = (f".damaged-{number}" for number in itertools.count(1))
    suffix = next(name for name in names if not beside(path, name).exists())
    for part in ("-wal", "-shm", "-journal", ""):
        file = beside(path, part)
        if file.exists():
            file.rename(beside(path, suffix + part))
    warnings.warn(
        f"the cache {path} cannot be read ({reason}); it was set aside as {beside(path, suffix).name}, and a "
        "new one is started",
        RuntimeWarning,
        stacklevel=2,
    )


def beside(path: Path, suffix: str) -> Path:
    """The file of the same name with a suffix after it."""
    return path.with_name(path.name + suffix)


class CacheConnection:
    """One connection for all threads of a process, opened when it is needed; `lock` is held while it is used.

    Raises:
        ValueError: the path is a folder, another program's database, or of a newer format.
        OSError: the file can be neither opened nor made.
    """

    def __init__(self, path: Path) -> None:
        if path.is_dir():
            raise ValueError(
                f"the cache {path} is a folder; name a file in it, such as {path / 'embeddings.sqlite'}"
            )
        self.path = path
        self.lock = threading.RLock()
        self.quarantined: list[str] = []
        """Why files were quarantined, one reason a file."""
        self._open: _Opened | None = None
        self.get()
        _KNOWN.add(self)

    def get(self) -> sqlite3.Connection:
        """The connection to the file that stands at the path now.

        Raises:
            ValueError, OSError: as when it was opened first.
        """
        # Another process may have set the file aside, and a user may have deleted it.
        if self._open is not None and self._open.identity != _identity(self.path):
            self.close()
        if self._open is None:
            self._open = self._opened()
        return self._open.connection

    def close(self) -> None:
        """Let go of the file; the next use opens it again."""
        if self._open is not None:
            self._open.connection.close()
            self._open = None

    def quarantine(self, reason: str) -> None:
        """Rename the damaged file, unless another process did so before.

        Raises:
            OSError: it cannot be renamed.
        """
        damaged = None if self._open is None else self._open.identity
        self.close()
        with _exclusive(self.path):
            if damaged == _identity(self.path):
                self.quarantined.append(reason)
                quarantine(self.path, reason)

    def _opened(self) -> _Opened:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _exclusive(self.path):
                try:
                    connection = open_file(self.path)
                except FileDamagedError as damage:
                    self.quarantined.append(str(damage))
                    quarantine(self.path, str(damage))
                    connection = open_file(self.path)
                return _Opened(connection, _identity(self.path))
        except (OSError, sqlite3.Error, FileDamagedError) as error:
            raise OSError(
                f"the cache {self.path} cannot be opened: {error}; choose a path on a disk of this machine, in a "
                "folder that can be written, with room"
            ) from error


class _Opened(NamedTuple):
    connection: sqlite3.Connection
    identity: tuple[int, int] | None


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file stands at a path; None where there is none."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def _exclusive(path: Path) -> BaseFileLock:
    """Held while a file is opened or renamed."""
    from filelock import FileLock

    lock = beside(path, ".lock")
    lock.touch()  # the library would wait for a folder that can never be written
    return FileLock(lock, timeout=WAIT_SECONDS)


# SQLite's locks do not survive a fork, and a child that uses or closes its parent's connection spoils the
# file for both. So the process forks without any: parent and child open the file again when they need it.
_KNOWN: weakref.WeakSet[CacheConnection] = weakref.WeakSet()
_FORKING: list[CacheConnection] = []


def _before_fork() -> None:
    for connection in list(_KNOWN):
        connection.lock.acquire()
        _FORKING.append(connection)
        connection.close()


def _after_fork() -> None:
    while _FORKING:
        _FORKING.pop().lock.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_after_fork)
