"""Salience: the most informative words are kept, the rest is dropped or averaged into them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, assert_never

import torch

from embedspace.compression.pooling import Pooling, chosen
from embedspace.compression.token_information import (
    is_informative,
    surprisal,
    token_information,
    token_texts,
    word_numbers,
)
from embedspace.space import token_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

Information = Literal["vocabulary", "surprisal"]


@dataclass(frozen=True)
class TokenFeatures:
    """What salience knows of each row."""

    information: Float[Tensor, " rows"]
    """In nats."""
    words: Int[Tensor, " rows"]
    """Number of the row's word, in ascending order."""
    informative: Bool[Tensor, " rows"]
    """Whether the row is a number or a word that is not among the most frequent."""

    def __getitem__(self, rows: slice) -> TokenFeatures:
        return TokenFeatures(self.information[rows], self.words[rows], self.informative[rows])


def token_features(
    prompt: PromptEmbeds,
    space: EmbeddingSpace,
    engine: TransformersEngine | None,
    information: Information,
    words: bool,
) -> TokenFeatures:
    """Features of every content row.

    Raises:
        ValueError: surprisal without an engine, or of a prompt beyond its context.
    """
    ids = token_ids(space, prompt.content_vectors).tolist()
    texts = token_texts(space, ids)
    numbers = word_numbers(texts) if words else range(len(ids))
    match information:
        case "vocabulary":
            values = token_information(space, ids, texts)
        case "surprisal":
            values = _content_surprisal(prompt, space, engine)
        case _:
            assert_never(information)
    return TokenFeatures(values, torch.tensor(list(numbers)), torch.tensor(is_informative(ids, texts)))


def _content_surprisal(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine | None
) -> Float[Tensor, " rows"]:
    if engine is None:
        raise ValueError("information='surprisal' needs a model: pass engine=TransformersEngine(...)")
    # Rows after the content change nothing; without them, a passage is scored once for all questions.
    content = prompt.content.cpu()
    leading = prompt.first_rows(int(content.nonzero()[-1]) + 1)
    return surprisal(leading, space, engine)[content[: len(leading)]]


def salient(features: TokenFeatures, length: int, *, opening: float, fold: float) -> Pooling:
    """The first informative words, then whole words by highest mean information while they fit, then single rows.

    Args:
        features: of each row.
        length: rows to keep.
        opening: share of these rows for the first informative words.
        fold: weight of each dropped row in the nearest kept one, whose own weight is 1.
    """
    kept = _kept_rows(features, length, opening)
    return chosen(kept) if fold == 0 else _folded(kept, len(features.words), fold)


def _kept_rows(features: TokenFeatures, length: int, opening: float) -> Tensor:
    information = features.information.double()
    _, numbers, sizes = features.words.unique_consecutive(return_inverse=True, return_counts=True)
    scores = information.new_zeros(len(sizes)).index_add_(0, numbers, information) / sizes
    scores[_opening_words(features.informative, numbers, sizes, round(opening * length))] = torch.inf
    fits, left = torch.zeros(len(sizes), dtype=torch.bool), length
    for word in scores.argsort(descending=True, stable=True).tolist():
        if (size := int(sizes[word])) <= left:
            fits[word] = True
            left -= size
    kept = fits[numbers]
    best = information.masked_fill(kept, -torch.inf).argsort(descending=True, stable=True)
    kept[best[:left]] = True
    return kept.nonzero().flatten()


def _opening_words(informative: Tensor, numbers: Tensor, sizes: Tensor, rows: int) -> Tensor:
    """The first words with an informative row, until they fill ``rows`` rows."""
    words = numbers[informative].unique_consecutive()
    before = sizes[words].cumsum(0) - sizes[words]
    first: Tensor = words[before < rows]
    return first


def _folded(kept: Tensor, count: int, fold: float) -> Pooling:
    # A row halfway between two kept ones goes to the first.
    borders = (kept[:-1] + kept[1:]).div(2, rounding_mode="floor") + 1
    starts = torch.cat([borders.new_zeros(1), borders])
    sizes = starts.diff(append=torch.tensor([count]))
    weights = torch.full((count,), fold, dtype=torch.float64)
    weights[kept] = 1.0
    totals = 1 + fold * (sizes - 1).double()
    return Pooling(torch.arange(count), starts, weights / totals.repeat_interleave(sizes))
