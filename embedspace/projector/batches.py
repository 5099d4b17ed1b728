"""Batches of sentences of like length, in an order that a seed and a count of batches determine."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_POOL = 64
"""Batches that are sorted by length together: large enough for even lengths, small enough for a random order."""


@dataclass(frozen=True)
class Batch:
    """Sentence vectors and the token ids of their sentences."""

    vectors: Float[Tensor, "batch features"]
    ids: list[list[int]]
    texts: list[str]

    def to(self, device: Any) -> Batch:
        """With the vectors on a device; Lightning calls it."""
        return Batch(self.vectors.to(device), self.ids, self.texts)


class BucketedBatches:
    """An iterable of batches that goes on after a checkpoint with the very batch that would have come next.

    Every epoch has its own order, drawn from the seed. Lightning keeps ``state_dict`` in its checkpoints.

    Args:
        vectors: all sentence vectors.
        ids: token ids of all sentences.
        texts: all sentences.
        batch_size: sentences a batch, in all processes together.
        seed: of the order.
        shuffle: false keeps one order, sorted by length, and the incomplete last batch.
        rank: number of this process, of ``world``; each takes its share of every batch.
    """

    def __init__(
        self,
        vectors: Tensor,
        ids: list[list[int]],
        texts: list[str],
        *,
        batch_size: int,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world: int = 1,
    ) -> None:
        if batch_size < 1 or batch_size % world:
            raise ValueError(
                f"batch_size must be a positive multiple of the {world} processes, got {batch_size}"
            )
        if shuffle and len(ids) < batch_size:
            raise ValueError(
                f"{len(ids)} sentences do not fill one batch of {batch_size}; lower batch_size or give more sentences"
            )
        self._vectors, self._ids, self._texts = vectors, ids, texts
        self._size, self._seed, self._shuffle = batch_size, seed, shuffle
        self._rank, self._world = rank, world
        self._epoch = self._done = 0

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self._ids) // self._size if self._shuffle else -(-len(self._ids) // self._size)

    def __iter__(self) -> Iterator[Batch]:
        for places in self._order()[self._done :]:
            self._done += 1
            own = places[self._rank :: self._world]
            yield Batch(
                self._vectors[own], [self._ids[place] for place in own], [self._texts[place] for place in own]
            )
        self._epoch, self._done = self._epoch + 1, 0

    def state_dict(self) -> dict[str, int]:
        """Epoch, and how many of its batches were given out."""
        return {"epoch": self._epoch, "done": self._done, "seed": self._seed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go on from there."""
        if state["seed"] != self._seed:
            raise ValueError(f"the checkpoint's order has seed {state['seed']}, this one {self._seed}")
        self._epoch, self._done = state["epoch"], state["done"]

    def _order(self) -> list[list[int]]:
        lengths = torch.tensor([len(ids) for ids in self._ids])
        if not self._shuffle:
            return [list(part) for part in _chunks(lengths.argsort(stable=True).tolist(), self._size)]
        generator = torch.Generator().manual_seed(self._seed * 100_003 + self._epoch)
        drawn = torch.randperm(len(self._ids), generator=generator)[: len(self) * self._size]
        batches: list[list[int]] = []
        for pool in drawn.split(_POOL * self._size):
            batches += _chunks(pool[lengths[pool].argsort(stable=True)].tolist(), self._size)
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def _chunks(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
