"""HTTP on callers' connections: uvicorn's protocol with limits on time, headers, chunks and connections."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedspace.gateway.peers import Peer, Peers
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

MAX_HEADER_BYTES = 16 * 1024
"""Largest request before its body."""
MAX_HEADERS = 100
"""Lines of it."""
MAX_TINY_CHUNKS = 64
"""Chunks of a body beyond one for each ``BYTES_A_CHUNK`` of it."""
BYTES_A_CHUNK = 1024

_LINGER_SECONDS = 1.0


class BoundedProtocol(H11Protocol):
    """One connection.

    A refusal that is sent before all of the body has arrived closes the connection; what still arrives is discarded
    unread for a moment, since a connection that is closed while its caller sends is reset, and the answer may be lost.

    Args:
        peer: the address that it came from.
        peers: all of them.
        limits: of the gateway.
        options: of uvicorn's protocol.
    """

    def __init__(self, *, peer: Peer, peers: Peers, limits: Limits, **options: Any) -> None:
        super().__init__(**options)
        self.conn = _StrictConnection()
        self._peer = peer
        self._peers = peers
        self._limits = limits
        self._deadline: asyncio.TimerHandle | None = None
        self._held: bytes | None = None
        self._lingering = False
        self._processing = self._deferred = False

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def held(self) -> bool:
        """Whether what arrived waits for its address to have time."""
        return self._held is not None

    def drop(self) -> None:
        """Close the connection at once."""
        self.transport.abort()

    def connection_made(self, transport: Any) -> None:
        self._peer.connections[self] = None
        wrapped: Any = _Transport(transport, self)
        super().connection_made(wrapped)
        self._start_deadline()

    def connection_lost(self, exc: Exception | None) -> None:
        self._peer.connections.pop(self, None)
        self._cancel_deadline()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._lingering:
            return
        if self._held is not None:
            self._held += data
            return
        self._held = data
        self._peer.when_it_has_time(self._process)
        if self._held is not None:
            self.transport.pause_reading()

    def handle_events(self) -> None:
        if self._processing:
            self._handle_events()
        elif not self._deferred:  # after an answer; the next request may have arrived already
            self._deferred = True
            self._peer.when_it_has_time(self._handle_events)

    def _handle_events(self) -> None:
        self._deferred = False
        if self.transport.is_closing():
            return
        before = self.cycle
        with self._peer.charged():
            super().handle_events()
        if self.cycle is not before:
            self._peers.charge_request(self._peer)

    def send_400_response(self, msg: str) -> None:
        # If an answer is already under way, an error response cannot be sent any more.
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            connection: Any = self.conn
            refusal = connection.refusal
            body = refusal.body()
            fields = {**refusal.headers(), "content-length": str(len(body)), "connection": "close"}
            for event in (
                h11.Response(status_code=refusal.status, headers=list(fields.items()), reason=b"Refused"),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        if self.cycle is not None:  # nothing more of it arrives, and nothing more is answered
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.linger()

    def linger(self) -> None:
        """Close the connection, after a moment where its caller may still be sending."""
        if self._lingering:
            return
        if self.conn.their_state in (h11.IDLE, h11.DONE, h11.MUST_CLOSE, h11.CLOSED):
            self._transport.close()
            return
        self._lingering, self._held = True, None
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._transport.resume_reading()
        self._cancel_deadline()
        self._start_deadline(_LINGER_SECONDS)

    @property
    def lingering(self) -> bool:
        """Whether the connection only discards what still arrives."""
        return self._lingering

    @property
    def _transport(self) -> asyncio.Transport:
        """The socket's own."""
        wrapped: Any = self.transport
        transport: asyncio.Transport = wrapped.inner
        return transport

    def _process(self) -> None:
        """What has arrived."""
        data, self._held = self._held, None
        if data is None or self.transport.is_closing():
            return
        self._processing = True
        try:
            super().data_received(data)
        finally:
            self._processing = False
        if not self.flow.read_paused:
            self.transport.resume_reading()
        if not self.idle:
            self._cancel_deadline()
        elif self._deadline is None:
            self._start_deadline()

    def _start_deadline(self, seconds: float | None = None) -> None:
        seconds = self._limits.header_seconds if seconds is None else seconds
        self._deadline = self.loop.call_later(seconds, self._transport.abort)

    def _cancel_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None


class _Transport:
    """A connection's transport, which lingers where it is closed, and is not read from while its protocol waits."""

    def __init__(self, inner: asyncio.Transport, protocol: BoundedProtocol) -> None:
        self.inner = inner
        self._protocol = protocol

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def is_closing(self) -> bool:
        return self._protocol.lingering or self.inner.is_closing()

    def close(self) -> None:
        self._protocol.linger()

    def write(self, data: bytes) -> None:
        if not self._protocol.lingering:
            self.inner.write(data)

    def resume_reading(self) -> None:
        if not self._protocol.held:
            self.inner.resume_reading()


class _StrictConnection(h11.Connection):
    """h11's side of a server, which refuses what h11 takes and another reader may read differently."""

    def __init__(self) -> None:
        super().__init__(h11.SERVER, MAX_HEADER_BYTES)
        self.refusal = _invalid("the request is not valid HTTP/1.1")
        self._chunks = self._body_bytes = 0

    def next_event(self) -> Any:
        if self.their_state is h11.IDLE:
            self._require_small_head()
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._chunks = self._body_bytes = 0
            if (refusal := _head_refusal(event)) is not None:
                self._refuse(refusal)
        elif isinstance(event, h11.Data):
            self._chunks += event.chunk_start
            self._body_bytes += len(event.data)
            if self._chunks > MAX_TINY_CHUNKS + self._body_bytes // BYTES_A_CHUNK:
                self._refuse(
                    RefusedError(
                        400,
                        "too_many_chunks",
                        f"the body comes in chunks of less than {BYTES_A_CHUNK} bytes; send it with a content-length",
                    )
                )
        return event

    def _require_small_head(self) -> None:
        """Before it is parsed, whose time grows with its lines."""
        head, _ = self.trailing_data
        ends = [end for mark in (b"\n\r\n", b"\n\n") if (end := head.find(mark)) >= 0]
        size = min(ends, default=len(head))
        if size > MAX_HEADER_BYTES or head.count(b"\n", 0, size) > MAX_HEADERS:
            self._refuse(
                RefusedError(
                    431,
                    "header_too_large",
                    f"a header can have at most {MAX_HEADER_BYTES} bytes in {MAX_HEADERS} lines",
                )
            )

    def _refuse(self, refusal: RefusedError) -> None:
        self.refusal = refusal
        raise h11.RemoteProtocolError(refusal.code)


def _head_refusal(request: h11.Request) -> RefusedError | None:
    """Why a header that h11 has accepted is refused."""
    names = [name for name, _ in request.headers]
    if request.http_version not in (b"1.0", b"1.1"):
        return _invalid("the gateway speaks HTTP/1.1")
    if b"transfer-encoding" in names:
        if b"content-length" in names:
            return RefusedError(
                400, "ambiguous_length", "a request must have one length, and this one has two"
            )
        if request.http_version == b"1.0":
            return _invalid("HTTP/1.0 has no transfer-encoding")
    if request.method in (b"GET", b"HEAD") and (
        b"transfer-encoding" in names or dict(request.headers).get(b"content-length", b"0") != b"0"
    ):
        return _invalid("a GET request has no body")
    return None


def _invalid(message: str) -> RefusedError:
    return RefusedError(400, "invalid_http", message)
