"""Claims about how requests are distributed over workers, with workers that the test plays."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

import pytest

from embedspace.gateway import Settings
from embedspace.gateway.filter_process import FilterError
from embedspace.gateway.frames import Frame
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.worker_pool import WorkerPool

NO_PROCESS = 2**22 + 1


@dataclass
class PlayedWorker:
    """The other side of a worker's connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    got: list[Frame] = field(default_factory=list)

    async def read(self) -> None:
        try:
            while True:
                self.got.append(await Frame.read(self.reader, 2**20))
        except (EOFError, OSError):
            self.writer.close()

    @property
    def bodies(self) -> list[str]:
        return [frame.body.decode() for frame in self.got]

    def answer(self, count: int = 1) -> None:
        for _ in range(count):
            self.writer.write(Frame(self.got.pop(0).number, {}, b"fine").to_bytes())


@dataclass
class PlayedProcess:
    """Stands in for the process that has a filter loaded."""

    workers: list[PlayedWorker] = field(default_factory=list)
    tasks: list[asyncio.Task[None]] = field(default_factory=list)
    broken: bool = False

    async def load(self) -> None:
        pass

    async def end(self) -> None:
        for task in self.tasks:
            task.cancel()

    async def fork(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        if self.broken:
            raise FilterError("it cannot be loaded")
        ours, theirs = socket.socketpair()
        worker = PlayedWorker(*await asyncio.open_connection(sock=theirs))
        self.workers.append(worker)
        self.tasks.append(asyncio.create_task(worker.read()))
        return (NO_PROCESS, *await asyncio.open_connection(sock=ours))


Scenario = Callable[[WorkerPool, PlayedProcess], Coroutine[Any, Any, None]]


def played(scenario: Scenario, workers: int = 1) -> None:
    async def run() -> None:
        pool = WorkerPool(Settings("http://127.0.0.1:1", "f", workers=workers))
        process = PlayedProcess()
        pool._process = process  # type: ignore[assignment]
        await pool.start()
        try:
            await scenario(pool, process)
        finally:
            await pool.close()

    asyncio.run(run())


def screen(pool: WorkerPool, body: str, caller: str) -> asyncio.Task[Frame]:
    return asyncio.create_task(pool.screen("/v1/completions", body.encode(), None, caller))


async def settled() -> None:
    await asyncio.sleep(0.02)


def test_a_caller_has_one_worker_and_another_caller_the_next() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        assert len(process.workers) == 2
        asked = [screen(pool, f"a{n}", "a") for n in range(4)]
        await settled()
        asked.append(screen(pool, "b0", "b"))
        await settled()
        by_load = sorted((worker.bodies for worker in process.workers), reverse=True)
        assert by_load == [["b0"], ["a0"]]
        first = next(worker for worker in process.workers if worker.bodies == ["a0"])
        first.answer()
        await settled()
        assert first.bodies == ["a1", "a2", "a3"]  # together
        for worker in process.workers:
            worker.answer(len(worker.got))
        assert [(await each).body for each in asked] == [b"fine"] * 5

    played(scenario)


def test_callers_take_turns() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        asked = [screen(pool, f"{caller}{n}", caller) for n in range(20) for caller in "abc"]
        await settled()
        order = []
        while not all(each.done() for each in asked):
            for worker in process.workers:
                order.append(worker.bodies[0][0] if worker.got else "")
                worker.answer(len(worker.got))
            await settled()
        assert {"a", "b", "c"} == set(order[:4])

    played(scenario)


def test_requests_of_a_lost_worker_are_tried_once_more_each_alone() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        first = screen(pool, "first", "a")
        await settled()
        asked = [screen(pool, body, "a") for body in ("one", "two", "three")]
        await settled()
        holder = next(worker for worker in process.workers if worker.got)
        holder.answer()
        await settled()
        assert holder.bodies == ["one", "two", "three"]
        holder.writer.close()
        holder.got.clear()
        tried = []
        for _ in range(3):
            await settled()
            holder = next(worker for worker in process.workers if worker.got and not worker.reader.at_eof())
            tried += holder.bodies
            if holder.bodies == ["two"]:
                holder.writer.close()
                holder.got.clear()
            else:
                holder.answer()
        assert sorted(tried) == ["one", "three", "two"]  # one at a time
        assert (await first).body == b"fine"
        results = await asyncio.gather(*asked, return_exceptions=True)
        assert [isinstance(each, RefusedError) for each in results] == [False, True, False]

    played(scenario)


def test_a_request_that_takes_long_gives_way_to_another_caller() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        asked = [screen(pool, "long", "a")]
        await settled()
        asked += [screen(pool, "longer", "a"), screen(pool, "longest", "a")]
        await asyncio.sleep(1.3)
        assert len(process.workers) == 2  # nobody else is there
        asked.append(screen(pool, "other", "b"))
        await asyncio.sleep(0.3)
        assert sorted(worker.bodies for worker in process.workers) == [
            ["long"],
            ["longer", "longest"],
            ["other"],
        ]
        await asyncio.sleep(1.3)
        assert len(process.workers) == 4  # each caller one
        for worker in process.workers:
            worker.answer(len(worker.got))
        await asyncio.gather(*asked)
        await settled()
        assert sum(not worker.reader.at_eof() for worker in process.workers) == 2

    played(scenario)


def test_without_any_worker_requests_are_refused_and_later_ones_are_tried_again() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        process.broken = True
        for worker in process.workers:
            worker.writer.close()
        await settled()
        with pytest.raises(RefusedError, match="unavailable"):
            await screen(pool, "x", "a")
        process.broken = False
        asked = screen(pool, "y", "a")
        await settled()
        next(worker for worker in process.workers if worker.got).answer()
        assert (await asked).body == b"fine"

    played(scenario)


def test_a_request_that_is_given_up_leaves_the_queue() -> None:
    async def scenario(pool: WorkerPool, process: PlayedProcess) -> None:
        asked = [screen(pool, f"a{n}", "a") for n in range(3)]
        await settled()
        asked[1].cancel()
        await settled()
        holder = next(worker for worker in process.workers if worker.got)
        holder.answer()
        await settled()
        assert holder.bodies == ["a2"]
        holder.answer()
        await asked[2]

    played(scenario)
