"""Alignments: sequences of rows of unequal lengths are brought to one length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.prompt import evenly_spaced

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    Rows = Float[Tensor, "rows hidden"]

Align = Literal["resample", "pad", "dtw"]


def resample(pieces: Sequence[Rows], weights: Sequence[float], mean: Tensor | None) -> list[Rows]:
    """Every piece at the weighted mean of their lengths; rows are repeated or dropped evenly.

    Rows are never mixed: a mixture of neighbouring rows is not a token, and models do worse on it.
    """
    exact = sum(weight * len(piece) for piece, weight in zip(pieces, weights, strict=True))
    length = max(1, int(exact + 0.5))
    return [
        piece
        if len(piece) == length
        else piece.index_select(0, evenly_spaced(len(piece), length, piece.device))
        for piece in pieces
    ]


def pad(pieces: Sequence[Rows], weights: Sequence[float], mean: Tensor | None) -> list[Rows]:
    """Every piece at the length of the longest, by rows of zeros at its end."""
    longest = max(map(len, pieces))
    return [
        piece if len(piece) == longest else torch.nn.functional.pad(piece, (0, 0, 0, longest - len(piece)))
        for piece in pieces
    ]


def warp(pieces: Sequence[Rows], weights: Sequence[float], mean: Tensor | None) -> list[Rows]:
    """Every piece at the length of the longest, by dynamic time warping onto it (Sakoe and Chiba 1978)."""
    assert mean is not None
    longest = max(pieces, key=len)
    return [
        piece if len(piece) == len(longest) else piece.index_select(0, warping(longest, piece, mean))
        for piece in pieces
    ]


def warping(longer: Rows, shorter: Rows, mean: Float[Tensor, " hidden"]) -> Int[Tensor, " longer"]:
    """For each row of the longer sequence, the row of the shorter one that it is matched with.

    The monotone matching of least total centred cosine distance that uses every row of the shorter sequence and each
    row of the longer one exactly once; at equal lengths it is the identity.
    """
    if len(longer) == len(shorter):
        return torch.arange(len(longer), device=longer.device)
    centred = [
        torch.nn.functional.normalize(rows.double() - mean.to(rows), dim=1) for rows in (longer, shorter)
    ]
    distance = (1 - centred[0] @ centred[1].T).cpu()
    cost = torch.full((len(shorter),), torch.inf, dtype=torch.float64)
    cost[0] = distance[0, 0]
    stepped = torch.zeros(distance.shape, dtype=torch.bool)
    for row in range(1, len(longer)):
        from_before = torch.cat([cost.new_full((1,), torch.inf), cost[:-1]])
        stepped[row] = from_before < cost
        cost = torch.minimum(cost, from_before) + distance[row]
    matched, current = [], len(shorter) - 1
    for row in reversed(range(len(longer))):
        matched.append(current)
        current -= int(stepped[row, current])
    return torch.tensor(matched[::-1], device=longer.device)


ALIGNMENTS: dict[Align, Callable[[Sequence[Tensor], Sequence[float], Tensor | None], list[Tensor]]] = {
    "resample": resample,
    "pad": pad,
    "dtw": warp,
}
