"""Records: one JSON line for each completion, with its prompt's recipe and hash."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Self

from embedspace._util.files import atomic_path
from embedspace.engines import Sampling
from embedspace.metrics import Score
from embedspace.prompt import Recipe

Tag = str | int | float | bool

SCORED = "scored"
"""Finish reason of a case that asked for likelihoods alone."""

SYNC_SECONDS = 5.0
"""Longest time between a record's being written and its being forced to the disk, while records keep coming."""


@dataclass(frozen=True)
class Record:
    """One completion of one case, or the reason why there is none.

    Raises:
        ValueError: a tag that JSON cannot hold (NaN, infinity, a nested value).
    """

    key: str
    """Name of the case, the same in every run of the experiment, e.g. ``style/alpha=+1.0/q03``."""
    choice: int
    """Which of the case's completions, 0 to n - 1."""
    tags: Mapping[str, Tag]
    """What the case is, for grouping."""
    recipe: Recipe
    """How the prompt was made."""
    rows: int
    """Length of the prompt."""
    sampling: Sampling
    space: str
    """Fingerprint of the embedding space."""
    engine: Mapping[str, str]
    """The engine's own description."""
    text: str
    token_ids: tuple[int, ...]
    finish_reason: str
    """``stop``, ``length``, ``error``, or ``scored`` where likelihoods alone were asked for."""
    seconds: float
    """Time of the request or batch that the completion was part of."""
    scores: Mapping[str, Score] = field(default_factory=dict)
    """Likelihoods of named continuations of the prompt; only the in-process engine computes them."""
    error: str | None = None
    prompt_sha256: str | None = None
    """Hash of the prompt's dtype, shape and bytes, or of its token ids; None in records of earlier versions."""

    def __post_init__(self) -> None:
        for name, value in self.tags.items():
            finite = isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))
            if not finite:
                raise ValueError(
                    f"tag {name!r} of {self.key!r} is {value!r}; allowed are str, bool and finite numbers"
                )

    def to_json(self) -> bytes:
        """The record as one line of UTF-8, its line end included."""
        fields = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        fields["recipe"] = self.recipe.to_dict()
        fields["sampling"] = dataclasses.asdict(self.sampling)
        fields["scores"] = {name: dataclasses.asdict(score) for name, score in self.scores.items()}
        try:
            return (json.dumps(fields, ensure_ascii=False, allow_nan=False) + "\n").encode()
        except UnicodeEncodeError:  # a lone surrogate in a server's answer
            return (json.dumps(fields, allow_nan=False) + "\n").encode()

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: the line is not a record.
        """
        try:
            fields: dict[str, Any] = json.loads(line)
            fields["recipe"] = Recipe.from_dict(fields["recipe"])
            fields["sampling"] = Sampling(**fields["sampling"])
            fields["token_ids"] = tuple(fields["token_ids"])
            fields["scores"] = {name: Score(**score) for name, score in fields["scores"].items()}
            return cls(**fields)
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"not a record of this version: {error!r}") from error


def read_records(path: Path) -> Iterator[Record]:
    """The records of a file, in order; a last line cut in the middle of its writing is left out.

    >>> import tempfile
    >>> from embedspace import Recipe
    >>> path = Path(tempfile.mkdtemp()) / "records.jsonl"
    >>> record = Record("q0", 0, {}, Recipe.of("embed", {"text": "Hi"}), 1, Sampling(), "", {}, "Yes", (), "stop", 0.1)
    >>> path.write_bytes(record.to_json() + b'{"key": "q1", "cho') > 0
    True
    >>> [record.text for record in read_records(path)]
    ['Yes']

    Raises:
        ValueError: another line is damaged; the message names it.
    """
    for _, record in _numbered(path):
        yield record


def _numbered(path: Path) -> Iterator[tuple[bytes, Record]]:
    with path.open("rb") as file:
        torn: tuple[int, ValueError] | None = None
        for number, line in enumerate(file, start=1):
            if torn is not None:
                raise ValueError(f"{path}, line {torn[0]} is damaged: {torn[1]}; remove the line to continue")
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("the line has no end")
                record = Record.from_json(line)
            except ValueError as error:
                torn = (number, error)
                continue
            yield line, record


class RecordLog:
    """The append-only record file of a run.

    A record survives the death of the process as soon as :meth:`append` returns, and the death of the machine
    after at most ``SYNC_SECONDS`` of further appends or after :meth:`close`. All completions of a case are one
    write; opening the file again drops what a kill left of a half-written case, and cases that failed, so that
    both are done again and nothing is there twice.

    Raises:
        OSError: the file cannot be read or written.
        ValueError: a line other than the last one is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.completed: dict[str, str] = {}
        """Key of every case that is recorded whole -> digest of its prompt's recipe."""
        with _explained(path, self):
            if path.exists():
                self._repair()
            self._file: IO[bytes] = path.open("ab", buffering=0)
        self._synced = time.monotonic()

    def append(self, records: Sequence[Record]) -> None:
        """Write all completions of one case.

        Raises:
            OSError: the disk is full or the file is not writable; what was recorded before is kept.
        """
        with _explained(self.path, self):
            left = memoryview(b"".join(record.to_json() for record in records))
            while left:
                left = left[self._file.write(left) :]
            if time.monotonic() - self._synced > SYNC_SECONDS:
                self._sync()
        if not any(record.error for record in records):
            self.completed[records[0].key] = records[0].recipe.digest

    def close(self) -> None:
        """Force all records to the disk and close the file."""
        if not self._file.closed:
            with _explained(self.path, self):
                self._sync()
                self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def _repair(self) -> None:
        """Keep the whole cases and drop everything else, atomically."""
        choices: dict[str, list[int]] = {}
        wanted: dict[str, int] = {}
        failed: set[str] = set()
        digests: dict[str, str] = {}
        kept_bytes = 0
        for line, record in _numbered(self.path):
            choices.setdefault(record.key, []).append(record.choice)
            wanted[record.key] = 1 if record.finish_reason == SCORED else record.sampling.n
            digests[record.key] = record.recipe.digest
            if record.error is not None:
                failed.add(record.key)
            kept_bytes += len(line)
        whole = {
            key
            for key, seen in choices.items()
            if key not in failed and sorted(seen) == [*range(wanted[key])]
        }
        if len(whole) < len(choices) or kept_bytes < self.path.stat().st_size:
            self._rewrite(whole)
        self.completed = {key: digests[key] for key in choices if key in whole}

    def _rewrite(self, keys: Collection[str]) -> None:
        with atomic_path(self.path, sync=True) as draft, draft.open("wb") as file:
            file.writelines(line for line, record in _numbered(self.path) if record.key in keys)


@contextmanager
def _explained(path: Path, log: RecordLog) -> Iterator[None]:
    """Turn an ``OSError`` into one that says what was kept and what to do."""
    try:
        yield
    except OSError as error:
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        remedy = "make room" if full else "make it writable or choose another out=FOLDER"
        raise OSError(
            f"cannot write {path} ({error.strerror or error}); the {len(log.completed)} cases recorded before are "
            f"kept. To continue, {remedy} and run the same command again"
        ) from error


def by_tags(records: Iterable[Record], *names: str) -> dict[tuple[Tag, ...], list[Record]]:
    """Records grouped by the values of some of their tags; records without one of them are left out.

    >>> from types import SimpleNamespace
    >>> records = [SimpleNamespace(tags={"alpha": alpha, "question": 0}) for alpha in (0.0, 1.0, 1.0)]
    >>> {group: len(found) for group, found in by_tags(records, "alpha").items()}
    {(0.0,): 1, (1.0,): 2}
    """
    groups: dict[tuple[Tag, ...], list[Record]] = {}
    for record in records:
        if all(name in record.tags for name in names):
            groups.setdefault(tuple(record.tags[name] for name in names), []).append(record)
    return groups
