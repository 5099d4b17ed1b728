"""Row-wise arithmetic in float32 on rows of any dtype, a cacheful at a time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    Rows = Float[Tensor, "rows hidden"]

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


from typing import TYPE_CHECKING

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


def tensor_digest(tensor: Tensor) -> str:
    """Content hash (128 bits, hexadecimal) of a tensor's shape, dtype and values."""
    import hashlib

    flat = tensor.detach().cpu().contiguous()
    header = f"{list(flat.shape)} {flat.dtype} ".encode()
    data = flat.flatten().view(torch.uint8).numpy()
    return hashlib.blake2b(header + data.tobytes(), digest_size=16).hexdigest()


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


def evenly_spaced(rows: int, length: int, device: torch.device | None = None) -> Int[Tensor, " length"]:
    """Indices of ``length`` rows spread evenly over ``rows``: each one the row at the middle of its share."""
    return (2 * torch.arange(length, device=device) + 1) * rows // (2 * length)
