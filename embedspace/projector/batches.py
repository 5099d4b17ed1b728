"""Batches of sentences of similar lengths, in an order that the seed alone determines."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_POOL_BATCHES = 64
"""Batches that are sorted by length together: enough for even lengths, few enough for a random order."""


@dataclass(frozen=True)
class Batch:
    """Sentence vectors and the token ids of their sentences."""

    vectors: Float[Tensor, "batch features"]
    ids: list[list[int]]
    texts: list[str]
    number: int
    """Position in the stream, from 0 over all epochs."""

    def to(self, device: Any) -> Batch:
        """With the vectors on a device; called by Lightning."""
        return replace(self, vectors=self.vectors.to(device))


class BucketedBatches:
    """A resumable stream of batches, divided into epochs: from a given position the same batches follow.

    Every pass over the sentences has its own order, drawn from the seed.

    >>> vectors, ids = torch.zeros(4, 3), [[1, 2], [3], [4, 5], [6]]
    >>> stream = BucketedBatches(vectors, ids, list("abcd"), batch_size=2, shuffle=False)
    >>> [batch.texts for batch in stream]
    [['b', 'd'], ['a', 'c']]

    Args:
        vectors: all sentence vectors.
        ids: token ids of all sentences.
        texts: all sentences.
        batch_size: sentences per batch, over all processes.
        seed: of the order.
        shuffle: false keeps one order, sorted by length, and the incomplete last batch.
        length: batches per epoch; by default one pass over the sentences.
        rank: number of this process, of ``world``; each takes its share of every batch.

    Raises:
        ValueError: a batch size that the processes cannot share, or too few sentences for one batch.
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
        length: int | None = None,
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
        self._pass = len(ids) // batch_size if shuffle else -(-len(ids) // batch_size)
        self._length = length or self._pass
        self._next = 0

    def __len__(self) -> int:
        """Batches per epoch."""
        return self._length

    def skip_to(self, batches: int) -> None:
        """Resume after the first ``batches`` batches of the stream."""
        self._next = batches

    def __iter__(self) -> Iterator[Batch]:
        """The rest of the current epoch."""
        number = self._next if self._shuffle else 0
        end = (number // self._length + 1) * self._length
        current, order = -1, []
        while number < end:
            if number // self._pass != current:
                current = number // self._pass
                order = self._order(current)
            own = order[number % self._pass][self._rank :: self._world]
            number += 1
            self._next = number
            yield Batch(
                self._vectors[own],
                [self._ids[place] for place in own],
                [self._texts[place] for place in own],
                number - 1,
            )

    def _order(self, number: int) -> list[list[int]]:
        """The batches of one pass, as positions of sentences."""
        lengths = torch.tensor([len(ids) for ids in self._ids])
        if not self._shuffle:
            places = lengths.argsort(stable=True).tolist()
            # The last batch is filled up so that every process has a share.
            return _chunks(places + places[: -len(places) % self._world], self._size)
        generator = torch.Generator().manual_seed(self._seed * 100_003 + number)
        drawn = torch.randperm(len(self._ids), generator=generator)[: self._pass * self._size]
        batches: list[list[int]] = []
        for pool in drawn.split(_POOL_BATCHES * self._size):
            batches += _chunks(pool[lengths[pool].argsort(stable=True)].tolist(), self._size)
        return [batches[place] for place in torch.randperm(len(batches), generator=generator).tolist()]


def _chunks(places: list[int], size: int) -> list[list[int]]:
    return [places[start : start + size] for start in range(0, len(places), size)]
