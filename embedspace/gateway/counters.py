"""What the gateway counts, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Counters:
    """Counters of one gateway, in a registry of its own."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = Counter(
            "embedspace_gateway_requests",
            "Requests by address and outcome: forwarded, or the reason code of the refusal",
            ["path", "outcome"],
            registry=self._registry,
        )
        self.prompts = Counter(
            "embedspace_gateway_prompts", "Prompts that were screened", registry=self._registry
        )
        self.rows = Counter(
            "embedspace_gateway_rows", "Embedded rows of requests that were screened", registry=self._registry
        )
        self.under_way = Gauge("embedspace_gateway_under_way", "Requests under way", registry=self._registry)
        self.held_bytes = Gauge(
            "embedspace_gateway_held_bytes",
            "Bytes of bodies being received or screened",
            registry=self._registry,
        )
        self.screening = Histogram(
            "embedspace_gateway_screening_seconds",
            "From a body's last byte to the verdict",
            buckets=_SECONDS,
            registry=self._registry,
        )
        self.workers_lost = Counter(
            "embedspace_gateway_workers_lost",
            "Workers that died or were killed with work under way",
            registry=self._registry,
        )

    def exposition(self) -> bytes:
        """In Prometheus's text format."""
        return generate_latest(self._registry)
