"""What a gateway is told: where it stands, whom it lets through, and how much it takes on."""

from __future__ import annotations

import math
import urllib.parse
from dataclasses import dataclass, field, fields
from pathlib import Path

MIB = 2**20
LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


@dataclass(frozen=True)
class Limits:
    """How much is taken on; what is above is refused before it costs anything.

    Raises:
        ValueError: one is not above 0, or a single body may be larger than all together.
    """

    body_bytes: int = 32 * MIB
    """Of one request, before anything of it is decoded."""
    held_bytes: int = 256 * MIB
    """Of all requests together, from a body's first byte until the upstream server has taken it."""
    concurrent: int = 128
    """Requests at once, each from its body's last byte to that of its answer."""
    connections: int = 1024
    """Open at once, idle ones included."""
    prompts: int = 64
    """Embedded prompts, or prompts of a completions request, in one request."""
    messages: int = 512
    """Of one conversation."""
    parts: int = 1024
    """Texts and content parts of one conversation, in all its messages."""
    rows: int = 1_000_000
    """Of one embedded prompt; what the upstream server's context holds counts where it is less."""
    depth: int = 32
    """Of nested JSON."""
    header_seconds: float = 10.0
    """From a connection or a header's first byte to the end of the header."""
    body_seconds: float = 30.0
    """From the end of the header to the end of the body."""
    screen_seconds: float = 20.0
    """Without an answer from a worker that has something to do."""
    upstream_seconds: float = 600.0
    """Without a byte from the upstream server."""
    write_seconds: float = 60.0
    """For which a client may refuse to take the next piece of its answer."""
    worker_bytes: int = 1024 * MIB
    """Of address space that a worker may take beyond what the loaded filter needs."""

    def __post_init__(self) -> None:
        for each in fields(self):
            if not 0 < getattr(self, each.name) < math.inf:
                raise ValueError(
                    f"the limit {each.name} is {getattr(self, each.name)}; it must be above 0 and finite"
                )
        if self.held_bytes < self.body_bytes:
            raise ValueError(
                f"the limit held_bytes is {self.held_bytes} and one body may have {self.body_bytes}; raise the one or "
                "lower the other"
            )


@dataclass(frozen=True)
class Settings:
    """One gateway before one server.

    Raises:
        ValueError: an address that is none, a number out of its range, a path that cannot be let through, or a
            key for the upstream server where callers need none.
    """

    upstream: str
    """Address of the vLLM server, with or without ``/v1``."""
    filter: str
    """Saved filter, or the name of a shipped one."""
    model: str | None = None
    """Space of the filter: packaged name, local folder or hub id; by default the name that the server serves."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 is any free one."""
    workers: int = 1
    """Processes that decode and screen; they share the filter's memory."""
    screen_text: bool = False
    """Whether text and token ids are screened too."""
    keys: tuple[str, ...] = field(default=(), repr=False)
    """API keys of callers; without any, everybody is let in."""
    upstream_key: str | None = field(default=None, repr=False)
    """API key for the upstream server."""
    audit: Path | None = None
    """File that gets one JSON line for each decision about content."""
    allow: tuple[str, ...] = ()
    """More addresses that are forwarded, for GET alone."""
    wait: float = 0.0
    """Seconds to wait for an upstream server that is not there yet."""
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
                raise ValueError(
                    f"{path!r} cannot be let through; write a plain path such as /tokenizer_info"
                )
        if self.upstream_key is not None and not self.keys:
            raise ValueError(
                "the gateway has a key for the upstream server and would lend it to everybody; "
                "give it keys of its own callers as well"
            )

    @property
    def on_this_machine(self) -> bool:
        """Whether the upstream server is, so that no proxy stands between."""
        return urllib.parse.urlsplit(self.upstream).hostname in LOOPBACK
