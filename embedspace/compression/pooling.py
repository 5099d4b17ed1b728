"""Pooling of rows: which rows go into which shorter row, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import evenly_spaced

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pooling:
    """A sparse matrix of weights: output row j is the weighted sum of the rows in bag j."""

    rows: Int[Tensor, " entries"]
    """Row numbers, bag after bag."""
    starts: Int[Tensor, " length"]
    """Where each bag begins in ``rows``."""
    shares: Float[Tensor, " entries"]
    """Weight of each entry, float64; those of a bag sum to 1."""

    def __call__(
        self, vectors: Float[Tensor, "rows hidden"], mean: Float[Tensor, " hidden"] | None = None
    ) -> Float[Tensor, "length hidden"]:
        """The pooled rows, in the vectors' dtype.

        Args:
            vectors: rows to pool.
            mean: with the vocabulary's mean row, mixed rows are moved straight away from it until they are
                as far as the rows that went into them are on average.
        """
        if len(self.rows) == len(self.starts):
            return vectors.index_select(0, self.rows.to(vectors.device))
        wide = vectors.float()
        pooled = self._sum(wide)
        if mean is not None:
            distances = (wide - mean.to(wide)).norm(dim=1, keepdim=True)
            centred = pooled - mean.to(wide)
            factor = self._sum(distances) / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)
            mixed = (self.sizes > 1).to(wide.device)[:, None]
            pooled = torch.where(mixed, centred * factor + mean.to(wide), pooled)
        return pooled.to(vectors.dtype)

    @property
    def sizes(self) -> Int[Tensor, " length"]:
        """Number of rows in each bag."""
        return self.starts.diff(append=torch.tensor([len(self.rows)]))

    def _sum(self, vectors: Float[Tensor, "rows columns"]) -> Float[Tensor, "length columns"]:
        device = vectors.device
        return torch.nn.functional.embedding_bag(
            self.rows.to(device),
            vectors,
            self.starts.to(device),
            mode="sum",
            per_sample_weights=self.shares.to(vectors),
        )


def chosen(rows: Int[Tensor, " length"]) -> Pooling:
    """Some rows as they are."""
    return Pooling(rows, torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.float64))


def first(count: int, length: int) -> Pooling:
    """The first rows; the rest is cut off."""
    return chosen(torch.arange(length))


def spaced(count: int, length: int) -> Pooling:
    """Evenly spaced rows, whatever they say."""
    return chosen(evenly_spaced(count, length))


def averaged(count: int, length: int) -> Pooling:
    """Means over bins of equal, fractional width: every row weighs the same, the tail included.

    Row i is the stretch from i to i + 1 and bin j the j-th of ``length`` equal parts of all of them; a row
    that lies across a border belongs to both bins by its shares.
    """
    if count % length == 0:
        return grouped(torch.arange(0, count, count // length), count)
    # In units of 1 / length of a row all borders are integers, and sums of shares exact.
    bins = torch.arange(length) * count
    borders = torch.cat([torch.arange(count) * length, bins]).unique()
    widths = borders.diff(append=torch.tensor([count * length]))
    return Pooling(borders // length, torch.searchsorted(borders, bins), widths.double() / count)


def floored(count: int, length: int) -> Pooling:
    """Means over bins of whole rows, ``count // length`` of them; the rows that are left over are lost.

    This is what ``avg_pool1d`` with that kernel and a cut to the wanted length does.
    """
    kernel = count // length
    return grouped(torch.arange(0, length * kernel, kernel), length * kernel)


def grouped(starts: Int[Tensor, " length"], count: int) -> Pooling:
    """Means over groups of adjacent rows that begin at ``starts``."""
    sizes = starts.diff(append=torch.tensor([count]))
    return Pooling(torch.arange(count), starts, (1 / sizes.double()).repeat_interleave(sizes))
