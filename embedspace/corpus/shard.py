"""Shards: one safetensors file for a stretch of a corpus, named by its content.

A prompt has as many rows as it has tokens, so the rows of all prompts lie one after another in one tensor, and offsets
say where each begins: nothing is padded, and one prompt is one slice of a memory-mapped file.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from embedspace._util.files import file_digest
from embedspace._util.safetensors_file import encode_header, read_header
from embedspace.corpus.files import Refusal
from embedspace.corpus.tokens import TOKENIZE_BATCH_SIZE, Template, Tokens, tokens_of
from embedspace.space import EmbeddingSpace

if TYPE_CHECKING:
    import numpy.typing as npt

    Array = npt.NDArray[Any]

Payload = Literal["embeddings", "token_ids"]
"""Rows of the table, or the ids alone, from which the rows can be looked up again."""

FORMAT = "embedspace corpus 1"
_NAME = re.compile(r"shard-(\d{6,})-([0-9a-f]{32})\.safetensors")
_ROW_BATCH_SIZE = 4096
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16", "float64": "F64"}
_CODES = {"int64": "I64", "int32": "I32", "bool": "BOOL", "uint8": "U8"}


@dataclass(frozen=True)
class Shard:
    """What the manifest says about a shard."""

    number: int
    name: str
    """``shard-NUMBER-DIGEST.safetensors``; the digest is the first half of the file's SHA-256."""
    texts: int
    rows: int
    size: int
    refused: Mapping[str, str]
    """Number of a text in the corpus -> why it is no prompt."""


def make_shard(
    space: EmbeddingSpace,
    texts: Sequence[Any],
    folder: Path,
    *,
    number: int,
    first: int,
    what: Payload,
    template: Template,
    max_tokens: int | None,
    variables: Mapping[str, object] | None = None,
) -> Shard:
    """Tokenise the texts of a shard and write it, atomically: the same texts always make the same bytes.

    Memory is that of the token ids: rows are looked up and written a few thousand at a time.

    Raises:
        OSError: the shard cannot be written.
    """
    columns = _Columns(template)
    for start in range(0, len(texts), TOKENIZE_BATCH_SIZE):
        batch = texts[start : start + TOKENIZE_BATCH_SIZE]
        for tokens in tokens_of(space, batch, template, max_tokens, variables):
            columns.add(tokens)
    refused = {str(first + position): reason for position, reason in columns.refused.items()}
    metadata = {
        "format": FORMAT,
        "what": what,
        "template": template,
        "space": space.fingerprint,
        "first": str(first),
        "refused": json.dumps(refused, ensure_ascii=False),
    }
    arrays, ids = columns.arrays(), columns.ids()
    specs = {name: (_CODES[str(array.dtype)], list(array.shape)) for name, array in arrays.items()}
    pieces: dict[str, Iterable[memoryview]] = {
        name: [array.view(np.uint8).reshape(-1).data] for name, array in arrays.items()
    }
    if what == "embeddings":
        code = _DTYPES[str(space.dtype).removeprefix("torch.")]
        specs["vectors"] = code, [len(ids), space.hidden_size]
        pieces["vectors"] = _rows(space, ids)
    order = [name for name in ("offsets", "ends", "ids", "vectors", "content", "said") if name in specs]
    header = encode_header({name: specs[name] for name in order}, metadata)
    path = _write(folder, number, itertools.chain([header], *(pieces[name] for name in order)))
    return Shard(number, path.name, len(texts), len(ids), path.stat().st_size, refused)


def number_of(path: Path) -> int | None:
    """The number of a shard's file; None for any other file."""
    named = _NAME.fullmatch(path.name)
    return int(named[1]) if named else None


def is_whole(path: Path) -> bool:
    """Whether the bytes of a shard are those that were written: its name holds their digest."""
    named = _NAME.fullmatch(path.name)
    if named is None:
        return False
    return file_digest(path).startswith(named[2])


def summary_of(path: Path) -> Shard:
    """The manifest's entry of a shard that is there already.

    Raises:
        ValueError: it is damaged.
    """
    number = number_of(path)
    if number is None:
        raise ValueError(f"{path} is not named like a shard")
    _, header = read_header(path)
    texts, rows = header["offsets"]["shape"][0] - 1, header["ids"]["shape"][0]
    refused = json.loads(header["__metadata__"]["refused"])
    return Shard(number, path.name, texts, rows, path.stat().st_size, refused)


class _Columns:
    """The prompts of a shard, as they become flat arrays."""

    def __init__(self, template: Template) -> None:
        self.refused: dict[int, str] = {}
        self._chat = template == "chat"
        self._ids = array("i")  # grows as a list does, at four bytes a token
        self._content = bytearray()
        self._texts: list[bytes] = []
        self._lengths: list[int] = []

    def add(self, tokens: Tokens | Refusal) -> None:
        if isinstance(tokens, Refusal):
            self.refused[len(self._lengths)] = tokens.reason
            self._lengths.append(0)
            self._texts.append(b"")
            return
        self._ids.extend(tokens.ids)
        if tokens.content is not None:
            self._content.extend(tokens.content)
        self._lengths.append(len(tokens.ids))
        self._texts.append(tokens.text.encode())

    def ids(self) -> Array:
        return np.frombuffer(self._ids, dtype=np.int32)

    def arrays(self) -> dict[str, Array]:
        arrays = {
            "offsets": np.cumsum([0, *self._lengths], dtype=np.int64),
            "ends": np.cumsum([0, *map(len, self._texts)], dtype=np.int64),
            "ids": self.ids(),
            "said": np.frombuffer(b"".join(self._texts), dtype=np.uint8),
        }
        if self._chat:
            arrays["content"] = np.frombuffer(self._content, dtype=bool)
        return arrays


def _rows(space: EmbeddingSpace, ids: Array) -> Iterator[memoryview]:
    import torch

    for start in range(0, len(ids), _ROW_BATCH_SIZE):
        chunk = torch.from_numpy(ids[start : start + _ROW_BATCH_SIZE].astype(np.int64))
        yield space.table.lookup(chunk).contiguous().flatten().view(torch.uint8).numpy().data


def _write(folder: Path, number: int, pieces: Iterable[bytes | memoryview]) -> Path:
    """Write a file whose name holds the digest of its bytes, so that it is known only at the end."""
    draft = folder / f"shard-{number:06d}.{os.getpid()}.draft"
    digest = hashlib.sha256()
    try:
        with draft.open("wb") as file:
            for piece in pieces:
                digest.update(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        return draft.replace(folder / f"shard-{number:06d}-{digest.hexdigest()[:32]}.safetensors")
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
