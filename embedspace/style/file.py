"""Reading the safetensors file of a style vector, which may be anything."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import Recipe

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def read_style(path: Path, file_format: str) -> tuple[Float[Tensor, " hidden"], dict[str, str], Recipe]:
    """Vector, metadata and recipe of a file that ``StyleVector.save`` wrote.

    Raises:
        ValueError: no such file, a damaged one, or one of another kind.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            vector = file.get_tensor("vector") if "vector" in file.keys() else None  # noqa: SIM118
    except FileNotFoundError:
        raise ValueError(f"there is no file {path}; write one with StyleVector.save") from None
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cut short: {error}; save the style vector again") from error
    missing = [name for name in ("format", "space", "method", "recipe") if name not in metadata]
    if missing or metadata["format"] != file_format or vector is None:
        raise ValueError(
            f"{path} is not a file of StyleVector.save ({file_format}): its metadata is {metadata}"
            f"{', and it holds no tensor `vector`' if vector is None else ''}"
        )
    if vector.dtype != torch.float32 or vector.ndim != 1 or not bool(vector.isfinite().all()):
        raise ValueError(
            f"{path} must hold finite float32 numbers [hidden], it holds {vector.dtype} of shape "
            f"{list(vector.shape)}; save the style vector again"
        )
    try:
        return vector, metadata, Recipe.from_dict(json.loads(metadata["recipe"]))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"the recipe in the metadata of {path} cannot be read: {error!r}") from error
