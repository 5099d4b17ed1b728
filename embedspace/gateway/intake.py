"""Admission of requests: capacity, headers, and bodies with limits on size and time."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedspace.gateway.api_keys import Keys
from embedspace.gateway.peers import share
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

if TYPE_CHECKING:  # the command line reads keys where neither package is installed
    from starlette.requests import Request

    from embedspace.gateway.audit import Counters


class Capacity:
    """Counts requests under way and bytes of bodies, and refuses what exceeds the limits with 429.

    One caller can have three quarters of each, so that there is always room for others.
    """

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._under_way: Counter[str] = Counter()
        self._bytes: Counter[str] = Counter()

    def require_slot(self, caller: str) -> None:
        """Refuse at once a request that would find no free slot after its body was read.

        Raises:
            RefusedError: too many requests are under way.
        """
        limit = self._limits.concurrent
        if self._under_way.total() >= limit or self._under_way[caller] >= share(limit):
            raise _busy("too_many_requests", "this gateway has reached its limit of concurrent requests")

    @contextlib.contextmanager
    def slot(self, caller: str) -> Iterator[None]:
        """A slot for one request, until the last byte of its answer.

        A request whose body is still arriving holds none, so slow senders block nobody.

        Raises:
            RefusedError: as :meth:`require_slot`.
        """
        self.require_slot(caller)
        self._count(self._under_way, caller, 1)
        try:
            yield
        finally:
            self._count(self._under_way, caller, -1)

    @contextlib.contextmanager
    def reserved_bytes(self, caller: str) -> Iterator[ByteReservation]:
        """The bytes that one request holds, until it ends or releases them."""
        reservation = ByteReservation(self, caller)
        try:
            yield reservation
        finally:
            reservation.release()

    def _change(self, caller: str, count: int) -> None:
        limits = self._limits
        # A body of the largest size must always fit, also where few are held together.
        most = max(share(limits.held_bytes), limits.body_bytes)
        if count > 0 and (
            self._bytes.total() + count > limits.held_bytes or self._bytes[caller] + count > most
        ):
            raise _busy("too_much_data", "this gateway has reached its limit of data under way")
        self._count(self._bytes, caller, count)

    def _count(self, counts: Counter[str], caller: str, change: int) -> None:
        counts[caller] += change
        if not counts[caller]:
            del counts[caller]
        self._counters.under_way.set(self._under_way.total())
        self._counters.held_bytes.set(self._bytes.total())


class ByteReservation:
    """Bytes that one request holds: of its body as received, then as sent to the server."""

    def __init__(self, capacity: Capacity, caller: str) -> None:
        self._capacity = capacity
        self._caller = caller
        self._held = 0

    def add(self, count: int) -> None:
        """Reserve more bytes.

        Raises:
            RefusedError: all requests together would hold too many.
        """
        self._capacity._change(self._caller, count)
        self._held += count

    def resize(self, count: int) -> None:
        """Reserve this many in total; raises as :meth:`add`."""
        self.add(count - self._held)

    def release(self) -> None:
        """Reserve nothing any more."""
        self.resize(0)


def admit(request: Request, keys: Keys) -> int | None:
    """Check the header: well-formed, and from an authorised caller.

    Returns:
        the number of the caller's key, where keys are required.

    Raises:
        RefusedError: a header twice that must occur once, or no valid key.
    """
    headers = request.headers
    if len(headers.getlist("host")) != 1 or len(headers.getlist("content-type")) > 1:
        raise RefusedError(
            400, "ambiguous_header", "a header that must occur once occurs twice or not at all"
        )
    if not keys:
        return None
    number = keys.number(headers.getlist("authorization"))
    if number is None:
        raise RefusedError(401, "invalid_api_key", "this gateway needs one of its API keys")
    return number


@dataclass(frozen=True)
class Body:
    """A request's body as received."""

    content: bytes
    sha256: str


async def read_body(request: Request, limits: Limits, reservation: ByteReservation) -> Body:
    """The body of a request.

    Raises:
        RefusedError: another type, compressed, too large, too slow, or too much together with all others.
        ClientDisconnect: the caller disconnected.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(
            415, "compressed_body", "compressed bodies are not supported; send it uncompressed"
        )
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "not_json", "the content-type must be application/json")
    too_large = RefusedError(413, "body_too_large", f"a body can have at most {limits.body_bytes} bytes")
    if int(headers.get("content-length", "0")) > limits.body_bytes:
        raise too_large
    chunks: list[bytes] = []
    size, digest = 0, hashlib.sha256()
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                reservation.add(len(chunk))
                chunks.append(chunk)
                digest.update(chunk)
    except TimeoutError:
        raise RefusedError(
            408, "body_too_slow", f"the body did not arrive within {limits.body_seconds:g} s"
        ) from None
    return Body(b"".join(chunks), digest.hexdigest())


def _busy(code: str, message: str) -> RefusedError:
    return RefusedError(429, code, f"{message}; try again", retry_after=1)
