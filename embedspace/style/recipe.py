"""Recipes of style vectors: how examples and row masks are recorded and read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import PromptEmbeds, Recipe

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

Example = str | PromptEmbeds

_MASK = "mask:"


def fit_recipe(method: str, positive: Sequence[Example], negative: Sequence[Example]) -> Recipe:
    """The recipe of a fitted vector: texts as they are, embedded prompts by their own recipes.

    The examples are sorted, since their order does not change the vector; for ``pca`` of lists of equal length, the
    pairs are.
    """
    sides = [[_sortable(example) for example in side] for side in (positive, negative)]
    if method == "pca" and len(positive) == len(negative):
        pairs = sorted(zip(*sides, strict=True), key=lambda pair: (pair[0][:2], pair[1][:2]))
        sides = [list(side) for side in zip(*pairs, strict=True)]
    else:
        sides = [sorted(side, key=lambda entry: entry[:2]) for side in sides]
    texts = [
        json.dumps([text if recipe is None else None for _, text, recipe in side], ensure_ascii=False)
        for side in sides
    ]
    recipes = [recipe for side in sides for _, _, recipe in side if recipe is not None]
    return Recipe.of("fit_style", {"method": method, "positive": texts[0], "negative": texts[1]}, *recipes)


def examples(
    recipe: Recipe, rebuild: Callable[[Recipe], PromptEmbeds]
) -> tuple[list[Example], list[Example]]:
    """Positive and negative examples of a recipe that :func:`fit_recipe` made.

    Args:
        recipe: of a fitted vector.
        rebuild: builds the prompt of a recipe.

    Raises:
        ValueError: the recipe holds no examples.
    """
    inputs = iter(recipe.inputs)
    parameters = dict(recipe.parameters)
    sides: list[list[Example]] = []
    for name in ("positive", "negative"):
        try:
            texts = json.loads(str(parameters[name]))
        except (KeyError, ValueError):
            texts = None
        if not isinstance(texts, list):
            raise ValueError(
                "the style vector's recipe holds only a digest of its examples; give the file that StyleVector.save "
                "wrote (--vector FILE)"
            )
        sides.append([rebuild(next(inputs)) if text is None else str(text) for text in texts])
    return sides[0], sides[1]


def mask_as_text(mask: Bool[Tensor, " tokens"]) -> str:
    """A row mask as a recipe records it.

    >>> mask_as_text(torch.tensor([True, False]))
    'mask:10'
    """
    return _MASK + "".join(str(int(marked)) for marked in mask.tolist())


def mask_from_text(text: str) -> Bool[Tensor, " tokens"] | None:
    """The inverse of :func:`mask_as_text`; None for the name of a row selection.

    >>> mask_from_text("mask:10")
    tensor([ True, False])
    >>> mask_from_text("content")
    """
    return torch.tensor([bit == "1" for bit in text[len(_MASK) :]]) if text.startswith(_MASK) else None


def _sortable(example: Example) -> tuple[bool, str, Recipe | None]:
    """Whether it is a prompt, its text or digest, and its recipe."""
    return (
        (False, example, None) if isinstance(example, str) else (True, example.recipe.digest, example.recipe)
    )
