"""Refuse prompts with NaN or infinite rows before they spread."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import PromptEmbeds

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


def require_finite(prompt: PromptEmbeds, operation: str) -> None:
    """Raise ``ValueError``, naming the rows, where a prompt holds NaN or infinity."""
    if fault := rows_not_finite(prompt.vectors):
        raise ValueError(f"{operation} needs finite rows; {fault}")


def rows_not_finite(vectors: Float[Tensor, "tokens hidden"]) -> str | None:
    """Which rows hold NaN or infinity, in words; None where all are finite.

    The sum of all values shows in one pass whether one of them is not finite; only then is it looked for.
    """
    # Sums of bfloat16 are quickest in their own dtype, and reach as far as those of float32.
    wide = torch.float32 if vectors.dtype == torch.float16 else None
    if math.isfinite(vectors.sum(dtype=wide).item()):
        return None
    bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if not bad:
        return None
    shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
    return f"{len(bad)} of {len(vectors)} rows hold NaN or infinity (row {shown})"
