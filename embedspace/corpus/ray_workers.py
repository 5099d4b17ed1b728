"""Work by number on a Ray cluster: one process for each worker, started once, replaced when it or its node is lost."""

from __future__ import annotations

import logging
import os
import sys
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from embedspace._util.extras import pip_install

Result = TypeVar("Result")
MAX_DEATHS = 3
"""Workers that may be lost over one piece of work, or one after another as they start."""
LOOK_SECONDS = 2.0
"""Between two looks at the size of the cluster."""


def map_on_ray(
    open_worker: Callable[..., Callable[[int], Result]],
    arguments: tuple[Any, ...],
    numbers: Sequence[int],
    *,
    describe: Callable[[int], str],
    workers: int | None,
    gpus: float = 0,
) -> Iterator[Result]:
    """What the workers of a Ray cluster make of each number, as soon as it is there.

    Connects to the cluster that ``RAY_ADDRESS`` names or that this machine is part of, and starts one of this machine
    alone where there is none. Files that the workers read and write must be on a disk that all nodes share. Work whose
    worker or node is lost is given to another one, which is reported. A node that is added gets workers as well.
    ``RAY_LOG_TO_DRIVER=1`` shows Ray's own log lines.

    Args:
        open_worker: called once in each worker; makes the function that is called with one number after another.
        arguments: of ``open_worker``.
        numbers: the work.
        describe: a piece of work in words, for what is reported about it.
        workers: how many; None for one a core of the cluster.
        gpus: of each worker.

    Raises:
        ValueError: Ray is not installed.
        ChildProcessError: several workers were lost over the same piece of work, or as they started.
        Exception: what a worker itself raised.
    """
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ValueError(
            f"runner=ray needs Ray, which is not installed: {pip_install('ray')}. runner=local needs nothing"
        ) from error
    if not numbers:
        return
    began = not ray.is_initialized()
    if began:
        shown = os.environ.get("RAY_LOG_TO_DRIVER", "0").lower() in ("1", "true")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        ray.init(log_to_driver=shown, logging_level=logging.INFO if shown else logging.ERROR)
    start = ray.remote(num_cpus=1, num_gpus=gpus)(_Worker).remote
    pool = _Pool(ray, lambda: start(open_worker, arguments), describe, workers, deque(numbers))
    try:
        yield from pool.results()
    finally:
        pool.close()
        if began:
            ray.shutdown()


class _Worker:
    """The Ray actor. It opens what it works with in a call, so that an error there keeps its class and words."""

    def __init__(self, open_worker: Callable[..., Callable[[int], Any]], arguments: tuple[Any, ...]) -> None:
        self._open_worker, self._arguments = open_worker, arguments

    def open(self) -> None:
        self._work = self._open_worker(*self._arguments)

    def work(self, number: int) -> Any:
        return self._work(number)


@dataclass
class _Pool:
    """The workers of one call, and what each of them is doing."""

    ray: Any
    start: Callable[[], Any]
    describe: Callable[[int], str]
    workers: int | None
    left: deque[int]
    idle: list[Any] = field(default_factory=list)
    busy: dict[Any, tuple[Any, int | None]] = field(default_factory=dict)
    """What will be there -> the worker and its number; None for one that starts."""
    deaths: Counter[int | None] = field(default_factory=Counter)

    def results(self) -> Iterator[Any]:
        """The result of each number; an error ends them."""
        while self._busy_numbers() or self.left:
            self._assign()
            done, _ = self.ray.wait(list(self.busy), num_returns=1, timeout=LOOK_SECONDS)
            for reference in done:
                worker, number = self.busy.pop(reference)
                try:
                    result = self.ray.get(reference)
                except self.ray.exceptions.RayTaskError as error:
                    raise error.cause from None
                except self.ray.exceptions.RayError as error:
                    self._lost(worker, number, error)
                    continue
                self.deaths.pop(number, None)
                self.idle.append(worker)
                if number is not None:
                    yield result

    def close(self) -> None:
        """End the workers."""
        for worker in [*self.idle, *(worker for worker, _ in self.busy.values())]:
            self.ray.kill(worker)

    def _busy_numbers(self) -> list[int]:
        return [number for _, number in self.busy.values() if number is not None]

    def _assign(self) -> None:
        """Start the workers that are wanted and not there, and give work to those that have none."""
        wanted = self.workers or max(1, int(self.ray.cluster_resources().get("CPU", 1)))
        there = len(self.idle) + len(self.busy)
        for _ in range(there, min(wanted, len(self.left) + len(self._busy_numbers()))):
            worker = self.start()
            self.busy[worker.open.remote()] = (worker, None)
        while self.left and self.idle:
            worker, number = self.idle.pop(), self.left.popleft()
            self.busy[worker.work.remote(number)] = (worker, number)

    def _lost(self, worker: Any, number: int | None, error: Exception) -> None:
        """Report a lost worker, and put its work back.

        Raises:
            ChildProcessError: it was not the first one.
        """
        self.ray.kill(worker)
        self.deaths[number] += 1
        what = "as it started" if number is None else f"with {self.describe(number)}"
        reason = ". ".join(str(error).splitlines()[-1].split(". ")[:2])
        if self.deaths[number] >= MAX_DEATHS:
            raise ChildProcessError(
                f"{MAX_DEATHS} workers died one after another {what}; what was made before is kept. Where memory runs "
                f"out, use fewer workers or smaller pieces of work, and run the same command again. Ray says: {reason}"
            ) from None
        print(f"a worker died {what}; another one goes on. Ray says: {reason}", file=sys.stderr, flush=True)
        if number is not None:
            self.left.appendleft(number)
