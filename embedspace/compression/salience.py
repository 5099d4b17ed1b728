"""Salience: the rows that tell most are kept, and the rest is left out or folded into them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.compression.pooling import Pooling, chosen
from embedspace.compression.surprisal import surprisal
from embedspace.compression.token_information import rarity, telling, token_texts, word_numbers
from embedspace.space import token_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

Information = Literal["vocabulary", "surprisal"]


def _from_vocabulary(
    prompt: PromptEmbeds,
    space: EmbeddingSpace,
    engine: TransformersEngine | None,
    ids: Sequence[int],
    texts: Sequence[str],
) -> Tensor:
    return rarity(space, ids, texts)


def _from_surprisal(
    prompt: PromptEmbeds,
    space: EmbeddingSpace,
    engine: TransformersEngine | None,
    ids: Sequence[int],
    texts: Sequence[str],
) -> Tensor:
    if engine is None:
        raise ValueError("information='surprisal' asks a model: pass engine=TransformersEngine(...)")
    # What comes after the content changes nothing; without it, one passage is known under every question.
    content = prompt.content.cpu()
    told = prompt.first_rows(int(content.nonzero()[-1]) + 1)
    return surprisal(told, space, engine)[content[: len(told)]]


INFORMATION: dict[
    Information,
    Callable[[PromptEmbeds, EmbeddingSpace, TransformersEngine | None, Sequence[int], Sequence[str]], Tensor],
] = {"vocabulary": _from_vocabulary, "surprisal": _from_surprisal}


@dataclass(frozen=True)
class Told:
    """What is known of each row of a text."""

    information: Float[Tensor, " rows"]
    words: Int[Tensor, " rows"]
    """Number of the row's word, not falling."""
    telling: Bool[Tensor, " rows"]
    """Whether the row says what the text is about."""

    def __getitem__(self, rows: slice) -> Told:
        return Told(self.information[rows], self.words[rows], self.telling[rows])


def word_information(
    prompt: PromptEmbeds,
    space: EmbeddingSpace,
    engine: TransformersEngine | None,
    information: Information,
    words: bool,
) -> Told:
    """What is known of every content row."""
    ids = token_ids(space, prompt.content_vectors).tolist()
    texts = token_texts(space, ids)
    numbers = word_numbers(texts) if words else range(len(ids))
    return Told(
        INFORMATION[information](prompt, space, engine, ids, texts),
        torch.tensor(list(numbers)),
        torch.tensor(telling(ids, texts)),
    )


def salient(told: Told, length: int, *, opening: float, fold: float) -> Pooling:
    """The first telling words, then whole words by highest mean information while they fit, then single rows.

    Args:
        told: of each row.
        length: rows to keep.
        opening: share of these rows that goes to the first telling words.
        fold: weight, beside 1 for the kept row, of each row left out that is folded into the nearest kept one.
    """
    kept = _kept(told, length, opening)
    return chosen(kept) if fold == 0 else _folded(kept, len(told.words), fold)


def _kept(told: Told, length: int, opening: float) -> Tensor:
    information = told.information.double()
    _, numbers, sizes = told.words.unique_consecutive(return_inverse=True, return_counts=True)
    worth = information.new_zeros(len(sizes)).index_add_(0, numbers, information) / sizes
    worth[_first(told.telling, numbers, sizes, round(opening * length))] = torch.inf
    fits, left = torch.zeros(len(sizes), dtype=torch.bool), length
    for word in worth.argsort(descending=True, stable=True).tolist():
        if (size := int(sizes[word])) <= left:
            fits[word] = True
            left -= size
    kept = fits[numbers]
    best = information.masked_fill(kept, -torch.inf).argsort(descending=True, stable=True)
    kept[best[:left]] = True
    return kept.nonzero().flatten()


def _first(telling: Tensor, numbers: Tensor, sizes: Tensor, rows: int) -> Tensor:
    """Words with a telling row, from the first on until they fill so many rows."""
    words = numbers[telling].unique_consecutive()
    before = sizes[words].cumsum(0) - sizes[words]
    first: Tensor = words[before < rows]
    return first


def _folded(kept: Tensor, count: int, fold: float) -> Pooling:
    # A row half-way between two kept ones goes to the first.
    borders = (kept[:-1] + kept[1:]).div(2, rounding_mode="floor") + 1
    starts = torch.cat([borders.new_zeros(1), borders])
    sizes = starts.diff(append=torch.tensor([count]))
    weights = torch.full((count,), fold, dtype=torch.float64)
    weights[kept] = 1.0
    totals = 1 + fold * (sizes - 1).double()
    return Pooling(torch.arange(count), starts, weights / totals.repeat_interleave(sizes))
