"""Settings of a gateway: addresses, callers, and limits."""

from __future__ import annotations

import math
import urllib.parse
from dataclasses import dataclass, field, fields
from pathlib import Path

MIB = 2**20
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Limits:
    """Sizes, counts and times beyond which a request is refused, before it costs anything.

    >>> Limits(prompts=8).prompts
    8

    Raises:
        ValueError: a limit is not positive and finite, or one body may be larger than all together.
    """

    body_bytes: int = 32 * MIB
    """Of one request, before decoding."""
    held_bytes: int = 256 * MIB
    """Of all requests together, from a body's first byte until it was sent on; three quarters for one caller."""
    concurrent: int = 128
    """Concurrent requests, each from its body's last byte to its answer's last; three quarters for one caller."""
    connections: int = 1024
    """Open connections. Idle ones make room for new ones; one address has at most three quarters."""
    prompts: int = 64
    """Embedded prompts, or prompts of a completions request, in one request."""
    messages: int = 512
    """Of one conversation."""
    parts: int = 1024
    """Texts and content parts of one conversation, in all its messages."""
    rows: int = 1_000_000
    """Of one embedded prompt; the server's context length applies where it is less."""
    request_rows: int = 32_768
    """Of all prompts of one request together, tokens of screened text included."""
    values: int = 100_000
    """Of the JSON of one request; commas and brackets in its texts count as well."""
    depth: int = 32
    """Levels of nested JSON."""
    header_seconds: float = 10.0
    """From opening a connection, or a header's first byte, to the end of the header."""
    body_seconds: float = 30.0
    """From the end of the header to the end of the body."""
    screen_seconds: float = 20.0
    """Without an answer from a worker that has pending requests."""
    cpu_seconds: float = 15.0
    """Processor time of a worker for requests that it screens together, or for one alone."""
    upstream_seconds: float = 600.0
    """Without a byte from the upstream server."""
    write_seconds: float = 60.0
    """For which a caller may block the next chunk of its answer."""
    worker_bytes: int = 1024 * MIB
    """Address space of a worker beyond that of the loaded filter."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 < getattr(self, each.name) < math.inf:
                raise ValueError(
                    f"the limit {each.name} is {getattr(self, each.name)}; it must be positive and finite"
                )
        if self.held_bytes < self.body_bytes:
            raise ValueError(
                f"the limit held_bytes is {self.held_bytes} and one body may have {self.body_bytes}; "
                "raise held_bytes or lower body_bytes"
            )


@dataclass(frozen=True)
class Settings:
    """One gateway before one server.

    >>> Settings("http://127.0.0.1:8000/v1", "smollm2-injection").upstream
    'http://127.0.0.1:8000'

    Raises:
        ValueError: an invalid address, a number out of range, a path that cannot be allowed, or a key for the server
            although callers need none.
    """

    upstream: str
    """Address of the vLLM server, with or without ``/v1``."""
    filter: str
    """Saved filter, or the name of a shipped one."""
    model: str | None = None
    """Model of the filter's space: packaged name, local folder or hub id; by default the name of the served one."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 chooses a free one."""
    workers: int = 1
    """Processes that decode and screen; they share the memory of the filter."""
    screen_text: bool = False
    """Whether text and token ids are screened as well."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """API keys of callers; without any, everybody is admitted."""
    upstream_key: str | None = field(default=None, repr=False)
    """API key for the server."""
    audit: Path | None = None
    """File for one JSON line for each decision about content."""
    allow: tuple[str, ...] = ()
    """Further addresses that are forwarded, for GET only."""
    wait: float = 0.0
    """Seconds to wait for the server to start."""
    limits: Limits = field(default_factory=Limits)

    def __post_init__(self) -> None:
        parts = urllib.parse.urlsplit(self.upstream)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
            raise ValueError(
                "upstream must be an address such as 'http://127.0.0.1:8000', without a password in it"
            )
        object.__setattr__(self, "upstream", self.upstream.rstrip("/").removesuffix("/v1"))
        if not 0 <= self.port < 65536:
            raise ValueError(f"port is {self.port}; it must be in [0, 65535]")
        if not 1 <= self.workers <= 256:
            raise ValueError(f"workers is {self.workers}; it must be in [1, 256]")
        if not 0 <= self.wait < 86400:
            raise ValueError(f"wait is {self.wait}; it must be 0 seconds or more, and less than a day")
        for path in self.allow:
            if not path.startswith("/") or set(path) & set("?#%{}") or ".." in path:
                raise ValueError(f"{path!r} cannot be allowed; write a plain path such as /tokenizer_info")
        if self.upstream_key is not None and not self.keys:
            raise ValueError(
                "the gateway has a key for the server and would lend it to everybody; set API keys of callers as well"
            )

    @property
    def on_this_machine(self) -> bool:
        """Whether the server runs on this machine, so that no proxy is used."""
        return urllib.parse.urlsplit(self.upstream).hostname in LOOPBACK
