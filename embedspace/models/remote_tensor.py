"""One tensor of a safetensors file on a hub: located and downloaded by its byte range, resumed where it broke off."""

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

from embedspace._util.safetensors_file import ITEM_BYTES, encode_header, header_length
from embedspace.models.hub import IncompleteResponseError, with_retries

_FLOATING = ("F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2")


class FileChangedError(Exception):
    """The file on the hub is not the one that the download began with."""


@dataclass(frozen=True)
class RemoteFile:
    """A file on a hub, and what is known of it."""

    url: str
    size: int | None
    """In bytes, if the hub's listing says."""
    identity: str | None
    """The SHA-256 of the whole file if the hub gives it, else a strong entity tag (in quotes), else None."""

    @property
    def sha256(self) -> str | None:
        """Of the whole file, if the hub gives it."""
        return self.identity if self.identity and not self.identity.startswith('"') else None

    @contextmanager
    def stream(self, start: int, stop: int) -> Iterator[tuple[RemoteFile, Iterator[bytes]]]:
        """The file as the response describes it, and its bytes ``start`` to ``stop`` (not included).

        Raises:
            FileChangedError: the file is another one than this.
            IncompleteResponseError: fewer bytes came, once those that came are consumed.
            ValueError: the server sends other bytes than the requested ones.
        """
        from huggingface_hub import constants, get_session, hf_raise_for_status
        from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

        headers = {**build_hf_headers(), "Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"}
        if self.identity is not None and self.sha256 is None:
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
                raise FileChangedError(f"{self.url} is now {identity}, it was {self.identity}")
            total = _total_size(self.url, response, start, stop)
            if self.size is not None and total not in (None, self.size):
                raise ValueError(f"{self.url} has {total} bytes, and the hub's listing says {self.size}")
            # Raw chunks as they arrive: bytes that arrived are on the disk when the rest does not.
            chunks = self._exactly(stop - start, response.iter_raw())
            yield RemoteFile(self.url, self.size or total, identity), chunks

    def _exactly(self, length: int, chunks: Iterator[bytes]) -> Iterator[bytes]:
        left = length
        for chunk in chunks:
            left -= len(chunk)
            if left < 0:
                raise ValueError(f"the server sent at least {-left} bytes more than the part it announced")
            yield chunk
        if left:
            raise IncompleteResponseError(f"{self.url} broke off after {length - left} of {length} bytes")

    def read(self, start: int, stop: int) -> tuple[RemoteFile, bytes]:
        """:meth:`stream` of a small part, in memory."""

        def attempt() -> tuple[RemoteFile, bytes]:
            with self.stream(start, stop) as (file, chunks):
                return file, b"".join(chunks)

        return with_retries(attempt)


