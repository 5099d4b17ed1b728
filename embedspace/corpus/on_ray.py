"""Shards made by actors of a Ray cluster, each of which holds the space."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from embedspace.corpus.shard import Shard
from embedspace.space import EmbeddingSpace

if TYPE_CHECKING:
    import numpy.typing as npt

    from embedspace.corpus.making import Work


class ShardMaker:
    """The actor: opens the space once, then makes one shard after another."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._space = EmbeddingSpace.from_pretrained(work.model)

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[str]]:
        """Make the shards of a batch of numbers."""
        made = [self._work.make(self._space, int(number)) for number in batch["number"]]
        return {"shard": [json.dumps(dataclasses.asdict(shard)) for shard in made]}


def shards_on_ray(work: Work, numbers: Sequence[int], actors: int | None) -> Iterator[Shard]:
    """Each shard as soon as it is made, by ``map_batches`` of Ray Data.

    Connects to the cluster that ``RAY_ADDRESS`` names or that this machine is part of, and starts one of this machine
    alone where there is none. The source's files and the folder must be on a disk that all nodes share.

    Raises:
        ValueError: Ray is not installed.
    """
    data, strategy = ray_data()
    if not numbers:
        return
    made = data.from_items([{"number": number} for number in numbers], override_num_blocks=len(numbers))
    made = made.map_batches(
        ShardMaker,
        fn_constructor_args=(work,),
        batch_size=1,
        compute=strategy(size=actors) if actors else strategy(min_size=1, max_size=len(numbers)),
    )
    for row in made.iter_rows():
        yield Shard(**json.loads(row["shard"]))


def ray_data() -> tuple[Any, Any]:
    """``ray.data`` and its ``ActorPoolStrategy``.

    Raises:
        ValueError: Ray is not installed.
    """
    try:
        import ray.data
    except ModuleNotFoundError as error:
        raise ValueError(
            "runner=ray needs Ray Data, which is not installed: pip install 'embedspace[ray-data]'. "
            "runner=local needs nothing"
        ) from error
    return ray.data, ray.data.ActorPoolStrategy
