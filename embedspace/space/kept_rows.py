"""Which rows of a prompt a compression left out, read from the two prompts."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from embedspace.space.nearest_rows import match_tokens

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds, Recipe
    from embedspace.space.conversation import Conversation
    from embedspace.space.embedding_space import EmbeddingSpace

_KEEPING = ("salience", "truncate", "drop")
"""Methods of compression whose rows are rows of the prompt before it."""


def kept_rows(space: EmbeddingSpace, before: PromptEmbeds, after: PromptEmbeds) -> list[bool]:
    """For each row of a prompt, whether it is still there after a compression that keeps rows, and in their order.

    A word that stands twice and is kept once counts where it stands beside other kept rows.
    """
    whole, part = (match_tokens(space, prompt.vectors).ids.tolist() for prompt in (before, after))
    places = {place for place, _ in common_places(whole, part)}
    return [place in places for place in range(len(whole))]


def before_compression(space: EmbeddingSpace, recipe: Recipe) -> PromptEmbeds | None:
    """The prompt that was compressed, made again from the recipe; None where it is no such recipe or does not say.

    >>> from embedspace import EmbeddingSpace, compress
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompt = space.embed("The museum in Lyon opens at nine.")
    >>> len(before_compression(space, compress(prompt, ratio=2).recipe)) == len(prompt)
    True
    """
    if recipe.operation != "compress" or dict(recipe.parameters).get("method") not in _KEEPING:
        return None
    source = recipe.inputs[0]
    given = dict(source.parameters)
    if source.operation == "embed":
        return space.embed(str(given["text"]), special_tokens=bool(given.get("special_tokens", False)))
    if source.operation != "embed_chat" or source.inputs:
        return None
    return embed_recorded_chat(space, given, json.loads(str(given["messages"])))


def embed_recorded_chat(
    space: EmbeddingSpace, given: Mapping[str, Any], messages: Conversation
) -> PromptEmbeds:
    """A conversation with the settings of a recorded ``embed_chat``."""
    return replace(space, template={}).embed_chat(  # the recipe has all variables
        messages,
        given["add_generation_prompt"],
        continue_final_message=given.get("continue_final_message", False),
        template=json.loads(given.get("template", "{}")),
    )


def common_places(whole: Sequence[int], part: Sequence[int]) -> list[tuple[int, int]]:
    """Places of equal elements in both, in order: as many as possible, and of those side by side as many as possible.

    >>> common_places([1, 2, 1, 3], [1, 3])
    [(2, 0), (3, 1)]
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
            places.append((j - 1, i - 1))
            before = matched[i - 1, j - 1]
            side_by_side = bool(before > 0 and matched[i, j] == before + 1 + gain)
            i, j = i - 1, j - 1
        elif best[i, j] == best[i - 1, j]:
            i -= 1
        else:
            j -= 1
    return places[::-1]
