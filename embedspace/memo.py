"""Small JSON memos in the cache folder: results that are slow to get and safe to lose."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any


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
