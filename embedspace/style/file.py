"""The file of a style vector: safetensors, with space, method, recipe and rows in the metadata."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import torch

from embedspace._util.safetensors_file import read_tensors, save_tensors
from embedspace.prompt import Recipe, Rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

FILE_FORMAT = "embedspace.style_vector.v1"


def write_vector(
    path: Path, vector: Float[Tensor, " hidden"], space: str, method: str, recipe: Recipe, rows: Rows
) -> None:
    """Write the file, atomically."""
    metadata = {
        "format": FILE_FORMAT,
        "space": space,
        "method": method,
        "recipe": json.dumps(recipe.to_dict(), ensure_ascii=False),
    }
    if rows != "content":  # which files of earlier versions do not name
        metadata["rows"] = rows
    save_tensors(path, {"vector": vector}, metadata)


def read_vector(path: Path, space: EmbeddingSpace) -> tuple[Float[Tensor, " hidden"], str, str, Recipe, Rows]:
    """Vector, fingerprint of its space, method, recipe and rows of a file that :func:`write_vector` wrote.

    Raises:
        ValueError: no such file, a damaged one or one of another format, or a vector of another space.
    """
    tensors, metadata = read_tensors(
        path,
        advice="save the style vector again",
        absent=f"there is no file {path}; write one with StyleVector.save",
    )
    vector = tensors.get("vector")
    if not {"format", "space", "method", "recipe"} <= metadata.keys() or metadata["format"] != FILE_FORMAT:
        raise ValueError(
            f"{path} is not a file of StyleVector.save ({FILE_FORMAT}): its metadata is {metadata}"
        )
    if vector is None:
        raise ValueError(
            f"{path} is not a file of StyleVector.save ({FILE_FORMAT}): it holds no tensor `vector`"
        )
    if vector.dtype != torch.float32 or vector.ndim != 1 or not bool(vector.isfinite().all()):
        raise ValueError(
            f"{path} must hold finite float32 numbers [hidden], it holds {vector.dtype} of shape "
            f"{list(vector.shape)}; save the style vector again"
        )
    if metadata["space"] != space.fingerprint or len(vector) != space.hidden_size:
        raise ValueError(
            f"{path} holds a style vector of the space {metadata['space']} (hidden {len(vector)}), not of "
            f"{space.name!r} ({space.fingerprint}, hidden {space.hidden_size}); fit it again in this space"
        )
    rows = metadata.get("rows", "content")
    if rows not in get_args(Rows):
        raise ValueError(f"{path} names the rows {rows!r}; known are {', '.join(get_args(Rows))}")
    try:
        recipe = Recipe.from_dict(json.loads(metadata["recipe"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the recipe in the metadata of {path} cannot be read: {error!r}") from error
    return vector, metadata["space"], metadata["method"], recipe, rows  # type: ignore[return-value]
