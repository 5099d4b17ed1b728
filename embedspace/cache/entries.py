"""One entry of the cache: a prompt as safetensors bytes that name their own key, with a checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedspace.prompt import CACHE_FORMAT, PromptEmbeds, Recipe, require_key

if TYPE_CHECKING:
    from torch import Tensor

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "BOOL": torch.bool,
}
"""As safetensors names them."""


def encode_entry(key: bytes, prompt: PromptEmbeds) -> bytes:
    """A prompt as safetensors bytes: vectors and content; key, space and recipe in the metadata.

    Raises:
        TypeError: vectors of a dtype that is not kept here.
    """
    from safetensors.torch import save

    if prompt.vectors.dtype not in DTYPES.values():
        raise TypeError(
            f"a cache keeps vectors of float64, float32, float16 and bfloat16, got {prompt.vectors.dtype}; cast "
            "with .to(dtype)"
        )
    tensors = {"vectors": prompt.vectors, "content": prompt.content}
    metadata = {
        "format": str(CACHE_FORMAT),
        "key": key.hex(),
        "space": prompt.space,
        "recipe": json.dumps(prompt.recipe.to_dict()),
    }
    whole: bytes = save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata
    )
    return whole


def decode_entry(key: bytes, value: bytes | None, expected: bytes) -> PromptEmbeds:
    """The prompt that :func:`encode_entry` wrote, in memory of its own.

    Args:
        key: under which the value was found.
        value: as it was found.
        expected: the checksum that was kept apart from the value.

    Raises:
        ValueError: not bit for bit what was written under this key.
    """
    if not isinstance(value, bytes) or checksum(key, value) != expected:
        raise ValueError("the value is not the one that was written: its checksum differs")
    try:
        start = 8 + int.from_bytes(value[:8], "little")
        header = json.loads(value[8:start])
        metadata = header["__metadata__"]
        # A row that is found through a damaged index has a good checksum and another entry's key.
        if metadata["format"] != str(CACHE_FORMAT) or metadata["key"] != key.hex():
            raise ValueError(f"the value belongs to the key {metadata['key']} of format {metadata['format']}")
        data = bytearray(memoryview(value)[start:])
        vectors, content = (_tensor(header[name], data) for name in ("vectors", "content"))
        recipe = Recipe.from_dict(json.loads(metadata["recipe"]))
        return PromptEmbeds(vectors, content, metadata["space"], recipe)
    except (KeyError, TypeError, AttributeError, RuntimeError) as error:
        raise ValueError(f"the value is not an entry of a cache: {error!r}") from error


def _tensor(entry: Mapping[str, Any], data: bytearray) -> Tensor:
    """One tensor of a safetensors file in the memory of its data: the library's own reader copies twice more."""
    start, stop = entry["data_offsets"]
    dtype = DTYPES[entry["dtype"]]
    return torch.frombuffer(data, dtype=dtype, count=(stop - start) // dtype.itemsize, offset=start).view(
        entry["shape"]
    )


def checksum(key: bytes, value: bytes) -> bytes:
    """64 bits that tell any change of key or value, three times as fast as zlib's CRC-32.

    The value's words are summed with fixed odd weights modulo 2^64, block by block (multilinear hashing, Carter and
    Wegman 1979), so that a change within one word always shows and any other is missed once in 2^64 times; BLAKE2
    goes over the sums.
    """
    words = np.frombuffer(value, dtype="<u8", count=len(value) // 8)
    whole = len(words) // len(_WEIGHTS) * len(_WEIGHTS)
    digest = hashlib.blake2b(key + len(value).to_bytes(8, "little"), digest_size=8)
    digest.update((words[:whole].reshape(-1, len(_WEIGHTS)) @ _WEIGHTS).tobytes())
    digest.update(np.dot(words[whole:], _WEIGHTS[: len(words) - whole]).tobytes())
    digest.update(value[8 * len(words) :])
    return digest.digest()


_WEIGHTS = np.frombuffer(hashlib.shake_256(b"embedspace cache").digest(2**15), dtype="<u8") | np.uint64(1)


def encoded_batches(
    entries: Iterable[tuple[bytes, PromptEmbeds]], size: int
) -> Iterator[list[tuple[bytes, bytes]]]:
    """Keys and their values, in batches of at most ``size`` bytes; a larger value is a batch of its own.

    Raises:
        TypeError, ValueError: a bad key, or vectors of a dtype that is not kept here.
    """
    batch: dict[bytes, bytes] = {}
    held = 0
    for key, prompt in entries:
        value = encode_entry(require_key(key), prompt)
        if batch and held + len(value) > size:
            yield list(batch.items())
            batch, held = {}, 0
        batch[key] = value
        held += len(value)
    if batch:
        yield list(batch.items())