@dataclass(frozen=True)
class RemoteTensor:
    """Where the bytes of a tensor lie in a file on a hub."""

    file: RemoteFile
    name: str
    dtype: str
    """As safetensors names it."""
    shape: tuple[int, ...]
    start: int
    """Offset of its first byte in the file."""

    @classmethod
    def locate(cls, file: RemoteFile, names: Sequence[str]) -> RemoteTensor:
        """The first of some names that a safetensors file has; only the file's header is downloaded.

        ``HfApi.parse_safetensors_file_metadata`` does not say where the data begin, downloads 100 kB at least, and
        holds the whole file in memory if the server ignores ranges.

        Raises:
            FileChangedError: the file changed meanwhile.
            ValueError: no such tensor, not a matrix of floating-point numbers, or not a safetensors file.
        """
        file, prefix = file.read(0, 8)
        length = header_length(prefix, file.url)
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
            raise ValueError(
                f"{file.url} is not a safetensors file: its header is damaged ({error})"
            ) from error
        found = cls(file, name, dtype, shape, 8 + length + begin)
        found._check(end - begin)
        return found

    def _check(self, stored: int) -> None:
        if len(self.shape) != 2 or self.dtype not in _FLOATING:
            raise ValueError(
                f"{self.name} in {self.file.url} has shape {list(self.shape)} and dtype {self.dtype}; a table of "
                "floating-point rows is needed (a quantised checkpoint must be dequantised first)"
            )
        beyond = self.file.size is not None and self.start + stored > self.file.size
        if stored != self.length or beyond:
            raise ValueError(
                f"{self.name} in {self.file.url} is listed with {stored} bytes from {self.start}; it needs "
                f"{self.length}, and the file has {self.file.size}: the file on the hub is damaged"
            )

    @property
    def length(self) -> int:
        """Bytes of the tensor."""
        return math.prod(self.shape) * ITEM_BYTES[self.dtype]

    @property
    def source(self) -> list[str | int | None]:
        """Which bytes of which file it is."""
        return [self.file.identity, self.start, self.start + self.length]

    def downloaded(self, path: Path) -> int:
        """How many of the tensor's bytes an unfinished file holds; 0 if it comes from another source."""
        header = self._header()
        try:
            with path.open("rb") as draft:
                same = draft.read(len(header)) == header
            size = path.stat().st_size - len(header)
        except FileNotFoundError:
            return 0
        return size if same and self.file.identity is not None and 0 < size <= self.length else 0

    def download(self, path: Path, advance: Callable[[int], None]) -> None:
        """Write a safetensors file with this tensor alone, from where an earlier attempt broke off.

        ``huggingface_hub.file_download.http_get`` loses up to 10 MB of a broken range, does not check that it is still
        the same file, and writes the whole file if the server ignores ranges.

        Args:
            path: the file. It is whole only when this returns; on an error, it is what the next attempt resumes.
            advance: is called with the number of bytes downloaded so far.

        Raises:
            FileChangedError, ValueError: as :meth:`RemoteFile.stream`.
            OSError: the disk is full, or the connection keeps breaking.
        """
        with_retries(lambda: self._attempt(path, advance), progress=lambda: self.downloaded(path))

    def _attempt(self, path: Path, advance: Callable[[int], None]) -> None:
        header, done = self._header(), self.downloaded(path)
        with path.open("r+b" if done else "wb") as draft:
            draft.seek(len(header) + done) if done else draft.write(header)
            advance(done)
            if done < self.length:
                with self.file.stream(self.start + done, self.start + self.length) as (_, chunks):
                    for chunk in chunks:
                        draft.write(chunk)
                        done += len(chunk)
                        advance(done)
            draft.flush()
            os.fsync(draft.fileno())

    def _header(self) -> bytes:
        """A safetensors header for this tensor alone; its metadata identify the source of an unfinished file."""
        identity, start, stop = self.source
        metadata = {"format": "pt", "file": str(identity), "bytes": f"{start}-{stop}"}
        return encode_header({self.name: (self.dtype, self.shape)}, metadata)


def _identity(response: Any) -> str | None:
    """The hub gives a large file's SHA-256 in its redirection to the store that holds the bytes."""
    for answer in (*response.history, response):
        linked = str(answer.headers.get("X-Linked-Etag", "")).strip('"')
        if linked:
            return linked
    tag = str(response.headers.get("ETag", ""))
    return tag if tag.startswith('"') else None


def _total_size(url: str, response: Any, start: int, stop: int) -> int | None:
    """The file's size, once the response is known to be the requested part."""
    said = response.headers.get("Content-Range", "")
    match = re.fullmatch(rf"bytes {start}-{stop - 1}/(\d+|\*)", said)
    compressed = response.headers.get("Content-Encoding", "identity") != "identity"
    if response.status_code != 206 or match is None or compressed:
        raise ValueError(
            f"the server of {url} ignores byte ranges: it answers with {said!r}, status {response.status_code}"
            f"{', compressed' * compressed} to a request for bytes {start} to {stop - 1}. So the embedding table "
            "cannot be downloaded without the model. Download the whole model once with "
            "embedspace.models.resolve(...), or use the hub itself: is HF_ENDPOINT a mirror, is there a proxy?"
        )
    return None if match[1] == "*" else int(match[1])
