"""Prompts of different lengths as one batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from torch import Tensor


def padded(
    prompts: Sequence[Shaped[Tensor, "tokens ..."]], shared: int = 0
) -> tuple[Shaped[Tensor, "prompts tokens ..."], Int[Tensor, "prompts tokens"]]:
    """The batch, and 1 where it is no padding.

    The padding stands before what the prompts do not share: with no shared rows, at the left.
    """
    longest = max(map(len, prompts))
    batch = prompts[0].new_zeros(len(prompts), longest, *prompts[0].shape[1:])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, seen, prompt in zip(batch, mask, prompts, strict=True):
        own = longest - len(prompt) + shared
        row[:shared], row[own:] = prompt[:shared], prompt[shared:]
        seen[:shared] = seen[own:] = 1
    return batch, mask
