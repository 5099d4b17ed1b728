"""The wire format of prompt embeddings: the base64 text that vLLM reads, checked on both sides."""

from __future__ import annotations

import base64
import binascii
import io
import pickletools
import re
import zipfile
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

import torch

from embedspace.prompt.prompt_embeds import PromptEmbeds
from embedspace.prompt.rows import describe_nonfinite_rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

R = TypeVar("R")

FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)

# What the pickle inside a saved dense tensor names, and nothing else.
_ALLOWED_GLOBALS = {
    "torch._utils _rebuild_tensor_v2",
    "collections OrderedDict",
    "torch FloatStorage",
    "torch BFloat16Storage",
    "torch HalfStorage",
    "torch DoubleStorage",
}
_STORAGE = re.compile(r"[^/]+/data/\d+")
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

    The size is bounded before anything is decoded or allocated; the pickle inside is scanned and may name
    nothing but a dense floating-point tensor; only then is it read, with ``weights_only=True``.

    Args:
        text: what :func:`encode_prompt_embeds` returns.
        hidden_size: refuse another one, where known.
        max_bytes: largest size of the tensor data.

    Raises:
        TypeError: not a string, or a tensor that is not floating point.
        ValueError: too large, not base64, not a saved tensor, compressed, expanded or sparse storage,
            not finite, or of another shape.

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
    data_bytes = _check_archive(data, max_bytes)
    try:
        tensor = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except Exception as error:  # torch raises a dozen types on bytes it cannot read
        raise ValueError(f"the payload is not a tensor saved by torch.save: {_short(error)}") from error
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.strided:
        raise ValueError(f"the payload holds a {type(tensor).__name__}, not one dense tensor")
    if tensor.untyped_storage().nbytes() != data_bytes:
        # Some releases of torch believe the pickle's size and read on behind the file's bytes.
        raise ValueError("the payload's description and its data have different sizes")
    if tensor.untyped_storage().nbytes() != tensor.numel() * tensor.itemsize or not tensor.is_contiguous():
        raise ValueError(
            f"the payload's tensor of shape {list(tensor.shape)} is a view of its storage (expanded, cut or "
            "transposed); save a contiguous clone"
        )
    preflight(tensor, hidden_size=hidden_size)
    return tensor


def _check_archive(data: bytes, max_bytes: int) -> int:
    """Check the zip file of ``torch.save`` without unpacking or running anything; returns the size of its storage."""
    archive = _unless_damaged(lambda: zipfile.ZipFile(io.BytesIO(data)))
    entries = archive.infolist()
    if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
        raise ValueError("the payload is compressed, which torch.save never does")
    if sum(entry.file_size for entry in entries) > max_bytes + _OVERHEAD_BYTES:
        raise ValueError(f"the payload declares more than {max_bytes} bytes")
    # torch finds entries by their names in any case, and might take another one than was looked at.
    if len({entry.filename.lower() for entry in entries}) != len(entries):
        raise ValueError("the payload has two entries of one name")
    storages = [entry.file_size for entry in entries if _STORAGE.fullmatch(entry.filename)]
    pickles = [entry for entry in entries if entry.filename.endswith("/data.pkl")]
    if len(pickles) != 1 or len(storages) != 1 or pickles[0].file_size > _OVERHEAD_BYTES:
        raise ValueError("the payload is not one tensor saved by torch.save")
    named = _named_globals(_unless_damaged(lambda: archive.read(pickles[0])))
    if not named <= _ALLOWED_GLOBALS:
        raise ValueError(
            f"the payload names {sorted(named - _ALLOWED_GLOBALS)}; only a dense tensor of "
            f"{_names(FLOATING)} is read"
        )
    return storages[0]


def _unless_damaged(read: Callable[[], R]) -> R:
    try:
        return read()
    except Exception as error:  # zipfile raises whatever the malformed bytes make it raise
        raise ValueError(f"the payload is not a file of torch.save: {_short(error)}") from error


def _named_globals(pickled: bytes) -> set[str]:
    """All globals that a pickle names, found by reading its opcodes and not by running them."""
    named = set()
    try:
        for opcode, argument, _ in pickletools.genops(pickled):
            if opcode.name == "GLOBAL":
                named.add(str(argument))
            elif opcode.name in {"STACK_GLOBAL", "INST", "EXT1", "EXT2", "EXT4"}:
                named.add(opcode.name)
    except Exception as error:  # pickletools raises what the malformed bytes make it raise
        raise ValueError(f"the payload's description is damaged: {_short(error)}") from error
    return named


def _names(dtypes: tuple[torch.dtype, ...]) -> str:
    return ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)


def _short(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
