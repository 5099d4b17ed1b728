"""One tensor of a safetensors file on a hub: found and fetched by its byte range, resumed where it broke off."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace.models.hub import BrokenOffError, patiently

LONGEST_HEADER = 25_000_000
"""Bytes; the limit that safetensors and the hub agree on."""
FLOAT_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


class ChangedError(Exception):
    """The file on the hub is not the one that the fetch began with."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a hub, and what is known of it."""

    url: str
    size: int | None
    """In bytes, where the hub's listing says."""
    identity: str | None
    """The SHA-256 of the whole file as the hub names it, else a strong entity tag; None where there is neither."""

    @property
    def by_content(self) -> bool:
        """Whether the identity is the content's own hash."""
        return self.identity is not None and not self.identity.startswith('"')

    @contextmanager
    def part(self, start: int, stop: int) -> Iterator[tuple[RemoteFile, Iterator[bytes]]]:
        """Bytes ``start`` to ``stop`` (not included), streamed; with them, what the answer tells of the file.

        Raises:
            ChangedError: the file is another one than this.
            ValueError: the server sends other bytes than it was asked for.
        """
        from huggingface_hub import constants, get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if self.identity is not None and not self.by_content:
            headers["If-Range"] = self.identity
        timeout = constants.HF_HUB_DOWNLOAD_TIMEOUT
        with get_session().stream("GET", self.url, headers=headers, timeout=timeout) as response:
            if response.status_code == 416:
                raise ValueError(
                    f"{self.url} is shorter than its header says; the file on the hub is damaged"
                )
            hf_raise_for_status(response)
            identity = _identity(response)
            if self.identity is not None and identity != self.identity:
                raise ChangedError(f"{self.url} is now {identity}, it was {self.identity}")
            total = _total(self.url, response, start, stop)
            if self.size is not None and total not in (None, self.size):
                raise ValueError(f"{self.url} has {total} bytes, and the hub's listing says {self.size}")
            # Raw, as they come in: nothing is compressed, and what has come is on the disk when the rest does not.
            yield RemoteFile(self.url, self.size or total, identity), response.iter_raw()

    def read(self, start: int, stop: int) -> tuple[RemoteFile, bytes]:
        """A small part, in memory."""

        def attempt() -> tuple[RemoteFile, bytes]:
            with self.part(start, stop) as (file, chunks):
                data = b"".join(_bounded(chunks, stop - start))
            if len(data) < stop - start:
                raise BrokenOffError(f"{self.url} broke off after {len(data)} of {stop - start} bytes")
            return file, data

        return patiently(attempt)


