"""The pool of worker processes: distributes requests, and replaces a worker that died or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any

from embedspace.gateway.filter_process import MAX_OTHER_BYTES, FilterError, FilterProcess
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Settings
from embedspace.gateway.worker import MAX_BATCH_BYTES, MAX_BATCH_JOBS

_WATCH_SECONDS = 0.1
_SLOW_SECONDS = 1.0
"""After which a worker's requests give way to others."""
_SLOW_PRIORITY = 10
_MAX_SLOW = 2
"""Workers that have given way; one for each caller."""


@dataclass(eq=False)
class _Job:
    """A request that waits for a worker, or is with one."""

    frame: Frame
    caller: str
    answer: asyncio.Future[Frame]
    alone: bool = False
    """Whether it shared a worker that was lost, and gets the next one for itself."""


@dataclass(eq=False)
class _Worker:
    """One fork, with the requests that it has; all of them are one caller's."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    caller: str | None = None
    pending: dict[int, _Job] = field(default_factory=dict)
    began: float = 0.0
    """When it got its present requests."""
    active: float = 0.0
    """When it last answered, or got requests."""
    slow: bool = False
    """Whether its requests take long: it has a low priority, another one is in its place, and it ends with them."""


class WorkerPool:
    """Screens requests in worker processes.

    A worker takes several requests of one caller at a time, and callers take turns. There is one worker more than a
    caller can have, so that no caller's requests are all that others wait for. Requests that take long go on at a low
    priority beside the others. If a worker dies or hangs, each of its requests is tried once more with a worker for
    itself: the one that kills its worker again is refused, and the others are not affected.
    """

    def __init__(self, settings: Settings, on_worker_lost: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_worker_lost = on_worker_lost
        self._numbers = itertools.count(1)
        self._process = FilterProcess(settings)
        self._workers: set[_Worker] = set()
        self._queues: dict[str, deque[_Job]] = {}
        """Of each caller; the caller whose turn is next comes first."""
        self._closed = False
        self._filling: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def filter_info(self) -> Mapping[str, Any]:
        """Of the loaded filter: model, fingerprint, hidden size, and probes for the server."""
        return self._process.filter_info

    @property
    def ready(self) -> bool:
        """Whether a worker is running."""
        return bool(self._workers)

    async def start(self) -> None:
        """Load the filter and fork the workers.

        Raises:
            FilterError: it cannot be loaded.
        """
        await self._process.load()
        await self._fill()

    async def screen(self, path: str, body: bytes, rows: int | None, caller: str) -> Frame:
        """Screen one request: fields, and the body for the server unless ``refusal`` is among the fields.

        Args:
            path: address of the request.
            body: as received.
            rows: the server's context length.
            caller: whom it is from.

        Raises:
            RefusedError: the request's worker died or hung, or none can be started.
        """
        frame = Frame(next(self._numbers), {"path": path, "rows": rows}, body)
        job = _Job(frame, caller, asyncio.get_running_loop().create_future())
        del frame, body
        self._queues.setdefault(caller, deque()).append(job)
        self._dispatch()
        try:
            return await job.answer
        finally:
            if job in (queue := self._queues.get(caller, deque())):
                queue.remove(job)

    async def close(self) -> None:
        """End all processes and wait for them."""
        self._closed = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers:
            worker.writer.close()
        self._workers.clear()
        await self._process.end()

    def _dispatch(self) -> None:
        """Give waiting requests to workers that have none, and start workers that are missing."""
        for idle in [caller for caller, queue in self._queues.items() if not queue]:
            del self._queues[idle]
        if self._queues and len(self._fast()) <= self._settings.workers:
            self._start_filling()
        for worker in self._fast():
            if not worker.pending and (caller := self._next_caller()) is not None:
                self._assign(worker, caller)

    def _fast(self) -> list[_Worker]:
        return [worker for worker in self._workers if not worker.slow]

    def _next_caller(self) -> str | None:
        """The first caller that has requests and may have another worker."""
        busy = Counter(worker.caller for worker in self._fast() if worker.pending)
        for caller, queue in self._queues.items():
            if queue and busy[caller] < self._settings.workers:
                return caller
        return None

    def _assign(self, worker: _Worker, caller: str) -> None:
        """A few of the caller's requests, or one that has a worker for itself; the caller's next turn is the last."""
        queue = self._queues.pop(caller)
        worker.caller, size = caller, 0
        worker.began = worker.active = asyncio.get_running_loop().time()
        while queue and len(worker.pending) < MAX_BATCH_JOBS and size < MAX_BATCH_BYTES:
            if queue[0].alone and worker.pending:
                break
            job = queue.popleft()
            worker.pending[job.frame.number] = job
            size += len(job.frame.body)
            worker.writer.write(job.frame.head())
            worker.writer.write(job.frame.body)
            if job.alone:
                break
        if queue:
            self._queues[caller] = queue

    def _start_filling(self) -> None:
        if not self._closed and (self._filling is None or self._filling.done()):
            self._filling = self._start(self._fill_or_refuse())

    async def _fill_or_refuse(self) -> None:
        """Fork the workers that are missing; without any, the requests that wait are refused."""
        try:
            await self._fill()
        except (FilterError, OSError, EOFError, TimeoutError):
            if self._workers:
                return
            for queue in self._queues.values():
                for job in queue:
                    if not job.answer.done():
                        job.answer.set_exception(_screening_unavailable())
                queue.clear()

    async def _fill(self) -> None:
        while len(self._fast()) <= self._settings.workers:
            await self._fork()
            self._dispatch()

    async def _fork(self) -> None:
        worker = _Worker(*await self._process.fork())
        self._workers.add(worker)
        self._start(self._listen(worker))
        self._start(self._watch(worker))

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _listen(self, worker: _Worker) -> None:
        """Deliver a worker's answers until it ends."""
        # A body may grow when it is serialised again: "1e9" becomes 1000000000.0.
        max_bytes = 8 * self._settings.limits.body_bytes + MAX_OTHER_BYTES
        try:
            while worker.pending or not worker.slow:
                frame = await Frame.read(worker.reader, max_bytes)
                worker.active = asyncio.get_running_loop().time()
                job = worker.pending.pop(frame.number, None)
                if job is not None and not job.answer.done():
                    job.answer.set_result(frame)
                del frame, job
                if not worker.pending:
                    self._dispatch()
        except (EOFError, OSError, ValueError):
            pass
        finally:
            self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        """Forget a worker that has ended, and try its requests again if another one of them may be the cause."""
        self._workers.discard(worker)
        worker.writer.close()
        lost, worker.pending = list(worker.pending.values()), {}
        if lost:
            self._on_worker_lost()
        for job in lost:
            if job.answer.done():
                continue
            if len(lost) == 1:
                job.answer.set_exception(_screening_failed())
            else:
                job.alone = True
                self._queues.setdefault(job.caller, deque()).appendleft(job)
        self._dispatch()

    async def _watch(self, worker: _Worker) -> None:
        """Give way to others where a worker takes long, and kill it where it does not answer."""
        allowed = self._settings.limits.screen_seconds
        loop = asyncio.get_running_loop()
        while not worker.writer.is_closing():
            await asyncio.sleep(_WATCH_SECONDS)
            if not worker.pending:
                continue
            if loop.time() - worker.active >= allowed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                return
            if loop.time() - worker.began >= _SLOW_SECONDS and not worker.slow:
                self._give_way(worker)

    def _give_way(self, worker: _Worker) -> None:
        """Lower a worker's priority for other callers and start another one in its place, if there are few of these."""
        slow = [other.caller for other in self._workers if other.slow]
        active = {*self._queues, *(other.caller for other in self._workers if other.pending)}
        if len(slow) >= _MAX_SLOW or worker.caller in slow or active == {worker.caller}:
            return
        worker.slow = True
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, worker.pid, _SLOW_PRIORITY)
        self._start_filling()


def _screening_failed() -> RefusedError:
    return RefusedError(
        400, "screening_failed", "the request could not be screened within its limits and was refused"
    )


def _screening_unavailable() -> RefusedError:
    return RefusedError(
        503, "screening_unavailable", "screening is unavailable at the moment; try again", retry_after=5
    )
