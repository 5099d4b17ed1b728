"""Admission of requests: capacity, headers, and bodies with limits on size and time."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from embedspace.gateway.api_keys import Keys
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

if TYPE_CHECKING:  # the command line reads keys where neither package is installed
    from starlette.requests import Request

    from embedspace.gateway.audit import Counters

MAX_HEADER_BYTES = 16 * 1024
"""Largest request before its body."""

_DRAIN_SECONDS = 1.0


class Capacity:
    """Counts requests under way and bytes of bodies, and refuses what exceeds the limits with 429."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._under_way = 0
        self._bytes = 0

    def require_slot(self) -> None:
        """Refuse at once a request that would find no free slot after its body was read.

        Raises:
            RefusedError: too many requests are under way.
        """
        if self._under_way >= self._limits.concurrent:
            raise _busy("too_many_requests", "this gateway has reached its limit of concurrent requests")

    @contextlib.contextmanager
    def slot(self) -> Iterator[None]:
        """A slot for one request, until the last byte of its answer.

        A request whose body is still arriving holds none, so slow senders block nobody.

        Raises:
            RefusedError: as :meth:`require_slot`.
        """
        self.require_slot()
        self._under_way += 1
        self._counters.under_way.set(self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1
            self._counters.under_way.set(self._under_way)

    @contextlib.contextmanager
    def reserved_bytes(self) -> Iterator[ByteReservation]:
        """The bytes that one request holds, until it ends or releases them."""
        reservation = ByteReservation(self)
        try:
            yield reservation
        finally:
            reservation.release()

    def _change(self, count: int) -> None:
        if count > 0 and self._bytes + count > self._limits.held_bytes:
            raise _busy("too_much_data", "this gateway has reached its limit of data under way")
        self._bytes += count
        self._counters.held_bytes.set(self._bytes)


class ByteReservation:
    """Bytes that one request holds: of its body as received, then as sent to the server."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._count = 0

    def add(self, count: int) -> None:
        """Reserve more bytes.

        Raises:
            RefusedError: all requests together would hold too many.
        """
        self._capacity._change(count)
        self._count += count

    def resize(self, count: int) -> None:
        """Reserve this many in total; raises as :meth:`add`."""
        self.add(count - self._count)

    def release(self) -> None:
        """Reserve nothing any more."""
        self.resize(0)


def admit(request: Request, keys: Keys) -> int | None:
    """Check the header: well-formed, and from an authorised caller.

    Returns:
        the number of the caller's key, where keys are required.

    Raises:
        RefusedError: too large, a header twice that must occur once, or no valid key.
    """
    headers = request.headers
    if sum(len(name) + len(value) for name, value in headers.raw) > MAX_HEADER_BYTES:
        raise RefusedError(431, "header_too_large", f"a header can have at most {MAX_HEADER_BYTES} bytes")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise RefusedError(400, "ambiguous_length", "a request must have one length, and this one has two")
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


async def read_body(request: Request, limits: Limits, reservation: ByteReservation) -> bytes:
    """The body of a request, as received.

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
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                reservation.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise RefusedError(
            408, "body_too_slow", f"the body did not arrive within {limits.body_seconds:g} s"
        ) from None
    return b"".join(chunks)


async def drain(request: Request) -> bool:
    """Receive and discard the rest of a request for a moment; whether all of it arrived.

    If a connection is closed while its caller still sends, it is reset, and the answer may be lost.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return True
    return False


def _busy(code: str, message: str) -> RefusedError:
    return RefusedError(429, code, f"{message}; try again", retry_after=1)
