"""Directions from one set of examples to another: the closed-form methods of StyleVector.fit, and their recipes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.prompt import PromptEmbeds, Recipe, require_content, require_finite

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

Direction = Literal["mean_difference", "pca", "logistic"]


def example_rows(
    space: EmbeddingSpace, examples: Sequence[str | PromptEmbeds], side: str
) -> Float[Tensor, "examples hidden"]:
    """Mean content row of every example, float64.

    Raises:
        TypeError: an example that is neither a string nor a prompt, or a bare string in place of the list.
        ValueError: fewer than two examples, or an empty, infinite or foreign one.
    """
    if isinstance(examples, str):
        raise TypeError(
            f"{side} must be a list of examples, got the string {examples[:40]!r}; put it into a list"
        )
    if len(examples) < 2:
        raise ValueError(
            f"{side} has {len(examples)} examples and at least 2 are needed: with one, its style cannot be "
            "separated from its content"
        )
    return torch.stack([_mean_row(space, example, f"{side}[{n}]") for n, example in enumerate(examples)])


def fit_direction(
    positive: Float[Tensor, "positive hidden"], negative: Float[Tensor, "negative hidden"], method: Direction
) -> Float[Tensor, " hidden"]:
    """The direction from negative to positive rows, float32, of the norm of their mean difference.

    Examples and sides are sorted first: the order of the examples changes nothing, and swapping the sides changes the
    sign alone.

    >>> fit_direction(torch.tensor([[2.0, 0.0], [4.0, 0.0]]), torch.zeros(2, 2), "mean_difference").tolist()
    [3.0, 0.0]

    Raises:
        ValueError: the means of the two sides are equal.
    """
    swapped = sorted(map(_key, positive)) < sorted(map(_key, negative))
    low, high = (positive, negative) if swapped else (negative, positive)
    difference = _mean_difference(high, low)
    if not bool(difference.float().any()):
        raise ValueError(
            "the positive and the negative examples have the same mean, so no direction leads from one to the "
            "other; give examples that differ in style"
        )
    direction = DIRECTIONS[method](high, low)
    scaled: Tensor = direction * (difference.norm() / direction.norm())
    return (-scaled if swapped else scaled).float()


def _sorted_rows(rows: Float[Tensor, "examples hidden"]) -> Float[Tensor, "examples hidden"]:
    """The rows in an order that depends on their values alone."""
    return rows[sorted(range(len(rows)), key=lambda row: _key(rows[row]))]


def _mean_difference(high: Tensor, low: Tensor) -> Tensor:
    return _mean(high) - _mean(low)


def _first_principal(high: Tensor, low: Tensor) -> Tensor:
    difference = _mean_difference(high, low)
    if len(high) == len(low):
        pairs = sorted(range(len(high)), key=lambda pair: (_key(high[pair]), _key(low[pair])))
        rows = high[pairs] - low[pairs]
    else:
        rows = _sorted_rows(torch.cat([high, low]))
        rows = rows - _mean(rows)
    direction: Tensor = torch.linalg.svd(rows, full_matrices=False).Vh[0]
    return direction if direction @ difference >= 0 else -direction


def _separating(high: Tensor, low: Tensor) -> Tensor:
    from sklearn.linear_model import LogisticRegression

    rows = torch.cat([_sorted_rows(high), _sorted_rows(low)])
    labels = [1] * len(high) + [0] * len(low)
    spread = rows.std()
    standardised = (rows - _mean(rows)) / spread
    model = LogisticRegression(class_weight="balanced", max_iter=1000).fit(standardised.numpy(), labels)
    return torch.from_numpy(model.coef_[0])


DIRECTIONS: dict[Direction, Callable[[Tensor, Tensor], Tensor]] = {
    "mean_difference": _mean_difference,
    "pca": _first_principal,
    "logistic": _separating,
}


def _mean_row(space: EmbeddingSpace, example: str | PromptEmbeds, name: str) -> Tensor:
    if not isinstance(example, str | PromptEmbeds):
        raise TypeError(f"{name} must be a string or a PromptEmbeds, got a {type(example).__name__}")
    if isinstance(example, str) and not example.strip():
        raise ValueError(f"{name} is an empty text; leave it out")
    prompt = space.embed(example, special_tokens=False) if isinstance(example, str) else example
    space.require(prompt)
    require_content(prompt, name)
    require_finite(prompt, name)
    return prompt.content_vectors.cpu().double().mean(dim=0)


def _mean(rows: Tensor) -> Tensor:
    """Mean over rows, bit-identical in any order of the rows: the summands are sorted first."""
    return rows.sort(dim=0).values.sum(dim=0) / len(rows)


def _key(row: Tensor) -> bytes:
    return row.numpy().tobytes()


Example = str | PromptEmbeds


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


def _sortable(example: Example) -> tuple[bool, str, Recipe | None]:
    """Whether it is a prompt, its text or digest, and its recipe."""
    return (
        (False, example, None) if isinstance(example, str) else (True, example.recipe.digest, example.recipe)
    )
