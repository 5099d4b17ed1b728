"""Files that a corpus is read from, identified by what they hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace._util.files import file_digest


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


def identity_of(path: Path) -> FileIdentity:
    """The identity of a file of any kind."""
    return FileIdentity(path, path.stat().st_size, file_digest(path))
