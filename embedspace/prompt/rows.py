"""Tensors of rows, whatever they stand for: row-wise arithmetic in blocks, content hash, finiteness, even spacing."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

_BLOCK_ELEMENTS = 1 << 17
"""512 KB in float32, which stay in the processor's cache between one operation and the next."""


def in_blocks(
    function: Callable[..., Tensor], *operands: Float[Tensor, "rows hidden"]
) -> Float[Tensor, "rows hidden"]:
    """``function`` of the operands in float32, cast to the dtype of the first; it must treat each row by itself.

    The values are those of one call on whole operands. On a GPU it is one call.

    >>> in_blocks(torch.add, torch.tensor([[1.0, 2.0]]).half(), torch.tensor([[0.5, 0.5]]))
    tensor([[1.5000, 2.5000]], dtype=torch.float16)
    """
    # The order of a sum over a row follows the layout in memory, and with it the last bit.
    operands = tuple(operand.contiguous() for operand in operands)
    first = operands[0]
    size = len(first) if first.is_cuda else max(1, _BLOCK_ELEMENTS // first.shape[1])
    if size >= len(first):
        return function(*(operand.float() for operand in operands)).to(first.dtype)
    result = torch.empty_like(first)
    blocks = zip(*(operand.split(size) for operand in operands), strict=True)
    for place, block in zip(result.split(size), blocks, strict=True):
        place.copy_(function(*(piece.float() for piece in block)))
    return result


def tensor_digest(tensor: Tensor) -> str:
    """Content hash (128 bits, hexadecimal) of a tensor's shape, dtype and values.

    >>> tensor_digest(torch.zeros(2, 1)) == tensor_digest(torch.zeros(1, 2))
    False
    """
    flat = tensor.detach().cpu().contiguous()
    header = f"{list(flat.shape)} {flat.dtype} ".encode()
    data = flat.flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(header + data.tobytes(), digest_size=16).hexdigest()


def describe_nonfinite_rows(vectors: Float[Tensor, "tokens hidden"]) -> str | None:
    """Which rows hold NaN or infinity, for an error message; None where all are finite.

    The sum of all values shows in one pass whether one of them is not finite; only then is it looked for.

    >>> describe_nonfinite_rows(torch.tensor([[1.0], [torch.nan]]))
    '1 of 2 rows hold NaN or infinity (row 1)'
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


def evenly_spaced(rows: int, length: int, device: torch.device | None = None) -> Int[Tensor, " length"]:
    """Indices of ``length`` rows spread evenly over ``rows``: each one the row at the middle of its share.

    >>> evenly_spaced(10, 3)
    tensor([1, 5, 8])
    """
    return (2 * torch.arange(length, device=device) + 1) * rows // (2 * length)