@dataclass(frozen=True)
class RemoteTensor:
    """Where the bytes of a tensor lie in a file on a hub."""

    file: RemoteFile
    name: str
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    start: int
    """Of its first byte in the file."""

    @classmethod
    def locate(cls, file: RemoteFile, names: Sequence[str]) -> RemoteTensor:
        """The first of some names that a safetensors file has; only the file's header is fetched.

        huggingface_hub's own call for a header would hold the whole file in memory if the server ignored
        ranges, and does not say where the data begin.

        Raises:
            ChangedError: the file changed meanwhile.
            ValueError: there is no such tensor, it is no table of floating-point rows, or the file is no
                safetensors file.
        """
        file, prefix = file.read(0, 8)
        length = int.from_bytes(prefix, "little")
        if not 2 <= length <= LONGEST_HEADER:
            raise ValueError(f"{file.url} is no safetensors file: its header would have {length} bytes")
        file, header = file.read(8, 8 + length)
        try:
            entries = json.loads(header)
            name = next(name for name in names if name in entries)
            dtype, shape = entries[name]["dtype"], tuple(map(int, entries[name]["shape"]))
            begin, end = map(int, entries[name]["data_offsets"])
        except StopIteration:
            raise ValueError(
                f"none of {list(names)} is in {file.url}; is this the checkpoint of another architecture?"
            ) from None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{file.url} is no safetensors file: its header is damaged ({error})") from error
        found = cls(file, name, dtype, shape, 8 + length + begin)
        found._check(end - begin)
        return found

    def _check(self, stored: int) -> None:
        if len(self.shape) != 2 or self.dtype not in FLOAT_BYTES:
            raise ValueError(
                f"{self.name} in {self.file.url} has shape {list(self.shape)} and dtype {self.dtype}; a table of "
                "floating-point rows is needed (a quantised checkpoint must be dequantised first)"
            )
        beyond = self.file.size is not None and self.start + stored > self.file.size
        if stored != self.length or beyond:
            raise ValueError(
                f"{self.name} in {self.file.url} is said to lie in {stored} bytes from {self.start}; it needs "
                f"{self.length}, and the file has {self.file.size}: the file on the hub is damaged"
            )

    @property
    def length(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * FLOAT_BYTES[self.dtype]

    def fetched(self, path: Path) -> int:
        """How many of the tensor's bytes an unfinished file holds; 0 where it was begun from another source."""
        head = self._header()
        try:
            with path.open("rb") as draft:
                same = draft.read(len(head)) == head
            size = path.stat().st_size - len(head)
        except FileNotFoundError:
            return 0
        return size if same and self.file.identity is not None and 0 < size <= self.length else 0

    def fetch(self, path: Path, advance: Callable[[int], None]) -> None:
        """Write a safetensors file with this tensor alone, going on where an earlier attempt broke off.

        Args:
            path: the file. It is whole only when this returns.
            advance: is called with the number of bytes that are there.

        Raises:
            ChangedError: the file changed since it was located.
            ValueError: the server sends other bytes than it was asked for.
            OSError: the disk is full, or the connection keeps breaking.
        """
        patiently(lambda: self._attempt(path, advance), progress=lambda: self.fetched(path))

    def _attempt(self, path: Path, advance: Callable[[int], None]) -> None:
        head, done = self._header(), self.fetched(path)
        with path.open("r+b" if done else "wb") as draft:
            draft.seek(len(head) + done) if done else draft.write(head)
            advance(done)
            if done < self.length:
                with self.file.part(self.start + done, self.start + self.length) as (_, chunks):
                    for chunk in _bounded(chunks, self.length - done):
                        draft.write(chunk)
                        done += len(chunk)
                        advance(done)
            draft.flush()
            os.fsync(draft.fileno())
        if done < self.length:
            raise BrokenOffError(f"{self.file.url} broke off after {done} of the table's {self.length} bytes")

    def _header(self) -> bytes:
        """A safetensors header for this tensor alone; it tells an unfinished file's source as well."""
        source = {"file": str(self.file.identity), "bytes": f"{self.start}-{self.start + self.length}"}
        entry = {"dtype": self.dtype, "shape": list(self.shape), "data_offsets": [0, self.length]}
        text = json.dumps({"__metadata__": {"format": "pt", **source}, self.name: entry}).encode()
        text += b" " * (-len(text) % 8)
        return len(text).to_bytes(8, "little") + text


def _identity(response: Any) -> str | None:
    """The hub names large files by their SHA-256 in the answer that redirects to the store that holds them."""
    for answer in (*response.history, response):
        linked = str(answer.headers.get("X-Linked-Etag", "")).strip('"')
        if linked:
            return linked
    tag = str(response.headers.get("ETag", ""))
    return tag if tag.startswith('"') else None


def _total(url: str, response: Any, start: int, stop: int) -> int | None:
    """The file's size, once the answer is known to be the part that was asked for."""
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(r"bytes (\d+)-(\d+)/(\d+|\*)", said)
    packed = response.headers.get("Content-Encoding", "identity") != "identity"
    whole = response.status_code != 206 or match is None
    if whole or packed:
        raise ValueError(
            f"the server of {url} ignores byte ranges (it answers {response.status_code}"
            f"{' compressed' * packed} to a request for bytes {start} to {stop - 1}), so the embedding table cannot "
            "be fetched without the model. Fetch the whole model once with embedspace.models.resolve(...), or use "
            "the hub itself: is HF_ENDPOINT a mirror, is there a proxy?"
        )
    assert match is not None
    if (int(match[1]), int(match[2])) != (start, stop - 1):
        raise ValueError(f"{url} answers with {said!r} to a request for bytes {start} to {stop - 1}")
    return None if match[3] == "*" else int(match[3])


def _bounded(chunks: Iterator[bytes], length: int) -> Iterator[bytes]:
    for chunk in chunks:
        length -= len(chunk)
        if length < 0:
            raise ValueError(f"the server sent at least {-length} bytes more than the part it announced")
        yield chunk
