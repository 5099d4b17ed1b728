"""Shards made by several processes of this machine."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import TYPE_CHECKING

from embedspace.corpus.shard import Shard
from embedspace.space import EmbeddingSpace

if TYPE_CHECKING:
    from embedspace.corpus.making import Work

_ASSIGNED: list[tuple[EmbeddingSpace, Work]] = []
"""In a worker process: the one work that it was started for."""


def shards_of_workers(work: Work, numbers: Sequence[int], processes: int) -> Iterator[Shard]:
    """Each shard as soon as it is made.

    A worker is told the number of a shard and reads its texts itself, so that nothing large goes between processes.

    Raises:
        ChildProcessError: a worker was killed.
    """
    # A process that holds the threads of a tokenizer or of torch must not be forked.
    context = multiprocessing.get_context("spawn")
    left = iter(numbers)
    with ProcessPoolExecutor(processes, context, initializer=_assign, initargs=(work,)) as pool:
        try:
            waiting: set[Future[Shard]] = {
                pool.submit(_make, n) for n in itertools.islice(left, 2 * processes)
            }
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    waiting |= {pool.submit(_make, number) for number in itertools.islice(left, 1)}
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, as the system does where memory runs out; the shards made before are "
                "kept. Use fewer processes or a smaller shard_size and run the same command again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _assign(work: Work) -> None:
    # The workers share the cores among themselves: threads inside each would only wait for each other.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    _ASSIGNED.append((EmbeddingSpace.from_pretrained(work.model), work))


def _make(number: int) -> Shard:
    ((space, work),) = _ASSIGNED
    return work.make(space, number)
