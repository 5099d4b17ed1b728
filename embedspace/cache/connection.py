"""A connection to a cache's file that outlasts forks of the process and the loss of the file."""

from __future__ import annotations

import os
import sqlite3
import threading
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from embedspace.cache.database import WAIT_SECONDS, FileDamagedError, beside, open_file, set_aside

if TYPE_CHECKING:
    from filelock import BaseFileLock


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
        self.lost: list[str] = []
        """Why files were set aside, one after another."""
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

    def set_aside(self, reason: str) -> None:
        """Rename the damaged file, unless another process did so before.

        Raises:
            OSError: it cannot be renamed.
        """
        damaged = None if self._open is None else self._open.identity
        self.close()
        with _exclusive(self.path):
            if damaged == _identity(self.path):
                self.lost.append(reason)
                set_aside(self.path, reason)

    def _opened(self) -> _Opened:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _exclusive(self.path):
                try:
                    connection = open_file(self.path)
                except FileDamagedError as damage:
                    self.lost.append(str(damage))
                    set_aside(self.path, str(damage))
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
