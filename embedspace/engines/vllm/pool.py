"""Several vLLM servers as one: least-loaded routing, retries, dead servers taken out and probed back in."""

from __future__ import annotations

import asyncio
import functools
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

from embedspace.engines.base import Completion
from embedspace.engines.vllm.protocol import ChatRequest, CompletionRequest, read_event
from embedspace.engines.vllm.transport import Connection, ServerInfo, TransientError
from embedspace.errors import EngineError, EngineUnreachableError

R = TypeVar("R")

_FIRST_PAUSE, _MAX_PAUSE = 0.5, 8.0
_FIRST_PROBE_PAUSE, _MAX_PROBE_PAUSE = 0.1, 5.0
_PROBE_TIMEOUT = 10.0

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Server:
    """One server as the pool sees it."""

    connection: Connection
    in_flight: int = 0
    info: ServerInfo | None = None
    """What it reported at first."""
    probing: asyncio.Task[None] | None = None
    """Runs from a suspicion until the server answers again; no request is sent meanwhile."""
    suspected_at: float = 0.0
    probe_error: Exception | None = None
    """Why the latest probe failed; None for a server that is up, or whose first probe is running."""


class ServerPool:
    """Sends each request to the server with the fewest in flight, and again after a transient failure.

    Everything here runs on one event loop.

    Args:
        connections: one for each server.
        slots: most requests in flight at each server.
        max_retries: how often one request is sent again.
        patience: seconds for which requests wait while every server is down.

    Raises:
        ValueError: no servers, one address twice, or a number out of its range.
    """

    def __init__(
        self, connections: Sequence[Connection], *, slots: int, max_retries: int, patience: float
    ) -> None:
        urls = [connection.url for connection in connections]
        if not urls:
            raise ValueError("the list of urls is empty; give at least one server's address")
        if repeated := [url for url, times in Counter(urls).items() if times > 1]:
            raise ValueError(
                f"{', '.join(repeated)} is given more than once; give each server's address once"
            )
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}; it must be 0 or more")
        if not patience >= 0:
            raise ValueError(f"patience is {patience}; it must be 0 seconds or more")
        self.url = ", ".join(urls)
        """Addresses of all servers."""
        self.retries: Counter[str] = Counter()
        """How many requests were sent again, by the failure before."""
        self._servers = [_Server(connection) for connection in connections]
        self._slots = slots
        self._max_retries = max_retries
        self._patience = patience
        self._changed = asyncio.Condition()
        self._random = random.Random()

    async def info(self, model: str | None) -> ServerInfo:
        """What all servers report about themselves; they have to agree.

        Raises:
            EngineError: one cannot be reached or does not serve the model, or they serve different ones.
        """
        infos = await self.each(lambda connection: connection.info(model))
        for other in infos[1:]:
            _require_same(infos[0], other)
        for server, info in zip(self._servers, infos, strict=True):
            server.info = info
        versions = ", ".join(sorted({info.version for info in infos}))
        return replace(infos[0], url=self.url, version=versions)

    async def each(self, ask: Callable[[Connection], Awaitable[R]]) -> list[R]:
        """The answer of every server; nothing here waits for one that is down.

        Raises:
            EngineError: one of them failed.
        """
        return await asyncio.gather(*(self._request_from(server, ask) for server in self._servers))

    async def send(self, request: CompletionRequest | ChatRequest) -> list[Completion]:
        """The completions that a server answers with; after a transient failure the request goes to the next one.

        Raises:
            ValueError: the prompts cannot be encoded.
            EngineError: every server was down for longer than ``patience``, or the last attempt failed.
        """
        for attempt in itertools.count():
            async with self._acquire_server() as server:
                sent = time.monotonic()
                # Encoded anew for each attempt: only what is in flight is held in its encoded form.
                body = request.body()
                read = functools.partial(request.read, sent)
                try:
                    return await server.connection.post(request.path, body, request.subject, read)
                except TransientError as failure:
                    await self._handle_transient(server, failure, attempt)
        raise AssertionError("unreachable")

    async def stream(self, request: CompletionRequest) -> AsyncGenerator[tuple[str, bool], None]:
        """New text, and whether the completion ends with it, for each event that a server sends.

        Sent again as by :meth:`send`, but not once an event has arrived. Takes no slot: the reader of a stream
        may ask for completions meanwhile.
        """
        body = request.body()
        for attempt in itertools.count():
            async with self._acquire_server(bounded=False) as server:
                started = False
                try:
                    async with aclosing(
                        server.connection.stream(request.path, body, "a stream", read_event)
                    ) as events:
                        async for event in events:
                            started = True
                            yield event
                    return
                except TransientError as failure:
                    await self._handle_transient(server, failure, self._max_retries if started else attempt)

    async def close(self) -> None:
        """Close what connections are open."""
        for server in self._servers:
            await server.connection.close()

    async def _request_from(self, server: _Server, ask: Callable[[Connection], Awaitable[R]]) -> R:
        """The answer of this very server."""
        for attempt in itertools.count():
            try:
                return await ask(server.connection)
            except TransientError as failure:
                await self._pause(failure, attempt)
        raise AssertionError("unreachable")

    async def _handle_transient(self, server: _Server, failure: TransientError, attempt: int) -> None:
        """Return when the request may be sent again.

        Raises:
            EngineError: it was sent often enough.
        """
        if failure.server_down and server.probing is None and server.info is not None:
            server.suspected_at, server.probe_error = time.monotonic(), None
            server.probing = asyncio.create_task(self._probe(server, server.info))
        await self._pause(failure, attempt)

    async def _pause(self, failure: TransientError, attempt: int) -> None:
        if attempt == self._max_retries:
            # The chain is cut: the original carries the request with its key.
            raise failure.error from None
        self.retries[failure.reason] += 1
        backoff = min(_FIRST_PAUSE * 2**attempt, _MAX_PAUSE) * self._random.uniform(0.75, 1)
        await asyncio.sleep(backoff if failure.pause is None else failure.pause)

    @asynccontextmanager
    async def _acquire_server(self, bounded: bool = True) -> AsyncIterator[_Server]:
        """A slot at the least loaded server that is up."""
        async with self._changed:
            while (server := self._least_loaded(bounded)) is None:
                await self._wait_for_change()
            server.in_flight += 1
        try:
            yield server
        finally:
            server.in_flight -= 1
            await self._notify()

    def _least_loaded(self, bounded: bool) -> _Server | None:
        up = [server for server in self._servers if server.probing is None]
        server = min(up, key=lambda server: server.in_flight, default=None)
        return None if server is None or (bounded and server.in_flight >= self._slots) else server

    async def _wait_for_change(self) -> None:
        """Wait for a free slot, a server that is up again, or the end of ``patience``.

        Raises:
            EngineUnreachableError: every server was down for longer than ``patience``.
        """
        seconds = None
        if all(server.probe_error is not None for server in self._servers):
            down_since = max(server.suspected_at for server in self._servers)
            seconds = down_since + self._patience - time.monotonic()
            if seconds <= 0:
                reasons = "; ".join(str(server.probe_error) for server in self._servers)
                raise EngineUnreachableError(
                    f"no server is left: for {self._patience:g} s none of {self.url} came back. Start it again, or "
                    f"raise `patience` (seconds) where starting takes longer. The latest attempts: {reasons}"
                )
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._changed.wait()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    async def _probe(self, server: _Server, before: ServerInfo) -> None:
        """Ask a server that may be down what it serves, with growing pauses, until it serves what it did before."""
        pause = _FIRST_PROBE_PAUSE
        while True:
            try:
                _require_same(before, await server.connection.info(before.model, _PROBE_TIMEOUT))
                break
            except Exception as error:  # whatever it is: without its probe the server would stay out for good
                if server.probe_error is None:
                    _log.warning("%s; waiting for it", error)
                server.probe_error = error
                await self._notify()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _MAX_PROBE_PAUSE)
        if server.probe_error is not None:
            seconds = time.monotonic() - server.suspected_at
            _log.warning("the vLLM server at %s is back after %.0f s", before.url, seconds)
        server.probing = server.probe_error = None
        await self._notify()


def _require_same(one: ServerInfo, other: ServerInfo) -> None:
    if (one.model, one.max_model_len) != (other.model, other.max_model_len):
        raise EngineError(
            f"the vLLM server at {other.url} serves {other.model!r} with max_model_len {other.max_model_len}, the one "
            f"at {one.url} {one.model!r} with {one.max_model_len}; answers of different servers must not be mixed, "
            "start them alike"
        )
