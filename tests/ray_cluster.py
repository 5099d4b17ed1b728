"""A real Ray cluster of three nodes on this machine, each of which can be lost, and work that kills its worker."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

NODE = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}


@contextmanager
def ray_cluster() -> Iterator[Any]:
    """A running ``ray.cluster_utils.Cluster``, which ends with the block."""
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args=NODE)
    try:
        for _ in range(2):
            cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def doubler(deadly: int) -> Callable[[int], int]:
    """Work that doubles a number; one number kills the worker, as the system does where memory runs out."""

    def double(number: int) -> int:
        if number == deadly:
            os.kill(os.getpid(), signal.SIGKILL)
        return 2 * number

    return double


def refusing() -> Callable[[int], int]:
    """A worker that cannot be opened."""
    raise ValueError("there is no such model")
