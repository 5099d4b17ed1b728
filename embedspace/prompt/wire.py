"""The wire format of prompt embeddings: the base64 text that vLLM reads, checked on both sides."""

from __future__ import annotations

import base64
import binascii
import io
from typing import TYPE_CHECKING

import torch

from embedspace.prompt.prompt_embeds import PromptEmbeds
from embedspace.prompt.rows import describe_nonfinite_rows
from embedspace.prompt.saved_tensor import read_saved_tensor

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# Beside its data, a saved tensor is a few small zip entries of about 2 KB in all.
_OVERHEAD_BYTES = 8192


def preflight(
    prompt: PromptEmbeds | Tensor, *, hidden_size: int | None = None, max_rows: int | None = None
) -> None:
    """Check a prompt for what a server answers with an error or, worse, with an empty text.

    >>> preflight(torch.tensor([[0.0], [float("nan")]]))
    Traceback (most recent call last):
        ...
    ValueError: 1 of 2 rows hold NaN or infinity (row 1); a server would answer with an empty text

    Args:
        prompt: a prompt, or vectors of shape [tokens, hidden].
        hidden_size: what the model needs, where known.
        max_rows: largest number of rows that fits, where known.

    Raises:
        TypeError: not floating point.
        ValueError: another shape, NaN or infinite rows (named), another hidden size, or too long.
    """
    vectors = prompt.vectors if isinstance(prompt, PromptEmbeds) else prompt
    if vectors.dtype not in FLOATING:
        raise TypeError(f"prompt embeddings must be one of {_names(FLOATING)}, got {vectors.dtype}")
    if vectors.ndim != 2 or 0 in vectors.shape:
        raise ValueError(
            f"prompt embeddings must have shape [tokens, hidden] with at least one row, got {list(vectors.shape)}"
        )
    if hidden_size is not None and vectors.shape[1] != hidden_size:
        raise ValueError(
            f"the model has hidden size {hidden_size}, the prompt's rows have {vectors.shape[1]}; "
            "embed the prompt with the space of the model that answers"
        )
    if max_rows is not None and len(vectors) > max_rows:
        raise ValueError(
            f"the prompt has {len(vectors)} rows and at most {max_rows} fit beside the new tokens; "
            "shorten it (embedspace.compress) or serve the model with a longer context"
        )
    if fault := describe_nonfinite_rows(vectors):
        raise ValueError(f"{fault}; a server would answer with an empty text")


def encode_prompt_embeds(prompt: PromptEmbeds | Tensor, dtype: torch.dtype | None = None) -> str:
    """The base64 text that vLLM reads as ``prompt_embeds``.

    Args:
        prompt: a prompt, or vectors of shape [tokens, hidden].
        dtype: dtype on the wire; by default the vectors' own (bfloat16 from a bfloat16 space: half the
            bytes of float32, and the rows that a bfloat16 server computes with).

    Raises:
        TypeError, ValueError: as :func:`preflight`.

    >>> text = encode_prompt_embeds(torch.ones(3, 4))
    >>> decode_prompt_embeds(text, hidden_size=4).shape
    torch.Size([3, 4])
    """
    vectors = prompt.vectors if isinstance(prompt, PromptEmbeds) else prompt
    if dtype is not None:
        vectors = vectors.to(dtype)
    preflight(vectors)
    return encode_checked_vectors(vectors)


def encode_checked_vectors(vectors: Float[Tensor, "tokens hidden"]) -> str:
    """:func:`encode_prompt_embeds` for vectors that :func:`preflight` has accepted."""
    dense = vectors.detach().cpu().contiguous()
    if dense.untyped_storage().nbytes() != dense.nbytes:
        dense = dense.clone()  # torch.save stores the whole storage under a view
    buffer = io.BytesIO()
    torch.save(dense, buffer)
    return base64.b64encode(buffer.getbuffer()).decode("ascii")


def decode_prompt_embeds(
    text: str, *, hidden_size: int | None = None, max_bytes: int = 64 * 2**20
) -> Float[Tensor, "tokens hidden"]:
    """Prompt embeddings from the base64 text of an untrusted sender.

    The size is bounded before anything is decoded or allocated. The file inside must be, byte for byte, what
    ``torch.save`` writes for one dense floating-point tensor; nothing in it is unpickled or executed, and the time is
    linear in its size.

    Args:
        text: what :func:`encode_prompt_embeds` returns.
        hidden_size: refuse another one, where known.
        max_bytes: largest size of the tensor data.

    Raises:
        TypeError: not a string.
        ValueError: too large, not base64, anything but one dense tensor as ``torch.save`` writes it (compressed,
            sparse, a view, a parameter, torch's format before 1.6), not finite, or of another shape.

    >>> decode_prompt_embeds("not base64!")
    Traceback (most recent call last):
    ValueError: the payload is not base64: ...
    """
    if not isinstance(text, str):
        raise TypeError(f"prompt embeddings must be a base64 string, got a {type(text).__name__}")
    max_characters = 4 * -(-(max_bytes + _OVERHEAD_BYTES) // 3)
    if len(text) > max_characters:
        raise ValueError(
            f"the payload has {len(text)} characters; {max_characters} ({max_bytes} bytes of data) are allowed"
        )
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ValueError(f"the payload is not base64: {error}") from error
    tensor = read_saved_tensor(data)
    if tensor.nbytes > max_bytes:
        raise ValueError(f"the payload has {tensor.nbytes} bytes of data; {max_bytes} are allowed")
    preflight(tensor, hidden_size=hidden_size)
    return tensor


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
