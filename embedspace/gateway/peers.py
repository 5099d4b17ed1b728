"""The addresses that connect to the gateway: how many connections each may have, and how much of the gateway's time.

One event loop serves all connections. What arrives over a connection is processed in pieces, and their time is charged
to the address it came from. An address that has used up its share is not read from until it has time again, whatever
it sends and over how many connections, so others find the loop free. An address that is alone may use all of it.
"""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

_LEAST_BUSY, _MOST_BUSY = 0.2, 0.8
"""Of the loop's time for all addresses, where there is more than one: the rest keeps answers fast. It is lowered while
the loop is late, as it is where the gateway gets less than a processor."""
_LATE_SECONDS = 0.01
_BURST_SECONDS = 0.03
"""Time that an address may use at once after a pause."""
_TICK_SECONDS = 0.1
_ACTIVE_SECONDS = 30.0
"""For which an address counts after its last request."""
_SMOOTHING = 0.15
"""Weight of the last tick in averages."""
_REQUESTS_TO_MEASURE = 3
"""In one tick, from which on what one takes is measured."""
_LEAST_REQUEST_SECONDS, _MOST_REQUEST_SECONDS = 0.0005, 0.02
LARGEST_SHARE = 0.75
"""Of a limit for one caller, so that no caller can use all of it."""


def share(limit: int) -> int:
    """How much of a limit one caller may use.

    >>> share(128), share(1)
    (96, 1)
    """
    return max(1, int(LARGEST_SHARE * limit))


def network(address: str) -> str:
    """What counts as one address: for IPv6 the network that a household or a host has, and an IPv4 address as itself.

    >>> network("2001:db8::7"), network("::ffff:192.0.2.1"), network("192.0.2.1")
    ('2001:db8::/64', '192.0.2.1', '192.0.2.1')
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed.ipv4_mapped is None:
            return str(ipaddress.ip_network((parsed, 64), strict=False))
        parsed = parsed.ipv4_mapped
    return str(parsed)


class Connected(Protocol):
    """A connection, as the registry of addresses sees it."""

    @property
    def idle(self) -> bool:
        """Whether no request is under way."""

    def drop(self) -> None:
        """Close it at once."""


class Peer:
    """One address: its connections, and its account of the loop's time."""

    def __init__(self) -> None:
        self.connections: dict[Connected, None] = {}
        """In the order in which they were opened."""
        self.opening = 0
        """Connections that are accepted and not yet among ``connections``."""
        self.requests = 0
        """Since the last tick."""
        self.spent = 0.0
        """Seconds of the loop, since the last tick."""
        self.usage = 0.0
        """Of the loop's time, on average."""
        self.active = time.monotonic()
        """When it last sent something."""
        self.share = _LEAST_BUSY
        """Of the loop's time that it may use."""
        self._seconds = _BURST_SECONDS
        self._updated = time.monotonic()
        self._waiting: deque[Callable[[], None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def count(self) -> int:
        """Connections, those that are being opened included."""
        return len(self.connections) + self.opening

    def when_it_has_time(self, work: Callable[[], None]) -> None:
        """Do the work now, or when the address has time again, in the order of waiting."""
        if self._has_time() and not self._waiting:
            work()
            return
        self._waiting.append(work)
        self._set_timer()

    def charge(self, seconds: float) -> None:
        """Take time from its account."""
        self.spent += seconds
        self._seconds -= seconds
        self.active = time.monotonic()

    @contextmanager
    def charged(self) -> Iterator[None]:
        """Charge the processor time that the block takes."""
        began = time.thread_time()
        try:
            yield
        finally:
            self.charge(time.thread_time() - began)

    def _has_time(self) -> bool:
        now = time.monotonic()
        self._seconds = min(_BURST_SECONDS, self._seconds + self.share * (now - self._updated))
        self._updated = now
        return self._seconds > 0

    def _set_timer(self) -> None:
        if self._timer is None and self._waiting:
            delay = max(-self._seconds / self.share, 0.001)
            self._timer = asyncio.get_running_loop().call_later(delay, self._resume)

    def _resume(self) -> None:
        self._timer = None
        while self._waiting and self._has_time():
            self._waiting.popleft()()
        self._set_timer()


class Peers:
    """All addresses that are connected, within limits on connections, and their shares of the loop's time.

    Args:
        connections: of all addresses together.
    """

    def __init__(self, connections: int) -> None:
        self._limit = connections
        self._peers: dict[str, Peer] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._ticked = time.monotonic()
        self._loop_seconds = time.thread_time()
        self._busy = _MOST_BUSY
        self.request_seconds = 0.002
        """What answering a request takes of the loop, on average, beside reading it."""

    def admit(self, address: str) -> Peer | None:
        """The peer of a new connection, or None where there is no room for it.

        Where the connections are all taken, an idle one makes room: of the address itself if it has its share, or else
        of the address that has most.
        """
        name = network(address)
        peer = self._peers.get(name) or Peer()
        if peer.count >= share(self._limit):
            if not _drop_idle(peer):
                return None
        elif sum(each.count for each in self._peers.values()) >= self._limit:
            most = max(self._peers.values(), key=lambda each: each.count)
            if not _drop_idle(most):
                return None
        self._peers[name] = peer
        if self._timer is None:
            self._tick()
        return peer

    def charge_request(self, peer: Peer) -> None:
        """Charge what answering a request will take."""
        peer.requests += 1
        peer.charge(self.request_seconds)

    def close(self) -> None:
        """Stop watching the loop's time."""
        if self._timer is not None:
            self._timer.cancel()

    def _tick(self) -> None:
        """Measure what requests take, and what each address uses, and set shares."""
        now, loop_seconds = time.monotonic(), time.thread_time()
        requests = sum(peer.requests for peer in self._peers.values())
        read = sum(peer.spent - peer.requests * self.request_seconds for peer in self._peers.values())
        if requests >= _REQUESTS_TO_MEASURE:
            measured = (loop_seconds - self._loop_seconds - read) / requests
            measured = min(max(measured, _LEAST_REQUEST_SECONDS), _MOST_REQUEST_SECONDS)
            self.request_seconds += _SMOOTHING * (measured - self.request_seconds)
        passed = max(now - self._ticked, 1e-3)
        late = passed > _TICK_SECONDS + _LATE_SECONDS
        self._busy = max(_LEAST_BUSY, 0.8 * self._busy) if late else min(_MOST_BUSY, self._busy + 0.01)
        for peer in self._peers.values():
            peer.usage += _SMOOTHING * (peer.spent / passed - peer.usage)
            peer.spent, peer.requests = 0.0, 0
        self._ticked, self._loop_seconds = now, loop_seconds
        active = [peer for peer in self._peers.values() if now - peer.active < _ACTIVE_SECONDS]
        used = sum(peer.usage for peer in active)
        for peer in active:
            left = self._busy - (used - peer.usage)
            peer.share = 1.0 if len(active) == 1 else max(left, self._busy / len(active))
        self._peers = {name: each for name, each in self._peers.items() if each.count or each in active}
        self._timer = (
            asyncio.get_running_loop().call_later(_TICK_SECONDS, self._tick) if self._peers else None
        )


def _drop_idle(peer: Peer) -> bool:
    """Close the idle connection that was opened first; whether there was one."""
    oldest = next((connection for connection in peer.connections if connection.idle), None)
    if oldest is None:
        return False
    peer.connections.pop(oldest)
    oldest.drop()
    return True
