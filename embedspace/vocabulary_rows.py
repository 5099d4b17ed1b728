"""From rows back to the tokens that they are: at once for rows of the table, by similarity for all others."""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from embedspace.space import EmbeddingSpace

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_HASHED_COLUMNS = 16
_KNOWN: WeakKeyDictionary[EmbeddingSpace, tuple[Tensor, Tensor]] = WeakKeyDictionary()


def token_ids(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Int[Tensor, " rows"]:
    """The token of each row: the one whose embedding it is, or else the nearest by centred cosine.

    Rows of the table are found by a hash in log(vocabulary) each; only the others are compared with all of it.
    """
    rows = vectors.detach().cpu().float()
    hashes, owners = _hashed_table(space)
    found = torch.searchsorted(hashes, _hash(rows)).clamp_max(len(hashes) - 1)
    ids = owners[found]
    same = (space.table.lookup(ids.tolist()).float() == rows).all(dim=1)
    if not bool(same.all()):
        nearest, _ = space.nearest(rows[~same], k=1)
        ids[~same] = nearest.flatten()
    return ids


def distances(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Float[Tensor, " rows"]:
    """Euclidean distance of each row to the nearest row of the vocabulary; 0 for rows of the vocabulary."""
    rows = vectors.detach().cpu().float()
    least = rows.new_full((len(rows),), torch.inf)
    ids = torch.zeros(len(rows), dtype=torch.long)
    start = 0
    for chunk in space.table.chunks():
        # The squared distance but for the row's own square, which is the same for the whole vocabulary.
        value, index = (chunk.square().sum(dim=1) - 2 * rows @ chunk.T).min(dim=1)
        ids = torch.where(value < least, index + start, ids)
        least = torch.minimum(least, value)
        start += len(chunk)
    away: Tensor = (rows - space.table.lookup(ids).float()).norm(dim=1)
    return away


def _hashed_table(space: EmbeddingSpace) -> tuple[Tensor, Tensor]:
    """Sorted hashes of the table's rows and the tokens they belong to, made once for each space."""
    if space not in _KNOWN:
        hashes = torch.cat([_hash(chunk) for chunk in space.table.chunks()])
        order = hashes.argsort(stable=True)
        _KNOWN[space] = hashes[order], order
    return _KNOWN[space]


def _hash(rows: Float[Tensor, "rows hidden"]) -> Int[Tensor, " rows"]:
    bits = rows[:, :_HASHED_COLUMNS].contiguous().view(torch.int32).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator)
    return (bits * factors).sum(dim=1)  # 64-bit integers wrap around, as a hash may
