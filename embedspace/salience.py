"""Salience: the rows that tell most are kept, and the rest is left out or folded into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.pooling import Pooling, chosen
from embedspace.surprisal import surprisal
from embedspace.vocabulary_rows import token_ids
from embedspace.words import rarity, token_texts, word_numbers

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.engines.transformers import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

Information = Literal["vocabulary", "surprisal"]


def _from_vocabulary(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine | None, ids: Sequence[int]
) -> Tensor:
    return rarity(space, ids, token_texts(space, ids))


def _from_surprisal(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine | None, ids: Sequence[int]
) -> Tensor:
    if engine is None:
        raise ValueError("information='surprisal' asks a model: pass engine=TransformersEngine(...)")
    return surprisal(prompt, space, engine)[prompt.content.cpu()]


INFORMATION: dict[
    Information, Callable[[PromptEmbeds, EmbeddingSpace, TransformersEngine | None, Sequence[int]], Tensor]
] = {"vocabulary": _from_vocabulary, "surprisal": _from_surprisal}


def word_information(
    prompt: PromptEmbeds,
    space: EmbeddingSpace,
    engine: TransformersEngine | None,
    information: Information,
    words: bool,
) -> tuple[Float[Tensor, " content"], Int[Tensor, " content"]]:
    """Information of every content row, and the number of the word that it belongs to."""
    ids = token_ids(space, prompt.content_vectors).tolist()
    told = INFORMATION[information](prompt, space, engine, ids)
    numbers = word_numbers(token_texts(space, ids)) if words else range(len(ids))
    return told, torch.tensor(list(numbers))


def salient(told: Float[Tensor, " rows"], words: Int[Tensor, " rows"], length: int, fold: float) -> Pooling:
    """Whole words by highest mean information while they fit, then single rows for the places left.

    Args:
        told: information of each row.
        words: number of each row's word, not falling.
        length: rows to keep.
        fold: weight, beside 1 for the kept row, of each row left out that is folded into the nearest kept one.
    """
    kept = _kept(told, words, length)
    return chosen(kept) if fold == 0 else _folded(kept, len(told), fold)


def _kept(told: Tensor, words: Tensor, length: int) -> Tensor:
    _, numbers, sizes = words.unique_consecutive(return_inverse=True, return_counts=True)
    totals = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, numbers, told.double())
    fits, left = torch.zeros(len(sizes), dtype=torch.bool), length
    for word in (totals / sizes).argsort(descending=True, stable=True).tolist():
        if (size := int(sizes[word])) <= left:
            fits[word] = True
            left -= size
    kept = fits[numbers]
    best = told.double().masked_fill(kept, -torch.inf).argsort(descending=True, stable=True)
    kept[best[:left]] = True
    return kept.nonzero().flatten()


def _folded(kept: Tensor, count: int, fold: float) -> Pooling:
    # A row half-way between two kept ones goes to the first.
    borders = (kept[:-1] + kept[1:]).div(2, rounding_mode="floor") + 1
    starts = torch.cat([borders.new_zeros(1), borders])
    sizes = starts.diff(append=torch.tensor([count]))
    weights = torch.full((count,), fold, dtype=torch.float64)
    weights[kept] = 1.0
    totals = 1 + fold * (sizes - 1).double()
    return Pooling(torch.arange(count), starts, weights / totals.repeat_interleave(sizes))
