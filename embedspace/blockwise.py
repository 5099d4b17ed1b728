"""Row-wise arithmetic in float32 on rows of any dtype, a cacheful at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

_ELEMENTS = 1 << 17
"""Of a block: 512 KB in float32, which stay in the cache between one operation and the next."""


def in_blocks(
    function: Callable[..., Tensor], *operands: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows hidden"]:
    """``function`` of the operands in float32, in the dtype of the first; it must treat each row by itself.

    The values are those of one call on whole operands. On a GPU it is one call.
    """
    # The order of a sum over a row follows the layout in memory, and with it the last bit.
    operands = tuple(operand.contiguous() for operand in operands)
    first = operands[0]
    size = len(first) if first.is_cuda else max(1, _ELEMENTS // first.shape[1])
    if size >= len(first):
        return function(*(operand.float() for operand in operands)).to(first.dtype)
    result = torch.empty_like(first)
    blocks = zip(*(operand.split(size) for operand in operands), strict=True)
    for place, block in zip(result.split(size), blocks, strict=True):
        place.copy_(function(*(piece.float() for piece in block)))
    return result
