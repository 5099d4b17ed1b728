"""The pool of worker processes: distributes requests, and replaces a worker that died or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any

from embedspace.errors import EngineError
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Settings

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH")
_MAX_OTHER_BYTES = 64 * 2**20
_LOAD_SECONDS = 600.0
_FORK_SECONDS = 30.0


class FilterError(EngineError):
    """The filter could not be loaded: its file, its space, or too little memory."""


@dataclass
class _Worker:
    """One fork, with its pending requests."""

    pid: int
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    pending: dict[int, asyncio.Future[Frame]] = field(default_factory=dict)
    active: float = 0.0
    """When it last answered, or was last idle."""


class _WorkerLostError(Exception):
    """The worker died or was killed before it answered."""

    def __init__(self, alone: bool) -> None:
        super().__init__()
        self.alone = alone
        """Whether it had no other request, so that this one is the cause."""


class WorkerPool:
    """Screens requests in worker processes.

    A worker takes several requests at a time. If it dies or hangs, each of them is retried once in a separate fork: the
    one that kills its worker again is refused, and the others are not affected.
    """

    def __init__(self, settings: Settings, on_worker_lost: Callable[[], None] = lambda: None) -> None:
        self._settings = settings
        self._on_worker_lost = on_worker_lost
        self._numbers = itertools.count(1)
        self._loader: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self._workers: list[_Worker | None] = [None] * settings.workers
        self._starting = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self.filter_info: dict[str, Any] = {}
        """Of the loaded filter: model, fingerprint, hidden size, and probes for the server."""

    @property
    def ready(self) -> bool:
        """Whether a worker is running."""
        return any(self._workers)

    async def start(self) -> None:
        """Load the filter and fork the workers.

        Raises:
            FilterError: it cannot be loaded.
        """
        await self._load()
        self._workers = [await self._fork() for _ in self._workers]

    async def screen(self, path: str, body: bytes, rows: int | None) -> Frame:
        """Screen one request: fields, and the body for the server unless ``refusal`` is among the fields.

        Args:
            path: address of the request.
            body: as received.
            rows: the server's context length.

        Raises:
            RefusedError: the request's worker died or hung, or none can be started.
        """
        job = Frame(next(self._numbers), {"path": path, "rows": rows}, body)
        try:
            return await self._submit(await self._least_busy(), job)
        except _WorkerLostError as loss:
            if not loss.alone:
                return await self._retry(job)
        raise _screening_failed()

    async def close(self) -> None:
        """End all processes and wait for them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in filter(None, self._workers):
            worker.writer.close()
        self._workers = [None] * len(self._workers)
        await self._unload()

    async def _retry(self, job: Frame) -> Frame:
        """In a separate fork."""
        async with self._starting:
            worker = await self._fork_or_refuse()
        try:
            return await self._submit(worker, job)
        except _WorkerLostError:
            raise _screening_failed() from None
        finally:
            worker.writer.close()

    async def _submit(self, worker: _Worker, job: Frame) -> Frame:
        loop = asyncio.get_running_loop()
        if not worker.pending:
            worker.active = loop.time()
        if worker.writer.is_closing():
            raise _WorkerLostError(alone=False)
        answer: asyncio.Future[Frame] = loop.create_future()
        worker.pending[job.number] = answer
        try:
            worker.writer.write(job.to_bytes())
            return await answer
        finally:
            worker.pending.pop(job.number, None)

    async def _least_busy(self) -> _Worker:
        if None in self._workers:
            async with self._starting:
                for place, worker in enumerate(self._workers):
                    if worker is None:
                        self._workers[place] = await self._fork_or_refuse()
        alive = [worker for worker in self._workers if worker is not None]
        return min(alive, key=lambda worker: len(worker.pending)) if alive else await self._fork_or_refuse()

    async def _fork_or_refuse(self) -> _Worker:
        try:
            return await self._fork()
        except (FilterError, OSError, EOFError, TimeoutError):
            raise RefusedError(
                503,
                "screening_unavailable",
                "screening is unavailable at the moment; try again",
                retry_after=5,
            ) from None

    async def _load(self) -> None:
        """Start the process that loads the filter, replacing an earlier one."""
        await self._unload()
        settings = self._settings
        ours, theirs = socket.socketpair()
        # Processes that decode untrusted input must not have secrets.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not any(each in name.upper() for each in _SECRETS)
        } | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with theirs:
            self._loader = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "embedspace.gateway.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        request = {
            "model": settings.model,
            "filter": settings.filter,
            "screen_text": settings.screen_text,
            "limits": asdict(settings.limits),
        }
        assert self._loader.stdin is not None
        self._loader.stdin.write(json.dumps(request).encode())
        self._loader.stdin.close()
        self._control = ours
        reader, writer = await asyncio.open_connection(sock=ours.dup())
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                filter_info = (await Frame.read(reader, _MAX_OTHER_BYTES)).fields
        except (OSError, EOFError, TimeoutError, ValueError):
            filter_info = {"error": "its process ended; its output is above"}
        finally:
            writer.close()
        if "error" in filter_info:
            await self._unload()
            raise FilterError(f"the filter {settings.filter!r} cannot be loaded: {filter_info['error']}")
        self.filter_info = filter_info

    async def _unload(self) -> None:
        if self._control is not None:
            self._control.close()
        loader, self._loader, self._control = self._loader, None, None
        if loader is not None:
            with contextlib.suppress(ProcessLookupError):
                loader.kill()
            await loader.wait()

    async def _fork(self) -> _Worker:
        if self._loader is None or self._control is None or self._loader.returncode is not None:
            await self._load()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                started = await Frame.read(reader, _MAX_OTHER_BYTES)
        except BaseException:
            writer.close()
            raise
        worker = _Worker(started.fields["pid"], reader, writer)
        for work in (self._listen(worker), self._watch(worker)):
            task = asyncio.create_task(work)
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return worker

    async def _listen(self, worker: _Worker) -> None:
        """Deliver a worker's answers until it ends."""
        # A body may grow when it is serialised again: "1e9" becomes 1000000000.0.
        max_bytes = 8 * self._settings.limits.body_bytes + _MAX_OTHER_BYTES
        try:
            while True:
                frame = await Frame.read(worker.reader, max_bytes)
                worker.active = asyncio.get_running_loop().time()
                answer = worker.pending.pop(frame.number, None)
                if answer is not None and not answer.done():
                    answer.set_result(frame)
        except (EOFError, OSError, ValueError):
            pass
        finally:
            self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        if worker in self._workers:
            self._workers[self._workers.index(worker)] = None
        lost, worker.pending = worker.pending, {}
        if lost:
            self._on_worker_lost()
        for answer in lost.values():
            if not answer.done():
                answer.set_exception(_WorkerLostError(alone=len(lost) == 1))
        worker.writer.close()

    async def _watch(self, worker: _Worker) -> None:
        """Kill a worker that has pending requests and does not answer."""
        allowed = self._settings.limits.screen_seconds
        loop = asyncio.get_running_loop()
        while not worker.writer.is_closing():
            silent = loop.time() - worker.active if worker.pending else 0.0
            if silent >= allowed:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(worker.pid, signal.SIGKILL)
                return
            await asyncio.sleep(max(allowed - silent, 0.05))


def _screening_failed() -> RefusedError:
    return RefusedError(
        400, "screening_failed", "the request could not be screened within its limits and was refused"
    )
