"""Several vLLM servers as one: load spread over them, requests sent again, dead servers taken out and back in."""

from __future__ import annotations

import asyncio
import itertools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, replace
from typing import TypeVar

from embedspace.engines.vllm.errors import PassingError
from embedspace.engines.vllm.transport import Connection, ServerInfo
from embedspace.errors import EngineError, EngineUnreachableError

R = TypeVar("R")

_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 8.0
_FIRST_PROBE, _LONGEST_PROBE = 0.1, 5.0
_PROBE_TIMEOUT = 10.0

_log = logging.getLogger(__name__)


@dataclass(eq=False)
class _Server:
    """One server as the pool sees it."""

    connection: Connection
    under_way: int = 0
    served: ServerInfo | None = None
    """What it said of itself when it was asked first."""
    probing: asyncio.Task[None] | None = None
    """Runs from a suspicion until the server answers again; no request is sent meanwhile."""
    suspected: float = 0.0
    """When the suspicion arose."""
    missed: Exception | None = None
    """Why the latest probe failed; None for a server that is there, or whose first probe is under way."""


class ServerPool:
    """Sends each request to the server with the fewest under way, and again where it met passing trouble.

    Everything here runs on one event loop.

    Args:
        connections: one for each server.
        slots: most requests under way at each server.
        max_retries: how often one request is sent again.
        patience: seconds for which requests wait while no server is there.

    Raises:
        ValueError: no servers, one address twice, or a number out of its range.
    """

    def __init__(
        self, connections: Sequence[Connection], *, slots: int, max_retries: int, patience: float
    ) -> None:
        urls = [connection.url for connection in connections]
        if not urls:
            raise ValueError("the list of urls is empty; give at least one server's address")
        if doubled := [url for url, times in Counter(urls).items() if times > 1]:
            raise ValueError(f"{', '.join(doubled)} is given more than once; give each server's address once")
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}; it must be 0 or more")
        if not patience >= 0:
            raise ValueError(f"patience is {patience}; it must be 0 seconds or more")
        self.url = ", ".join(urls)
        """Addresses of all servers."""
        self.retries: Counter[str] = Counter()
        """How often requests were sent again, by what they met before."""
        self._servers = [_Server(connection) for connection in connections]
        self._slots = slots
        self._max_retries = max_retries
        self._patience = patience
        self._changed = asyncio.Condition()
        self._random = random.Random()

    async def info(self, wanted: str | None) -> ServerInfo:
        """What all servers say of themselves; they have to agree.

        Raises:
            EngineError: one cannot be reached or does not serve the model, or they serve different ones.
        """
        told = await self.each(lambda connection: connection.info(wanted))
        for info in told[1:]:
            _require_same(told[0], info)
        for server, info in zip(self._servers, told, strict=True):
            server.served = info
        versions = ", ".join(sorted({info.version for info in told}))
        return replace(told[0], url=self.url, version=versions)

    async def each(self, ask: Callable[[Connection], Awaitable[R]]) -> list[R]:
        """The answer of every server.

        Raises:
            EngineError: one of them failed.
        """
        return await asyncio.gather(*(self._insisted(server, ask) for server in self._servers))

    async def ask(self, ask: Callable[[Connection], Awaitable[R]]) -> R:
        """The answer of one server, the least loaded first; where it meets passing trouble, of the next one.

        Raises:
            EngineError: no server was there for longer than ``patience``, or the last attempt failed.
        """
        for attempt in itertools.count():
            async with self._place() as server:
                try:
                    return await ask(server.connection)
                except PassingError as trouble:
                    await self._bear(server, trouble, attempt)
        raise AssertionError("unreachable")

    async def stream(self, ask: Callable[[Connection], AsyncGenerator[R, None]]) -> AsyncGenerator[R, None]:
        """The events that one server sends, as :meth:`ask`; once the first one came, trouble is final.

        Takes no slot: whoever reads a stream may ask for completions meanwhile.
        """
        for attempt in itertools.count():
            async with self._place(bounded=False) as server:
                begun = False
                try:
                    async with aclosing(ask(server.connection)) as events:
                        async for event in events:
                            begun = True
                            yield event
                    return
                except PassingError as trouble:
                    await self._bear(server, trouble, self._max_retries if begun else attempt)

    async def close(self) -> None:
        """Close what connections are open."""
        for server in self._servers:
            await server.connection.close()

    async def _insisted(self, server: _Server, ask: Callable[[Connection], Awaitable[R]]) -> R:
        """The answer of this very server; nothing here waits for one that is down."""
        for attempt in itertools.count():
            try:
                return await ask(server.connection)
            except PassingError as trouble:
                await self._pause(trouble, attempt)
        raise AssertionError("unreachable")

    async def _bear(self, server: _Server, trouble: PassingError, attempt: int) -> None:
        """Return when the request may be sent again."""
        if trouble.away and server.probing is None and server.served is not None:
            server.suspected, server.missed = time.monotonic(), None
            server.probing = asyncio.create_task(self._probe(server, server.served))
        await self._pause(trouble, attempt)

    async def _pause(self, trouble: PassingError, attempt: int) -> None:
        if attempt == self._max_retries:
            # The chain is cut: the original carries the request with its key.
            raise trouble.error from None
        self.retries[trouble.reason] += 1
        growing = min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) * self._random.uniform(0.75, 1)
        await asyncio.sleep(growing if trouble.pause is None else trouble.pause)

    @asynccontextmanager
    async def _place(self, bounded: bool = True) -> AsyncIterator[_Server]:
        """A place at the least loaded server that is there."""
        async with self._changed:
            while (server := self._free(bounded)) is None:
                await self._wait()
            server.under_way += 1
        try:
            yield server
        finally:
            server.under_way -= 1
            async with self._changed:
                self._changed.notify_all()

    def _free(self, bounded: bool) -> _Server | None:
        there = [server for server in self._servers if server.probing is None]
        least = min(there, key=lambda server: server.under_way, default=None)
        return None if least is None or (bounded and least.under_way >= self._slots) else least

    async def _wait(self) -> None:
        """Wait for a change: a place that is free, a server that is back, or the end of patience.

        Raises:
            EngineUnreachableError: no server was there for longer than ``patience``.
        """
        left = None
        if all(server.missed is not None for server in self._servers):
            left = max(server.suspected for server in self._servers) + self._patience - time.monotonic()
            if left <= 0:
                raise self._gone()
        try:
            async with asyncio.timeout(left):
                await self._changed.wait()
        except TimeoutError:
            pass

    def _gone(self) -> EngineUnreachableError:
        reasons = "; ".join(str(server.missed) for server in self._servers)
        return EngineUnreachableError(
            f"no server is left: for {self._patience:g} s none of {self.url} came back. Start it again, or raise "
            f"`patience` (seconds) where starting takes longer. The latest attempts: {reasons}"
        )

    async def _probe(self, server: _Server, before: ServerInfo) -> None:
        """Ask a server that may be down what it serves, with growing pauses, until it serves what it did before."""
        pause = _FIRST_PROBE
        while True:
            try:
                _require_same(before, await server.connection.info(before.model, _PROBE_TIMEOUT))
                break
            except (
                Exception
            ) as error:  # whatever it is: a probe that died would leave its server out for good
                if server.missed is None:
                    _log.warning("%s; waiting for it", error)
                server.missed = error
                await self._tell()
            await asyncio.sleep(pause)
            pause = min(2 * pause, _LONGEST_PROBE)
        if server.missed is not None:
            away = time.monotonic() - server.suspected
            _log.warning("the vLLM server at %s is back after %.0f s", before.url, away)
        server.probing = server.missed = None
        await self._tell()

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _require_same(one: ServerInfo, other: ServerInfo) -> None:
    if (one.model, one.max_model_len) != (other.model, other.max_model_len):
        raise EngineError(
            f"the vLLM server at {other.url} serves {other.model!r} with max_model_len {other.max_model_len}, the one "
            f"at {one.url} {one.model!r} with {one.max_model_len}; answers of different servers must not be mixed, "
            "start them alike"
        )
