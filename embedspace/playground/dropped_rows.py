"""Which rows of a prompt a compression left out, read from the two prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from embedspace.space import match_tokens

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace


def kept_rows(space: EmbeddingSpace, before: PromptEmbeds, after: PromptEmbeds) -> list[bool]:
    """For each row of a prompt, whether it is still there after a compression that keeps rows, and in their order.

    A word that stands twice and is kept once counts where it stands beside other kept rows.
    """
    whole, part = (match_tokens(space, prompt.vectors).ids.tolist() for prompt in (before, after))
    places = set(subsequence(whole, part))
    return [place in places for place in range(len(whole))]


def subsequence(whole: Sequence[int], part: Sequence[int]) -> list[int]:
    """Places in ``whole`` of the elements of ``part``, in order: as many as possible, and of those side by side as many
    as possible.

    >>> subsequence([1, 2, 1, 3], [1, 3])
    [2, 3]
    """
    row, gain = np.asarray(whole), len(whole) + len(part) + 1
    # matched[i, j]: best score where element i - 1 of the part stands at place j - 1; best[i, j]: where it stands at
    # any place before j. An element counts `gain`, a pair side by side 1, so that the number of elements goes first.
    matched = np.zeros((len(part) + 1, len(whole) + 1), dtype=np.int64)
    best = np.zeros_like(matched)
    for i, element in enumerate(part, start=1):
        beside = np.where(matched[i - 1, :-1] > 0, matched[i - 1, :-1] + 1, 0)
        score = np.maximum(best[i - 1, :-1], beside) + gain
        matched[i, 1:] = np.where(row == element, score, 0)
        best[i] = np.maximum.accumulate(np.maximum(best[i - 1], matched[i]))
    places, i, j, side_by_side = [], len(part), len(whole), False
    while i and j:
        if side_by_side or best[i, j] == matched[i, j]:
            places.append(j - 1)
            before = matched[i - 1, j - 1]
            side_by_side = bool(before > 0 and matched[i, j] == before + 1 + gain)
            i, j = i - 1, j - 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return places[::-1]
