"""Merging of the most similar neighbours, one pair after another."""

from __future__ import annotations

import heapq
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedspace.compression.pooling import Pooling, grouped

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def merged(rows: Float[Tensor, "rows hidden"], length: int, mean: Float[Tensor, " hidden"]) -> Pooling:
    """Adjacent groups of rows, joined by highest centred cosine of their means until ``length`` are left.

    A group stands for all its rows: its mean weighs every one of them the same (token merging, Bolya et al.
    2023, on neighbours only, which keeps the order). Takes n log n steps in the number of rows.
    """
    sums = (rows.float() - mean.to(rows.device)).cpu().numpy().astype(np.float32, copy=True)
    groups = _Neighbours(sums)
    for _ in range(len(rows) - length):
        groups.join_best()
    return grouped(torch.tensor(groups.starts()), len(rows))


class _Neighbours:
    """Groups of adjacent rows, the sum of each, and a heap of the cosines between neighbours.

    The cosine of two sums is that of the means. An entry of the heap counts only while both groups are
    what they were when it was made; that is told by the number of rows they reach over.
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

    def join_best(self) -> None:
        """Join the two neighbours of highest cosine; of equal ones, the first."""
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
