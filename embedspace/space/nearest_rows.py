"""The tokens of rows: by hash for rows of the vocabulary table, by similarity for all others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from embedspace.space.embedding_space import EmbeddingSpace

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

_HASHED_COLUMNS = 16
_SKETCH_COLUMNS, _CANDIDATES = 128, 128
"""Columns that the first pass over the table compares, and rows that the second pass compares in full."""

_HASHES: WeakKeyDictionary[EmbeddingSpace, tuple[Tensor, Tensor]] = WeakKeyDictionary()
_SKETCHES: WeakKeyDictionary[EmbeddingSpace, tuple[Tensor, Tensor]] = WeakKeyDictionary()


@dataclass(frozen=True, eq=False)
class TokenMatches:
    """The token of each of some rows."""

    ids: Int[Tensor, " rows"]
    """The token whose embedding the row is, or else the nearest token."""
    exact: Bool[Tensor, " rows"]
    """Whether the row equals the token's embedding in every column, up to rounding to bfloat16 or float16."""


def token_ids(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Int[Tensor, " rows"]:
    """The token of each row: the one whose embedding it is, or else the nearest by centred cosine.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> token_ids(space, space.embed("Hello world").vectors).tolist() == space.tokenize("Hello world")
    True
    """
    return match_tokens(space, vectors).ids


def match_tokens(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> TokenMatches:
    """The token of each row, and whether the row is exactly that token's embedding.

    A row that equals an embedding in every column is read as its token, and as the one with the lowest id where several
    tokens have that embedding, as tokens that were never trained often do: nothing tells those apart. Else it is read
    as the first token whose embedding it is after rounding to bfloat16 or float16, else as the nearest.

    Rows of the table, also when cast to those types, are found by a hash in log(vocabulary) each: a few columns say
    where to look, and all are compared. Only the others are compared with the vocabulary, by :func:`nearest_tokens`.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> rows = space.embed(" cat").vectors.float()
    >>> match_tokens(space, torch.cat([rows, 1.1 * rows])).exact
    tensor([ True, False])
    """
    rows = vectors.detach().cpu()
    hashes, owners = _hashed_table(space)
    wanted = _hash(rows)
    places = torch.searchsorted(hashes, wanted)
    ids, exact = torch.zeros_like(places), torch.zeros_like(places, dtype=torch.bool)
    left = torch.arange(len(rows))
    while len(left):
        left = left[places[left] < len(hashes)]
        left = left[hashes[places[left]] == wanted[left]]
        found = owners[places[left]]
        own = space.table.lookup(found.tolist())
        same = (own == rows[left]).all(dim=1)
        ids[left[same]], exact[left[same]] = found[same], True
        left, found, own = left[~same], found[~same], own[~same]
        close = (_rounded(own) == _rounded(rows[left])).all(dim=1) & ~exact[left]
        ids[left[close]], exact[left[close]] = found[close], True
        places[left] += 1  # rows that are equal in the hashed columns stand side by side
    if not bool(exact.all()):
        ids[~exact] = nearest_tokens(space, vectors[~exact.to(vectors.device)])
    return TokenMatches(ids, exact)


def nearest_tokens(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Int[Tensor, " rows"]:
    """The token of highest centred cosine to each row, approximately, in two passes.

    The first compares random projections of all rows of the table (Johnson and Lindenstrauss 1984) and keeps a few
    candidates for each vector; the second compares those in full. ``EmbeddingSpace.nearest`` is exact, by a
    product with the whole table.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> space.tokenizer.decode(nearest_tokens(space, 1.1 * space.embed(" cat").vectors.float()).tolist())
    ' cat'
    """
    projection, sketch = _sketched_table(space)
    found = []
    for chunk in vectors.detach().cpu().float().split(256):
        queries = torch.nn.functional.normalize(chunk - space.mean, dim=1)
        candidates = (queries @ projection @ sketch.T).topk(min(_CANDIDATES, len(sketch)), dim=1).indices
        rows = space.table.lookup(candidates.flatten()).float() - space.mean
        rows = torch.nn.functional.normalize(rows, dim=1).view(*candidates.shape, -1)
        best = (rows @ queries[:, :, None]).squeeze(2).argmax(dim=1, keepdim=True)
        found.append(candidates.gather(1, best).flatten())
    return torch.cat(found)


def _sketched_table(space: EmbeddingSpace) -> tuple[Tensor, Tensor]:
    """A random projection, and the table's centred rows of length 1 under it; computed once for each space."""
    if space not in _SKETCHES:
        generator = torch.Generator().manual_seed(0)
        columns = min(_SKETCH_COLUMNS, space.hidden_size)
        projection, _ = torch.linalg.qr(torch.randn(space.hidden_size, columns, generator=generator))
        parts = [
            torch.nn.functional.normalize(chunk - space.mean, dim=1) @ projection
            for chunk in space.table.chunks()
        ]
        _SKETCHES[space] = projection, torch.cat(parts)
    return _SKETCHES[space]


def nearest_distances(space: EmbeddingSpace, vectors: Float[Tensor, "rows hidden"]) -> Float[Tensor, " rows"]:
    """Euclidean distance of each row to the nearest row of the vocabulary; 0 for rows of the vocabulary.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> nearest_distances(space, space.embed("Hello world").vectors)
    tensor([0., 0.])
    """
    rows = vectors.detach().cpu().float()
    least = rows.new_full((len(rows),), torch.inf)
    ids = torch.zeros(len(rows), dtype=torch.long)
    start = 0
    for chunk in space.table.chunks():
        # The squared distance minus the row's own square, which is the same for the whole vocabulary.
        value, index = (chunk.square().sum(dim=1) - 2 * rows @ chunk.T).min(dim=1)
        ids = torch.where(value < least, index + start, ids)
        least = torch.minimum(least, value)
        start += len(chunk)
    nearest: Tensor = (rows - space.table.lookup(ids).float()).norm(dim=1)
    return nearest


def _hashed_table(space: EmbeddingSpace) -> tuple[Tensor, Tensor]:
    """Sorted hashes of the table's distinct rows and the first token of each; computed once for each space."""
    if space not in _HASHES:
        hashes = torch.cat([_hash(chunk) for chunk in space.table.chunks()])
        order = hashes.argsort(stable=True)
        hashes = hashes[order]
        repeated = torch.zeros(len(hashes), dtype=torch.bool)
        repeated[1:] = hashes[1:] == hashes[:-1]
        repeated[:-1] |= repeated[1:].clone()
        # Of tokens with the same row, as those that were never trained have it, only the first is searched.
        rows = space.table.lookup(order[repeated].tolist())
        keep, seen = ~repeated, set[int]()
        numbers = torch.unique(rows, dim=0, return_inverse=True)[1].tolist()
        for place, number in zip(repeated.nonzero().flatten().tolist(), numbers, strict=True):
            keep[place] = number not in seen
            seen.add(number)
        _HASHES[space] = hashes[keep], order[keep]
    return _HASHES[space]


def _hash(rows: Float[Tensor, "rows hidden"]) -> Int[Tensor, " rows"]:
    bits = _rounded(rows[:, :_HASHED_COLUMNS]).view(torch.int16).long()
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (bits.shape[1],), generator=generator)
    return (bits * factors).sum(dim=1)  # 64-bit integers overflow, which a hash may


def _rounded(rows: Float[Tensor, "rows hidden"]) -> Float[Tensor, "rows hidden"]:
    """In bfloat16, the same for rows that were cast to bfloat16 or float16, which has fewer digits near zero, before;
    with one zero."""
    return rows.bfloat16().half().bfloat16() + 0.0
