"""The audit log: one JSON line for each decision about content, and never the content."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any


class AuditLog:
    """Appends lines to a file, which may be renamed by a log rotation at any time.

    Args:
        path: of the file, made where it is missing, readable by its owner; None keeps no log.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._append(b"")

    def write(self, **fields: Any) -> None:
        """Append one decision.

        Raises:
            OSError: the disk is full, or the file cannot be written any more.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(json.dumps({"time": time, **fields}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # One call, so that lines of several gateways do not mix.
            if os.write(file, line) != len(line):
                raise OSError(f"{self._path} took only a part of a line")
        finally:
            os.close(file)
