"""Concurrent work for a caller that is not asynchronous: in order, bounded, and cancelled when abandoned.

Not ``anyio.from_thread.start_blocking_portal``: it waits for its thread when it is dropped, so a program that ends
without closing it, or a forked child that drops it, waits forever.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import AsyncGenerator, Callable, Coroutine, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class BackgroundLoop:
    """An asyncio event loop in one daemon thread.

    A forked process has no such thread: there every call raises ``RuntimeError`` at once, and nothing of the loop is
    touched, since the system shares its sockets with the parent.
    """

    def __init__(self, name: str) -> None:
        self._process = os.getpid()
        self._name = name
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=name, daemon=True)
        self._thread.start()
        _LOOPS.add(self)

    @property
    def inherited(self) -> bool:
        """Whether this process is a fork of the one in which the loop runs."""
        return self._process != os.getpid()

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._loop.is_closed()

    def submit(self, work: Coroutine[Any, Any, R]) -> Future[R]:
        """Start a coroutine on the loop; cancelling the future cancels it."""
        if self.inherited:
            work.close()
        self._require_own_process()
        return asyncio.run_coroutine_threadsafe(work, self._loop)

    def run(self, work: Coroutine[Any, Any, R]) -> R:
        """Run a coroutine on the loop and wait for it; an interrupt of the waiting caller cancels it."""
        future = self.submit(work)
        try:
            return future.result()
        finally:
            self._abandon(future)

    def iterate(self, items: AsyncGenerator[T, None]) -> Iterator[T]:
        """The items as they come; abandoning the iterator, or an interrupt, ends the generator."""
        arrived: queue.SimpleQueue[tuple[T] | None] = queue.SimpleQueue()

        async def pump() -> None:
            try:
                async with contextlib.aclosing(items):
                    async for item in items:
                        arrived.put((item,))
            finally:
                arrived.put(None)

        future = self.submit(pump())
        try:
            while (item := arrived.get()) is not None:
                yield item[0]
                self._require_own_process()
            future.result()
        finally:
            self._abandon(future)

    def map_in_order(
        self, work: Callable[[T], Coroutine[Any, Any, R]], items: Iterable[T], limit: int
    ) -> Iterator[R]:
        """Results in the order of the items, which are read no further than ``limit`` ahead of the results taken."""
        waiting: deque[Future[R]] = deque()
        try:
            for item in items:
                waiting.append(self.submit(work(item)))
                while waiting and (len(waiting) == limit or waiting[0].done()):
                    yield waiting[0].result()
                    self._require_own_process()
                    waiting.popleft()
            while waiting:
                yield waiting[0].result()
                self._require_own_process()
                waiting.popleft()
        finally:
            self._abandon(*waiting)

    def cancel(self) -> None:
        """Cancel all that runs, and wait until it has ended."""
        self.run(_cancel_others())

    def close(self) -> None:
        """Cancel all that runs and end the thread; in a forked process, nothing."""
        if self.inherited or self.closed:
            return
        self.cancel()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _abandon(self, *futures: Future[Any]) -> None:
        """Cancel what is not done; in a forked process their locks may be held for ever, and nothing runs."""
        if not self.inherited:
            for future in futures:
                future.cancel()

    def _require_own_process(self) -> None:
        if self.inherited:
            raise RuntimeError(
                f"{self._name} runs in process {self._process}, and this is process {os.getpid()}, forked from it: "
                "answers to what was asked there arrive only there. Start again here with a call of its own"
            )


_LOOPS: weakref.WeakSet[BackgroundLoop] = weakref.WeakSet()
_INHERITED: list[BackgroundLoop] = []
"""Kept in a forked process: to delete a loop with its tasks would run their clean-up, on sockets of the parent."""

if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=lambda: _INHERITED.extend(_LOOPS))


async def _cancel_others() -> None:
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await asyncio.get_running_loop().shutdown_asyncgens()
