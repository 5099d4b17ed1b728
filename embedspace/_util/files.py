"""Files and folders that are written whole or not at all, small JSON files, and digests."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_path(path: Path, *, sync: bool = False) -> Iterator[Path]:
    """A draft in the same folder for the block to write; it replaces ``path`` when the block ends without an error.

    A reader sees the old file or the new one, never a part, and several processes may write at once: the last wins.
    With ``sync``, the bytes are on the disk before the file appears under its name. A file that is replaced keeps its
    permissions, and a link its target.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():  # a device such as /dev/null is written to, not replaced
        yield path
        return
    draft = path.with_name(f"{path.name}.{uuid.uuid4().hex[:16]}.draft")
    try:
        yield draft
        if sync:
            with draft.open("rb+") as file:
                os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, draft)
        draft.replace(path)
    except BaseException:
        with suppress(OSError):
            draft.unlink(missing_ok=True)
        raise


def atomic_write(path: Path, data: str | bytes, *, sync: bool = False) -> None:
    """Write a whole file (text as UTF-8), or none of it; see :func:`atomic_path`."""
    with atomic_path(path, sync=sync) as draft:
        draft.write_bytes(data.encode() if isinstance(data, str) else data)


@contextmanager
def atomic_folder(target: Path, marker: str, *, resume: bool = False) -> Iterator[Path | None]:
    """A draft folder beside ``target`` for this process alone to fill; renamed when the block ends without an error.

    Other processes wait at a lock; None where ``target`` is whole, because it holds the file ``marker``. With
    ``resume``, the block gets the files that an interrupted attempt left in the draft.
    """
    from filelock import FileLock

    if (target / marker).is_file():  # before the lock: the folder may be read-only
        yield None
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = target.with_name(f"{target.name}.draft")
    with FileLock(target.with_name(f"{target.name}.lock")):
        if (target / marker).is_file():
            yield None
            return
        for folder in [target] if resume else [target, draft]:
            shutil.rmtree(folder, ignore_errors=True)
        draft.mkdir(exist_ok=resume)
        yield draft
        draft.replace(target)


def read_json_object(path: Path, absent: str) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ValueError: the file is missing (``absent`` is the message), not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(absent) from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content


def write_json(path: Path, content: object) -> None:
    """Write readable JSON, atomically."""
    atomic_write(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_cached_json(path: Path) -> dict[str, Any] | None:
    """The object that :func:`write_cached_json` wrote; None where it is missing or damaged."""
    try:
        record = json.loads(path.read_text())
        body = record["body"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = isinstance(body, dict) and record.get("digest") == _json_digest(body)
    return body if whole else None


def write_cached_json(path: Path, body: dict[str, Any]) -> None:
    """Keep an object that can be computed again; a cache folder that cannot be written only costs time."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic_write(path, json.dumps({"digest": _json_digest(body), "body": body}))


def _json_digest(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
