"""Files that a corpus is read from, identified by what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Refusal:
    """Why there is no text, or why a text is no prompt."""

    reason: str

    def __str__(self) -> str:
        return self.reason


@dataclass(frozen=True)
class FileIdentity:
    """A file and the digest of its bytes."""

    path: Path
    size: int
    sha256: str

    def describe(self) -> dict[str, Any]:
        """Name, size and digest: the same wherever the file lies."""
        return {"name": self.path.name, "bytes": self.size, "sha256": self.sha256}


def identified(
    path: Path, read: Callable[[Iterator[bytes], Callable[[bytes], None]], int]
) -> tuple[FileIdentity, int]:
    """The identity of a file, and what ``read`` counts in it while it passes every line on to the digest."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        count = read(file, digest.update)
        return FileIdentity(path, file.tell(), digest.hexdigest()), count


def identity_of(path: Path) -> FileIdentity:
    """The identity of a file of any kind."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return FileIdentity(path, file.tell(), digest.hexdigest())
