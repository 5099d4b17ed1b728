"""The token strip of a prompt, with the words of its space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedspace.prompt import MAX_STRIP_ROWS, PromptEmbeds, Recipe, TokenRow, TokenStrip, register_reader
from embedspace.space.embedding_space import EmbeddingSpace, find_space, resolve_space
from embedspace.space.kept_rows import before_compression, common_places
from embedspace.space.nearest_rows import match_tokens
from embedspace.space.token_texts import token_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

MAX_COMPARED_ROWS = 2000
"""Rows of a prompt before its compression that are compared with those after it; time grows with their product."""


def token_strip(prompt: PromptEmbeds, space: EmbeddingSpace | None = None) -> TokenStrip:
    """The rows of a prompt with their nearest words, the distance from these and their norms.

    Of a compressed prompt the rows that were left out are shown too, where its recipe tells what they were.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> [row.text for row in token_strip(space.embed("Bread rises.")).rows]
    ['B', 'read', ' rises', '.']

    Raises:
        ValueError: rows that are not finite, or of a space that is not loaded.
    """
    space = resolve_space(prompt, space, "a token strip needs the vocabulary")
    return _with_dropped(
        space, strip_of_rows(space, prompt.vectors, prompt.content), prompt.vectors, prompt.recipe
    )


def strip_of_rows(
    space: EmbeddingSpace,
    vectors: Float[Tensor, "tokens hidden"],
    content: Bool[Tensor, " tokens"],
    origins: Sequence[int] | None = None,
) -> TokenStrip:
    """The strip of rows; the first ``MAX_STRIP_ROWS`` are shown.

    Args:
        space: whose words.
        vectors: the rows.
        content: which of them are content.
        origins: tokens to compare the rows with, in place of the nearest ones, which take longer to find.
    """
    rows = vectors[:MAX_STRIP_ROWS].detach().cpu().float()
    tokens = list(match_tokens(space, rows).ids.tolist() if origins is None else origins[:MAX_STRIP_ROWS])
    centred = rows - space.mean
    words = space.table.lookup(tokens).float() - space.mean
    cosines = torch.nn.functional.cosine_similarity(centred, words, dim=1, eps=1e-12)
    distances = (1 - cosines).clamp_min(0)
    norms = rows.norm(dim=1) / space.norms.mean()
    shown = zip(
        token_texts(space, tokens),
        content[:MAX_STRIP_ROWS].tolist(),
        distances.tolist(),
        norms.tolist(),
        strict=True,
    )
    return TokenStrip(tuple(TokenRow(*each) for each in shown), max(0, len(vectors) - MAX_STRIP_ROWS))


def _with_dropped(
    space: EmbeddingSpace, strip: TokenStrip, vectors: Float[Tensor, "tokens hidden"], recipe: Recipe
) -> TokenStrip:
    """The strip with the rows that a compression left out, in their places; as it is where the recipe does not say."""
    if len(vectors) > MAX_STRIP_ROWS:
        return strip
    try:
        before = before_compression(space, recipe)
    except (ValueError, KeyError):  # a template that reads the clock, a recipe of another version
        return strip
    if before is None or len(before) > MAX_COMPARED_ROWS:
        return strip
    whole, part = (match_tokens(space, rows).ids.tolist() for rows in (before.vectors, vectors))
    texts, own = token_texts(space, whole), before.content.tolist()
    shown: list[TokenRow] = []
    last, last_kept = 0, 0
    for place, kept in [*common_places(whole, part), (len(whole), len(part))]:
        left_out = range(last, place)
        shown += strip.rows[last_kept:kept]
        shown += [TokenRow(texts[row], own[row], dropped=True) for row in left_out]
        shown += strip.rows[kept : kept + 1]
        last, last_kept = place + 1, kept + 1
    return TokenStrip(tuple(shown[:MAX_STRIP_ROWS]), max(0, len(shown) - MAX_STRIP_ROWS))


def _read(vectors: Tensor, content: Tensor, fingerprint: str, recipe: Recipe) -> TokenStrip | None:
    space = find_space(fingerprint)
    if space is None:
        return None
    return _with_dropped(space, strip_of_rows(space, vectors, content), vectors, recipe)


register_reader(_read)
