"""The rows of a prompt that a vector is added to."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.prompt.prompt_embeds import PromptEmbeds, require_content

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

Rows = Literal["content", "last", "template", "all"]
"""Kinds of rows; ``last`` is the last content row, in a question its question mark."""


def row_mask(prompt: PromptEmbeds, rows: Rows | Bool[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
    """A mask of the selected rows, at least one.

    Args:
        prompt: whose rows.
        rows: their kind, or a boolean mask with one entry a row.

    Raises:
        ValueError: an unknown kind, a mask of another shape or dtype, or no rows.

    >>> from embedspace import Recipe
    >>> prompt = PromptEmbeds(torch.ones(3, 2), torch.tensor([False, True, True]), "a space", Recipe("example"))
    >>> row_mask(prompt, "last")
    tensor([False, False,  True])
    """
    if isinstance(rows, torch.Tensor):
        require_row_mask(rows, prompt, "rows")
        mask = rows.to(prompt.content.device)
    elif rows in _ROWS:
        mask = _ROWS[rows](prompt)
    else:
        raise ValueError(f"unknown rows {rows!r}; allowed are {', '.join(_ROWS)} or a boolean mask [tokens]")
    if not bool(mask.any()):
        if isinstance(rows, str) and rows in ("content", "last"):
            require_content(prompt, "a style shift")
        raise ValueError(f"no row of the prompt is marked in rows={rows!r}; mark at least one")
    return mask


def require_row_mask(mask: Tensor, prompt: PromptEmbeds, name: str) -> None:
    """Raise ``ValueError`` where an argument is no boolean mask with one entry for each of a prompt's rows."""
    if mask.dtype != torch.bool or mask.shape != prompt.content.shape:
        raise ValueError(
            f"{name} must be a boolean mask with one entry for each of the {len(prompt)} rows, "
            f"got {mask.dtype} of shape {list(mask.shape)}"
        )


def add_to_rows(
    prompt: PromptEmbeds, vector: Float[Tensor, " hidden"], rows: Rows
) -> Float[Tensor, "tokens hidden"]:
    """All rows of a prompt, with the vector added to the selected ones, in the vector's dtype and with its gradient."""
    return prompt.vectors.to(vector) + row_mask(prompt, rows).to(vector)[:, None] * vector


_MASK = "mask:"


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


def _last(prompt: PromptEmbeds) -> Tensor:
    mask = torch.zeros_like(prompt.content)
    mask[prompt.content.nonzero()[-1:, 0]] = True
    return mask


_ROWS: dict[Rows, Callable[[PromptEmbeds], Tensor]] = {
    "content": lambda prompt: prompt.content,
    "last": _last,
    "template": lambda prompt: ~prompt.content,
    "all": lambda prompt: torch.ones_like(prompt.content),
}
