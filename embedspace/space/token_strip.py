"""The token strip of a prompt, with the words of its space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from embedspace.prompt import MAX_STRIP_ROWS, PromptEmbeds, TokenRow, TokenStrip, register_reader
from embedspace.space.embedding_space import EmbeddingSpace, find_space, resolve_space
from embedspace.space.nearest_rows import match_tokens
from embedspace.space.token_texts import token_texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor


def token_strip(prompt: PromptEmbeds, space: EmbeddingSpace | None = None) -> TokenStrip:
    """The rows of a prompt with their nearest words, the distance from these and their norms.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> [row.text for row in token_strip(space.embed("Bread rises.")).rows]
    ['B', 'read', ' rises', '.']

    Raises:
        ValueError: rows that are not finite, or of a space that is not loaded.
    """
    space = resolve_space(prompt, space, "a token strip needs the vocabulary")
    return strip_of_rows(space, prompt.vectors, prompt.content)


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


def _read(vectors: Tensor, content: Tensor, fingerprint: str) -> TokenStrip | None:
    space = find_space(fingerprint)
    return None if space is None else strip_of_rows(space, vectors, content)


register_reader(_read)
