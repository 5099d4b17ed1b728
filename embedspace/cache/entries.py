"""The entries of a cache: prompts as safetensors bytes with a checksum, and the rows of the file that hold them."""

from __future__ import annotations

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from embedspace._util.safetensors_file import tensor_bytes
from embedspace.cache.database import PAGE_BYTES, is_damage
from embedspace.cache.eviction import SPARE_PAGES, make_room, pages_of, remove_rows
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
READ_BATCH_SIZE = 64
"""Entries that one statement reads."""
_SELECT = "SELECT e.key, e.checksum, v.value FROM entries e LEFT JOIN vals v ON v.id = e.id"
_WEIGHTS = np.frombuffer(hashlib.shake_256(b"embedspace cache").digest(2**15), dtype="<u8") | np.uint64(1)


@dataclass(frozen=True)
class CacheStats:
    """What a cache holds, and the lookups of this object."""

    entries: int
    value_bytes: int
    """Sizes of all entries together."""
    file_bytes: int
    """Size of the file and its write-ahead log."""
    max_bytes: int
    hits: int
    misses: int
    damaged: int
    """Misses whose entry was there and was not what had been written."""


@dataclass(frozen=True)
class Pruned:
    """What a clean-up removed."""

    damaged: int
    evicted: int
    freed_bytes: int
    """Of the file and its write-ahead log."""


@dataclass(frozen=True)
class Verification:
    """What a check of every entry found."""

    entries: int
    damaged: tuple[bytes, ...]
    """Keys of the entries that are not what was written."""
    problems: tuple[str, ...]
    """What is wrong with the file itself."""

    @property
    def sound(self) -> bool:
        """Whether nothing is damaged."""
        return not self.damaged and not self.problems


def encode_entry(key: bytes, prompt: PromptEmbeds) -> bytes:
    """A prompt as safetensors bytes: vectors and content; key, space and recipe in the metadata.

    Raises:
        TypeError: vectors of a dtype that is not kept here.
    """
    if prompt.vectors.dtype not in DTYPES.values():
        raise TypeError(
            f"a cache keeps vectors of float64, float32, float16 and bfloat16, got {prompt.vectors.dtype}; cast "
            "with .to(dtype)"
        )
    metadata = {
        "format": str(CACHE_FORMAT),
        "key": key.hex(),
        "space": prompt.space,
        "recipe": json.dumps(prompt.recipe.to_dict()),
    }
    return tensor_bytes({"vectors": prompt.vectors, "content": prompt.content}, metadata)


def decode_entry(key: bytes, value: bytes | None, expected: bytes) -> PromptEmbeds:
    """The prompt that :func:`encode_entry` wrote, in memory of its own.

    Args:
        key: under which the value was found.
        value: as it was found.
        expected: the checksum that was stored apart from the value.

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
    """64 bits that change with key or value, three times as fast as zlib's CRC-32.

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


def read_rows(
    connection: sqlite3.Connection, keys: Sequence[bytes]
) -> Iterator[tuple[bytes, PromptEmbeds | None]]:
    """The entries of those keys that are there, in any order; None for one that is not what was written."""
    for start in range(0, len(keys), READ_BATCH_SIZE):
        batch = keys[start : start + READ_BATCH_SIZE]
        rows = connection.execute(f"{_SELECT} WHERE e.key IN ({','.join('?' * len(batch))})", batch)
        for key, stored, value in rows:
            try:
                yield key, decode_entry(key, value, stored)
            except ValueError:
                yield key, None


def write_rows(connection: sqlite3.Connection, rows: Sequence[tuple[bytes, bytes]], max_bytes: int) -> int:
    """Write keys and values, inside a transaction, evicting others as needed.

    Returns:
        How many were written: those that the bound has room for at all.
    """
    fitting = [
        (key, value) for key, value in rows if pages_of([value]) + SPARE_PAGES <= max_bytes // PAGE_BYTES
    ]
    remove_rows(connection, [key for key, _ in fitting])
    make_room(connection, [value for _, value in fitting], max_bytes)
    # Within a transaction, the later the entry the younger it counts.
    for now, (key, value) in enumerate(fitting, time.time_ns()):
        place = connection.execute("INSERT INTO vals (value) VALUES (?)", (value,)).lastrowid
        connection.execute(
            "INSERT INTO entries VALUES (?, ?, ?, ?, ?)", (key, place, len(value), checksum(key, value), now)
        )
    return len(fitting)


def check_file(connection: sqlite3.Connection) -> Verification:
    """Read every page and every entry.

    Raises:
        sqlite3.Error: the file cannot be read for another reason than damage.
    """
    entries, damaged, key = 0, list[bytes](), b""
    try:
        # Entry by entry: one long statement would keep the log from being written back.
        while row := connection.execute(
            f"{_SELECT} WHERE e.key > ? ORDER BY e.key LIMIT 1", (key,)
        ).fetchone():
            key, stored, value = row
            entries += 1
            try:
                decode_entry(key, value, stored)
            except ValueError:
                damaged.append(key)
        problems = structure_problems(connection)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        entries, problems = 0, [str(error)]
    return Verification(entries, tuple(damaged), tuple(problems))


def structure_problems(connection: sqlite3.Connection) -> list[str]:
    """What SQLite finds wrong with the file's own structure."""
    lines = [str(line, "utf-8", "replace") for (line,) in connection.execute("PRAGMA quick_check(10)")]
    return [line for line in lines if line != "ok"]
