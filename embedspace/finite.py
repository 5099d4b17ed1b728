"""Refuse prompts with NaN or infinite rows before they spread."""

from __future__ import annotations

import torch

from embedspace.prompt import PromptEmbeds


def require_finite(prompt: PromptEmbeds, operation: str) -> None:
    """Raise ``ValueError``, naming the rows, where a prompt holds NaN or infinity.

    The sum of all values shows in one pass whether one of them is not finite; only then is it looked for.
    """
    if bool(prompt.vectors.sum(dtype=torch.float32).isfinite()):
        return
    bad = (~prompt.vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
    if bad:
        shown = ", ".join(map(str, bad[:5])) + (", ..." if len(bad) > 5 else "")
        raise ValueError(
            f"{operation} needs finite rows; {len(bad)} of {len(prompt)} rows hold NaN or infinity (row {shown})"
        )
