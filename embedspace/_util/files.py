"""Small JSON memos in the cache folder: results that are slow to get and safe to lose."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    pass

import os
import tempfile


def read_memo(path: Path) -> dict[str, Any] | None:
    """A small JSON memo from the cache folder; None where it is missing or damaged."""
    try:
        record = json.loads(path.read_text())
        body = record["body"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    whole = isinstance(body, dict) and record.get("digest") == _memo_digest(body)
    return body if whole else None


def write_memo(path: Path, body: dict[str, Any]) -> None:
    """Keep a small JSON memo, atomically; a cache folder that cannot be written only costs time."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(dir=path.parent, suffix=".draft")
        with os.fdopen(handle, "w") as file:
            json.dump({"digest": _memo_digest(body), "body": body}, file)
        Path(draft).replace(path)
    except OSError:
        return


def _memo_digest(body: dict[str, Any]) -> str:
    return hashlib.blake2b(json.dumps(body, sort_keys=True).encode(), digest_size=16).hexdigest()


def read_json_object(path: Path, absent: str) -> dict[str, Any]:
    """A JSON file that holds one object.

    Raises:
        ValueError: the file is missing (``absent`` is the message), not JSON, or holds something else.
    """
    try:
        content = json.loads(path.read_text())
    except (FileNotFoundError, NotADirectoryError):
        raise ValueError(absent) from None
    except ValueError as error:
        raise ValueError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{path} must hold a JSON object, it holds a {type(content).__name__}")
    return content


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    import hashlib

    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
