"""Safetensors files: read with errors that say what to do, written whole or not at all; and the format's header."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.files import atomic_write

if TYPE_CHECKING:
    from torch import Tensor

MAX_HEADER_BYTES = 25_000_000
"""The limit that safetensors and the hub agree on."""
ITEM_BYTES = {
    "F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I64": 8, "I32": 4, "U8": 1, "BOOL": 1,
}  # fmt: skip
"""Size of one number, by the format's name of its dtype."""


def open_tensors(path: Path, *, advice: str, absent: str | None = None) -> Any:
    """A ``safetensors.safe_open`` of a file, memory-mapped; use it as a context manager.

    Args:
        path: the file.
        advice: what to do about a damaged file; it ends the message.
        absent: the message for a missing file; by default the same as for a damaged one.

    Raises:
        ValueError: no such file, or a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        if absent is not None and isinstance(error, FileNotFoundError):
            raise ValueError(absent) from None
        raise ValueError(f"{path} is damaged or cut short: {error}; {advice}") from error


def read_tensors(
    path: Path, *, advice: str, absent: str | None = None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a file and its metadata; arguments and errors of :func:`open_tensors`."""
    from safetensors import SafetensorError

    with open_tensors(path, advice=advice, absent=absent) as file:
        try:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
        except SafetensorError as error:
            raise ValueError(f"{path} cannot be read: {error}; {advice}") from error


def tensor_bytes(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> bytes:
    """Tensors as the bytes of a safetensors file."""
    from safetensors.torch import save

    stored = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    whole: bytes = save(stored, None if metadata is None else dict(metadata))
    return whole


def save_tensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None
) -> None:
    """Write a safetensors file, atomically; its folder is made if missing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(path, tensor_bytes(tensors, metadata))


def encode_header(specs: Mapping[str, tuple[str, Sequence[int]]], metadata: Mapping[str, str]) -> bytes:
    """The bytes before the data, for a file that is written piece by piece because it does not fit into memory.

    Args:
        specs: dtype (as the format names it) and shape of each tensor, in the order of their data.
        metadata: of the file.
    """
    described: dict[str, Any] = {"__metadata__": dict(metadata)}
    offset = 0
    for name, (code, shape) in specs.items():
        end = offset + ITEM_BYTES[code] * math.prod(shape)
        described[name] = {"dtype": code, "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(described, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def header_length(prefix: bytes, source: object) -> int:
    """Length of the header in bytes, from the first 8 bytes of a file.

    Raises:
        ValueError: ``source`` is not a safetensors file.
    """
    length = int.from_bytes(prefix, "little")
    if len(prefix) != 8 or not 2 <= length <= MAX_HEADER_BYTES:
        raise ValueError(f"{source} is not a safetensors file: its header would have {length} bytes")
    return length


def read_header(path: Path) -> tuple[int, dict[str, Any]]:
    """Where the data of a file begins, and its header.

    Raises:
        ValueError: the file is not a safetensors file, or its header is damaged.
    """
    with path.open("rb") as file:
        length = header_length(file.read(8), path)
        header = json.loads(file.read(length))
    if not isinstance(header, dict):
        raise ValueError(f"{path} is not a safetensors file: its header is not a JSON object")
    return 8 + length, header
