"""How much a gateway has taken on, and whether there is room for more."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from embedspace.gateway.counters import Counters
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits


class Capacity:
    """Counts requests under way and bytes of bodies, and refuses what is too much with 429."""

    def __init__(self, limits: Limits, counters: Counters) -> None:
        self._limits = limits
        self._counters = counters
        self._under_way = 0
        self._held = 0

    def require_place(self) -> None:
        """Refuse at once what would find no place after its body was read.

        Raises:
            RefusedError: as many requests are under way as are taken.
        """
        if self._under_way >= self._limits.concurrent:
            raise _busy("too_many_requests", "this gateway has as many requests under way as it takes")

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Room for one more request, until the last byte of its answer.

        A request whose body is still coming has none: whoever sends slowly keeps nobody out.

        Raises:
            RefusedError: as :meth:`require_place`.
        """
        self.require_place()
        self._under_way += 1
        self._counters.under_way.set(self._under_way)
        try:
            yield
        finally:
            self._under_way -= 1
            self._counters.under_way.set(self._under_way)

    @contextlib.contextmanager
    def holding(self) -> Iterator[Held]:
        """Counts what one request holds, until it ends or lets go of it."""
        held = Held(self)
        try:
            yield held
        finally:
            held.release()

    def _change(self, count: int) -> None:
        if count > 0 and self._held + count > self._limits.held_bytes:
            raise _busy("too_much_data", "this gateway holds as much data on its way as it takes")
        self._held += count
        self._counters.held_bytes.set(self._held)


class Held:
    """Bytes that one request holds: of its body as it came, and then as it goes to the server."""

    def __init__(self, capacity: Capacity) -> None:
        self._capacity = capacity
        self._count = 0

    def add(self, count: int) -> None:
        """Hold so many more.

        Raises:
            RefusedError: all requests together hold too many.
        """
        self._capacity._change(count)
        self._count += count

    def become(self, count: int) -> None:
        """Hold so many instead; raises as :meth:`add`."""
        self.add(count - self._count)

    def release(self) -> None:
        """Hold nothing any more."""
        count, self._count = self._count, 0
        self._capacity._change(-count)


def _busy(code: str, message: str) -> RefusedError:
    return RefusedError(429, code, f"{message}; try again", retry_after=1)
