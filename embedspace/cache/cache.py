"""EmbeddingCache: prompts kept on disk under everything that decides them."""

from __future__ import annotations

import itertools
import sqlite3
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embedspace.cache.database import WAIT_SECONDS, CacheConnection, file_bytes, is_damage, transaction
from embedspace.cache.entries import (
    READ_BATCH_SIZE,
    CacheStats,
    Pruned,
    Verification,
    check_file,
    encoded_batches,
    read_rows,
    structure_problems,
    write_rows,
)
from embedspace.cache.eviction import make_room, remove_orphans, remove_rows, shrink
from embedspace.prompt import require_key, transformed_key

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds, Recipe

MIN_BYTES = 2**20
DEFAULT_BYTES = 4 * 2**30
MAX_TRANSACTION_BYTES = 8 * 2**20  # the write-ahead log grows by as much
MAX_PENDING_USES = 4096


class EmbeddingCache:
    """Prompts on disk, shared by any number of threads and processes of one machine.

    A SQLite file in WAL mode holds safetensors bytes with a checksum. An entry that cannot be read is a miss, and one
    that cannot be written is not kept, each with a warning: a cache neither ends a run nor returns a wrong vector.
    What :meth:`put` has reported as kept survives a crash of the process; after a power failure the last entries may
    be missing.

    Args:
        path: the file; made where there is none. On a disk of this machine, not on a network share.
        max_bytes: bound of the file; beside it lies a write-ahead log of 8 to 16 MiB. The least recently used
            entries are evicted.

    Raises:
        ValueError: the path is a folder, another program's database or of a newer format, or ``max_bytes``
            is under 1 MiB.
        OSError: the file can be neither opened nor made.

    >>> import tempfile, torch
    >>> from embedspace import EmbeddingCache, PromptEmbeds, Recipe
    >>> prompt = PromptEmbeds(torch.ones(2, 4), torch.tensor([False, True]), "a space", Recipe.of("example", {}))
    >>> with tempfile.TemporaryDirectory() as folder, EmbeddingCache(f"{folder}/embeddings.sqlite") as cache:
    ...     doubled = Recipe.of("double", {})
    ...     for _ in range(2):
    ...         (result,) = cache.transformed([prompt], doubled, lambda prompt: prompt.with_content(torch.ones(3, 4)))
    ...     len(result), cache.stats().hits, cache.stats().misses
    (4, 1, 1)
    """

    def __init__(self, path: str | Path, max_bytes: int = DEFAULT_BYTES) -> None:
        if max_bytes < MIN_BYTES:
            raise ValueError(f"max_bytes must be at least {MIN_BYTES}, got {max_bytes}")
        self.path = Path(path).expanduser().absolute()
        self.max_bytes = max_bytes
        self._file = CacheConnection(self.path)
        self._lock = self._file.lock
        self._closed = self._examined = False
        self._uses = _LastUses()
        self._warned: set[str] = set()
        self._hits = self._misses = self._damaged = 0

    def __reduce__(self) -> tuple[type[Self], tuple[str, int]]:
        """Another process opens the file for itself."""
        return type(self), (str(self.path), self.max_bytes)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def get(self, key: bytes) -> PromptEmbeds | None:
        """The prompt under a key; None where there is none, or a damaged one."""
        return self.get_many([key])[0]

    def get_many(self, keys: Sequence[bytes]) -> list[PromptEmbeds | None]:
        """The prompts under keys, in the order of the keys; faster than one by one. Equal keys return the same object.

        Raises:
            TypeError: a key that is not bytes.
            ValueError: a key of another length, or the cache is closed.
        """
        wanted = list(dict.fromkeys(require_key(key) for key in keys))
        found: dict[bytes, PromptEmbeds] = {}
        damaged: list[bytes] = []
        with self._lock:
            with self._warn_on_error("read"):
                for key, prompt in read_rows(self._file.get(), wanted):
                    if prompt is None:
                        damaged.append(key)
                    else:
                        found[key] = prompt
            self._hits += sum(key in found for key in keys)
            self._misses += sum(key not in found for key in keys)
            self._damaged += len(damaged)
            self._note(found, damaged)
        return [found.get(key) for key in keys]

    def put(self, key: bytes, prompt: PromptEmbeds) -> bool:
        """Store a prompt; False where that failed, or where the prompt is larger than the whole cache.

        Raises:
            TypeError: a key that is not bytes, or vectors of a dtype that is not kept, such as float8.
            ValueError: a key of another length, or the cache is closed.
        """
        return self.put_many([(key, prompt)]) == 1

    def put_many(self, entries: Iterable[tuple[bytes, PromptEmbeds]]) -> int:
        """Store prompts, a few megabytes a transaction; returns how many were stored.

        Raises:
            TypeError, ValueError: as :meth:`put`.
        """
        kept = 0
        for batch in encoded_batches(entries, min(MAX_TRANSACTION_BYTES, self.max_bytes // 4)):
            written = None
            with self._lock, self._warn_on_error("written"):
                written = self._write(batch)
            if written is None:
                break
            kept += written
        return kept

    def get_or_make(self, keys: Sequence[bytes], make: Callable[[int], PromptEmbeds]) -> list[PromptEmbeds]:
        """The prompts under keys, in order; those that are missing are made and stored.

        Args:
            keys: looked up together.
            make: called with the position of a key.

        Raises:
            TypeError, ValueError: as :meth:`put`; whatever ``make`` raises passes through.
        """
        found = self.get_many(keys)
        made = {number: make(number) for number, prompt in enumerate(found) if prompt is None}
        self.put_many((keys[number], prompt) for number, prompt in made.items())
        return [made[number] if prompt is None else prompt for number, prompt in enumerate(found)]

    def transformed(
        self,
        prompts: Iterable[PromptEmbeds],
        step: Recipe,
        transform: Callable[[PromptEmbeds], PromptEmbeds],
        *,
        batch_size: int = READ_BATCH_SIZE,
    ) -> Iterator[PromptEmbeds]:
        """The results of a transformation of each prompt, in order, computed only where they are not stored.

        Args:
            prompts: read a batch at a time.
            step: the transformation's name and everything that decides its result besides the prompt: all
                parameters, digests of files, the model. Something that differs and is left out here gives a wrong
                hit.
            transform: called for results that are not stored.
            batch_size: number of prompts that are looked up together.

        Raises:
            ValueError: the cache is closed; whatever ``transform`` raises passes through.
        """
        pending = iter(prompts)
        while batch := list(itertools.islice(pending, batch_size)):
            keys = [transformed_key(prompt, step) for prompt in batch]
            made: dict[bytes, PromptEmbeds] = {}
            for key, prompt, found in zip(keys, batch, self.get_many(keys), strict=True):
                if found is not None:
                    yield found
                    continue
                if key not in made:
                    made[key] = transform(prompt)
                    self.put(key, made[key])
                yield made[key]

    def stats(self) -> CacheStats:
        """Counts and sizes.

        Raises:
            ValueError: the cache is closed.
            OSError: the file cannot be read.
        """
        with self._lock, self._as_oserror():
            statement = "SELECT count(*), coalesce(sum(size), 0) FROM entries"
            count, size = self._file.get().execute(statement).fetchone()
            lookups = (self._hits, self._misses, self._damaged)
            return CacheStats(count, size, file_bytes(self.path), self.max_bytes, *lookups)

    def verify(self) -> Verification:
        """Check every entry and the file's structure, changing nothing; :meth:`prune` removes damaged entries.

        Raises:
            ValueError: the cache is closed.
            OSError: the file cannot be opened.
        """
        earlier = tuple(f"an earlier file was set aside: {reason}" for reason in self._file.quarantined)
        with self._lock, self._as_oserror():
            found = check_file(self._file.get())
        return replace(found, problems=found.problems + earlier)

    def prune(self, max_bytes: int | None = None) -> Pruned:
        """Remove damaged entries, evict down to a size, and return free pages to the disk.

        Args:
            max_bytes: by default that of the cache.

        Raises:
            ValueError: ``max_bytes`` is negative, or the cache is closed.
            OSError: the file cannot be written.
        """
        bound = self.max_bytes if max_bytes is None else max_bytes
        if bound < 0:
            raise ValueError(f"max_bytes must be 0 or more, got {bound}")
        with self._lock, self._as_oserror():
            before = file_bytes(self.path)
            found = check_file(connection := self._file.get())
            if found.problems:
                self._file.quarantine("; ".join(found.problems))
                return Pruned(found.entries, 0, before)
            with transaction(connection):
                self._uses.write(connection)
                remove_rows(connection, found.damaged)
                remove_orphans(connection)
                evicted = make_room(connection, [], bound)
            shrink(connection, 0)
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            return Pruned(len(found.damaged), evicted, before - file_bytes(self.path))

    def close(self) -> None:
        """Write the times of use and close the file; closing twice is allowed."""
        with self._lock:
            if not self._closed:
                with self._warn_on_error("written"):
                    self._uses.flush(self._file.get())
                self._file.close()
                self._closed = True

    def _require_open(self) -> None:
        if self._closed:
            raise ValueError(f"the cache {self.path} is closed; open it again with EmbeddingCache(path)")

    def _write(self, batch: Sequence[tuple[bytes, bytes]]) -> int:
        connection = self._file.get()
        with transaction(connection):
            self._uses.write(connection)
            written = write_rows(connection, batch, self.max_bytes)
        shrink(connection, self.max_bytes)
        return written

    def _note(self, found: Iterable[bytes], damaged: Sequence[bytes]) -> None:
        """Note what was used, and remove what is damaged."""
        self._uses.note(found)
        if damaged:
            with self._warn_on_error("written"):
                self._drop_damaged(damaged)
        if self._uses.full:
            with self._warn_on_error("written"):
                self._uses.flush(self._file.get())

    def _drop_damaged(self, damaged: Sequence[bytes]) -> None:
        """Remove damaged entries; the first time, check the whole file's structure, where damage would spread."""
        connection = self._file.get()
        if not self._examined:
            self._examined = True
            if problems := structure_problems(connection):
                self._file.quarantine("; ".join(problems))
                return
        with transaction(connection):
            remove_rows(connection, damaged)

    @contextmanager
    def _as_oserror(self) -> Iterator[None]:
        """SQLite's errors as an OSError that names the file."""
        self._require_open()
        try:
            yield
        except sqlite3.Error as error:
            raise OSError(f"the cache {self.path} cannot be used: {error}") from error

    @contextmanager
    def _warn_on_error(self, what: str) -> Iterator[None]:
        """Errors of the file as a warning; a file that is damaged beyond reading is quarantined."""
        self._require_open()
        try:
            try:
                yield
            except sqlite3.Error as error:
                if not is_damage(error):
                    raise
                self._file.quarantine(str(error))
        except (sqlite3.Error, OSError, MemoryError, ValueError) as error:
            if (text := f"{type(error).__name__}: {error}") not in self._warned:
                self._warned.add(text)
                message = f"the cache {self.path} could not be {what} ({text}); going on without it"
                warnings.warn(message, RuntimeWarning, stacklevel=4)


class _LastUses:
    """When entries were used last: noted in memory, written many together. Losing them makes eviction less exact."""

    def __init__(self) -> None:
        self._used: dict[bytes, int] = {}

    @property
    def full(self) -> bool:
        """Whether it is time to write them."""
        return len(self._used) >= MAX_PENDING_USES

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
        with suppress(sqlite3.Error):
            connection.execute("PRAGMA busy_timeout=0")
            try:
                with transaction(connection):
                    self.write(connection)
            finally:
                connection.execute(f"PRAGMA busy_timeout={int(1000 * WAIT_SECONDS)}")
        self._used.clear()
