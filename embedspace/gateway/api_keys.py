"""API keys of the gateway's callers: read from a file or the environment, compared in constant time."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping, Sequence
from pathlib import Path

KEYS_VARIABLE = "EMBEDSPACE_GATEWAY_KEYS"

MIN_KEY_LENGTH = 8


class Keys:
    """API keys of callers, compared in constant time.

    Raises:
        ValueError: a key is too short, has characters that no header can carry, or occurs twice.
    """

    def __init__(self, keys: Sequence[str]) -> None:
        for number, key in enumerate(keys, start=1):
            if len(key) < MIN_KEY_LENGTH or not key.isascii() or not key.isprintable() or " " in key:
                raise ValueError(
                    f"API key {number} must have at least {MIN_KEY_LENGTH} printable ASCII characters and no space"
                )
        if len(set(keys)) != len(keys):
            raise ValueError("an API key occurs twice")
        self._digests = [_digest(key) for key in keys]

    def __bool__(self) -> bool:
        """Whether callers need a key."""
        return bool(self._digests)

    def number(self, authorization: Sequence[str]) -> int | None:
        """The number of a request's key, counted from 1; None without a valid key.

        Args:
            authorization: the values of all its ``Authorization`` headers.
        """
        scheme, _, presented = authorization[0].partition(" ") if len(authorization) == 1 else ("", "", "")
        digest = _digest(presented.strip() if scheme.lower() == "bearer" else "")
        found = None
        for number, known in enumerate(self._digests, start=1):  # always all of them
            if hmac.compare_digest(digest, known):
                found = number
        return found


def read_keys(file: Path | None, environment: Mapping[str, str]) -> tuple[str, ...]:
    """Keys from a file, one a line, or from ``$EMBEDSPACE_GATEWAY_KEYS``, separated by white space.

    Raises:
        ValueError: the file or the variable exists and holds no key.
        OSError: the file cannot be read.
    """
    text = environment.get(KEYS_VARIABLE) if file is None else file.read_text()
    if text is None:
        return ()
    keys = tuple(line.strip() for line in text.splitlines()) if file else tuple(text.split())
    keys = tuple(key for key in keys if key and not key.startswith("#"))
    if not keys:
        raise ValueError(f"{file or '$' + KEYS_VARIABLE} holds no API key; leave it out to admit everybody")
    return keys


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogateescape")).digest()
