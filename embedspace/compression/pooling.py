"""Poolings: which rows a shorter row is the weighted mean of, by selection, averaging or merging of neighbours."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedspace.prompt import evenly_spaced

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor


@dataclass(frozen=True, eq=False)
class Pooling:
    """A sparse matrix of weights: output row j is the weighted sum of the rows in bag j.

    >>> averaged(3, 2)(torch.tensor([[0.0], [3.0], [6.0]])).tolist()
    [[1.0], [5.0]]
    """

    rows: Int[Tensor, " entries"]
    """Row numbers of all bags, one bag after another."""
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
            mean: the vocabulary's mean row; if given, mixed rows are rescaled about it to the mean distance of the
                rows in their bag.
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
    """The rows of these numbers, unchanged."""
    return Pooling(rows, torch.arange(len(rows)), torch.ones(len(rows), dtype=torch.float64))


def first(count: int, length: int) -> Pooling:
    """The first ``length`` rows."""
    return chosen(torch.arange(length))


def spaced(count: int, length: int) -> Pooling:
    """Evenly spaced rows."""
    return chosen(evenly_spaced(count, length))


def averaged(count: int, length: int) -> Pooling:
    """Means over bins of equal, fractional width: every row has the same total weight, the tail included.

    Row i covers the interval [i, i + 1) and bin j the j-th of ``length`` equal parts of [0, ``count``); a row across a
    border belongs to both bins, in proportion to the overlap.
    """
    if count % length == 0:
        return grouped(torch.arange(0, count, count // length), count)
    # In units of 1 / length of a row all borders are integers, and sums of shares exact.
    bins = torch.arange(length) * count
    borders = torch.cat([torch.arange(count) * length, bins]).unique()
    widths = borders.diff(append=torch.tensor([count * length]))
    return Pooling(borders // length, torch.searchsorted(borders, bins), widths.double() / count)


def floored(count: int, length: int) -> Pooling:
    """Means over bins of ``count // length`` whole rows; the rows left over are lost.

    This is what ``avg_pool1d`` with that kernel, cut to ``length``, does.
    """
    kernel = count // length
    return grouped(torch.arange(0, length * kernel, kernel), length * kernel)


def grouped(starts: Int[Tensor, " length"], count: int) -> Pooling:
    """Means over groups of adjacent rows that begin at ``starts``."""
    sizes = starts.diff(append=torch.tensor([count]))
    return Pooling(torch.arange(count), starts, (1 / sizes.double()).repeat_interleave(sizes))


def merged(rows: Float[Tensor, "rows hidden"], length: int, mean: Float[Tensor, " hidden"]) -> Pooling:
    """Adjacent groups of rows, joined by highest centred cosine of their means until ``length`` groups are left.

    A group's mean gives all its rows the same weight (token merging, Bolya et al. 2023, on neighbours only, which
    keeps the order). O(n log n) in the number of rows.
    """
    sums = (rows.float() - mean.to(rows.device)).cpu().numpy().astype(np.float32, copy=True)
    groups = _AdjacentGroups(sums)
    for _ in range(len(rows) - length):
        groups.join_most_similar()
    return grouped(torch.tensor(groups.starts()), len(rows))


class _AdjacentGroups:
    """Groups of adjacent rows, the sum of each, and a heap of the cosines between neighbours.

    The cosine of two sums is that of the means. A heap entry is stale once one of its groups has changed; the groups'
    boundaries, which it holds, show that.
    """

    def __init__(self, sums: np.ndarray) -> None:
        count = len(sums)
        self.sums = sums
        self.norms = np.linalg.norm(sums, axis=1)
        self.previous = [*range(-1, count - 1)]
        self.following = [*range(1, count + 1)]
        cosines = (sums[:-1] * sums[1:]).sum(axis=1) / np.maximum(self.norms[:-1] * self.norms[1:], 1e-12)
        self.heap = [(-cosine, left, left + 1, left + 2) for left, cosine in enumerate(cosines.tolist())]
        heapq.heapify(self.heap)

    def join_most_similar(self) -> None:
        """Join the two neighbours of highest cosine; ties go to the first."""
        while True:
            _, left, right, end = heapq.heappop(self.heap)
            if self.following[left] == right and self.following[right] == end:
                break
        self.sums[left] += self.sums[right]
        self.norms[left] = np.linalg.norm(self.sums[left])
        self.following[left], self.following[right] = end, -1
        if end < len(self.sums):
            self.previous[end] = left
            self._push(left, end)
        if self.previous[left] >= 0:
            self._push(self.previous[left], left)

    def starts(self) -> list[int]:
        """First row of each group."""
        found, group = [], 0
        while group < len(self.sums):
            found.append(group)
            group = self.following[group]
        return found

    def _push(self, left: int, right: int) -> None:
        scale = max(float(self.norms[left] * self.norms[right]), 1e-12)
        cosine = float(self.sums[left] @ self.sums[right]) / scale
        heapq.heappush(self.heap, (-cosine, left, right, self.following[right]))
