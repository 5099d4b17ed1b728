"""What the gateway records: an audit log of decisions, never of content, and counters for Prometheus."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class AuditLog:
    """Appends one JSON line for each decision to a file, which log rotation may rename at any time.

    Args:
        path: of the file, created if missing with access for its owner only; None keeps no log.

    Raises:
        OSError: it cannot be written.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._append(b"")

    def write(self, **fields: Any) -> None:
        """Append one decision.

        Raises:
            OSError: the disk is full, or the file can no longer be written.
        """
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        self._append(json.dumps({"time": time, **fields}).encode() + b"\n")

    def _append(self, line: bytes) -> None:
        if self._path is None:
            return
        file = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # One call, so that lines of several gateways do not interleave.
            if os.write(file, line) != len(line):
                raise OSError(f"only part of a line could be written to {self._path}")
        finally:
            os.close(file)


class Counters:
    """Counters of one gateway, in their own registry."""

    def __init__(self) -> None:
        registry = self._registry = CollectorRegistry()
        self.requests = Counter(
            "embedspace_gateway_requests",
            "Requests by address and outcome: forwarded, or the reason code of the refusal",
            ["path", "outcome"],
            registry=registry,
        )
        self.prompts = Counter("embedspace_gateway_prompts", "Screened prompts", registry=registry)
        self.rows = Counter(
            "embedspace_gateway_rows", "Embedded rows of screened requests", registry=registry
        )
        self.under_way = Gauge("embedspace_gateway_under_way", "Requests under way", registry=registry)
        self.held_bytes = Gauge(
            "embedspace_gateway_held_bytes", "Bytes of bodies being received or screened", registry=registry
        )
        self.screening = Histogram(
            "embedspace_gateway_screening_seconds",
            "From a body's last byte to the verdict",
            buckets=_SECONDS,
            registry=registry,
        )
        self.workers_lost = Counter(
            "embedspace_gateway_workers_lost",
            "Workers that died or were killed with requests under way",
            registry=registry,
        )

    def exposition(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
