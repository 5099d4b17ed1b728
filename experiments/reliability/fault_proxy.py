"""A proxy before a server that injects faults of networks, proxies and crashing servers, a known number of times."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Literal, Self, get_args
from urllib.parse import urlsplit

from embedspace._util.background_loop import BackgroundLoop

Fault = Literal[
    "refused connections",
    "reset connection",
    "half response",
    "429",
    "429 with Retry-After",
    "500",
    "garbage JSON",
    "out of order",
    "hang",
    "server killed",
]
FAULTS: tuple[Fault, ...] = get_args(Fault)

REFUSAL_SECONDS = 0.3
"""How long no connection is accepted."""
OVERTAKEN_BY = 3
"""How many later requests an answer that comes out of order lets pass."""


class FaultProxy:
    """Forwards requests, and injects into each POST the next fault of a shuffled deck, until the deck is empty.

    Args:
        upstream: address of the server.
        faults: how often each one happens.
        length: of the deck: POSTs without a fault are shuffled in between.
        restart: kills the server and starts it again; called in a thread, for ``server killed``.
        seed: of the order.
    """

    def __init__(
        self,
        upstream: str,
        faults: Mapping[Fault, int],
        *,
        length: int,
        restart: Callable[[], None] | None = None,
        seed: int = 0,
    ) -> None:
        deck: list[Fault | None] = [fault for fault in FAULTS for _ in range(faults.get(fault, 0))]
        deck += [None] * (length - len(deck))
        random.Random(seed).shuffle(deck)
        self._deck = deck
        self.made: Counter[Fault] = Counter()
        """The faults that were injected; a connection that the server did not answer does not count."""
        self._upstream = urlsplit(upstream)
        self._restart = restart
        self._killing = asyncio.Lock()
        self._posts = 0
        self._port = 0
        self._accepting: asyncio.Task[None] | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._loop = BackgroundLoop("fault-proxy")

    @property
    def url(self) -> str:
        """The address to use instead of the server's."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        self._loop.run(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.close()

    async def _listen(self) -> None:
        listener = socket.create_server(("127.0.0.1", self._port), backlog=256)
        listener.setblocking(False)
        self._port = listener.getsockname()[1]
        self._accepting = asyncio.create_task(self._accept(listener))

    async def _accept(self, listener: socket.socket) -> None:
        # No asyncio.Server: one that is closed while it accepts a connection leaves that connection open.
        with listener:
            while True:
                connection, _ = await asyncio.get_running_loop().sock_accept(listener)
                task = asyncio.create_task(self._serve(connection))
                self._connections.add(task)
                task.add_done_callback(self._connections.discard)

    async def _serve(self, connection: socket.socket) -> None:
        """One connection with one request."""
        reader, writer = await asyncio.open_connection(sock=connection)
        fault = None
        try:
            request = await _message(reader)
            fault = self._draw() if request.startswith(b"POST") else None
            await self._inject(fault, request, reader, writer)
        except (OSError, EOFError):  # the server is down, or the client hung up
            _reset(writer)
            if fault is not None:  # it was not injected: try again later
                self._deck.append(fault)
        else:
            self.made.update([fault] if fault else [])
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def _draw(self) -> Fault | None:
        self._posts += 1
        return self._deck.pop() if self._deck else None

    async def _inject(
        self, fault: Fault | None, request: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        match fault:
            case None:
                writer.write(await self._forward(request))
            case "refused connections":
                await self._refuse(writer)
            case "reset connection":
                await self._forward(request)  # answered by the server, and lost
                _reset(writer)
            case "half response":
                whole = await self._forward(request)
                writer.write(whole[: len(whole) // 2])
            case "429":
                writer.write(_response("429 Too Many Requests", {"error": {"message": "slow down"}}))
            case "429 with Retry-After":
                content = {"error": {"message": "slow down"}}
                writer.write(_response("429 Too Many Requests", content, "retry-after: 1\r\n"))
            case "500":
                writer.write(_response("500 Internal Server Error", {"error": {"message": "it hurts"}}))
            case "garbage JSON":
                head, _, body = (await self._forward(request)).partition(b"\r\n\r\n")
                writer.write(head + b"\r\n\r\n" + body.replace(b'"', b"'"))
            case "out of order":
                writer.write(await self._answer_late_and_reversed(request))
            case "hang":
                with contextlib.suppress(OSError):
                    await reader.read()  # until the client gives up
            case "server killed":
                await self._kill_server(request, writer)

    async def _refuse(self, writer: asyncio.StreamWriter) -> None:
        """Stop listening for a while, from this connection on."""
        accepting, self._accepting = self._accepting, None
        if accepting is not None:
            accepting.cancel()
            await asyncio.wait([accepting])
        _reset(writer)
        await asyncio.sleep(REFUSAL_SECONDS)
        if accepting is not None:
            await self._listen()

    async def _answer_late_and_reversed(self, request: bytes) -> bytes:
        """The answer, sent after those to later requests where there are any, its choices in reverse order."""
        target = self._posts + OVERTAKEN_BY
        while self._posts < target and self._deck:
            await asyncio.sleep(0.01)
        _, _, body = (await self._forward(request)).partition(b"\r\n\r\n")
        content = json.loads(body)
        return _response("200 OK", {**content, "choices": content["choices"][::-1]})

    async def _kill_server(self, request: bytes, writer: asyncio.StreamWriter) -> None:
        """Kill the server while it has the request, and start it again."""
        assert self._restart is not None, "restart= is needed where servers are killed"
        async with self._killing:
            under_way = asyncio.create_task(self._forward(request))
            await asyncio.wait([under_way], timeout=0.01)
            await asyncio.to_thread(self._restart)
            with contextlib.suppress(OSError, EOFError):
                await under_way
        _reset(writer)

    async def _forward(self, request: bytes) -> bytes:
        """The server's answer, head and body."""
        reader, writer = await asyncio.open_connection(self._upstream.hostname, self._upstream.port)
        try:
            writer.write(request)
            return await _message(reader)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes:
    """A request or response, head and body; afterwards the connection is not used again.

    Raises:
        EOFError: it was cut off.
    """
    head = await reader.readuntil(b"\r\n\r\n")
    fields = dict(line.lower().split(b":", 1) for line in head.split(b"\r\n")[1:] if b":" in line)
    body = await reader.readexactly(int(fields.get(b"content-length", b"0")))
    return head.replace(b"\r\n", b"\r\nconnection: close\r\n", 1) + body


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection as a crash does: the other side sees a reset instead of an orderly end."""
    connection = writer.get_extra_info("socket")
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def _response(status: str, content: object, fields: str = "") -> bytes:
    body = json.dumps(content).encode()
    head = f"HTTP/1.1 {status}\r\n{fields}connection: close\r\ncontent-type: application/json\r\n"
    return f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
