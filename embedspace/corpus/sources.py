"""Where the texts of a corpus come from: any stretch of them can be read, by any process, at any time."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from embedspace.corpus.columnar import HubDataset, ParquetFiles
from embedspace.corpus.files import FileIdentity, Refusal

Text = str | Sequence[Mapping[str, str]] | Refusal
"""A text, a conversation, or the reason why there is neither."""


class Source(Protocol):
    """Texts by their number. Sources are small and can be sent to other processes and machines."""

    def __len__(self) -> int:
        """Number of texts."""
        ...

    def read(self, start: int, stop: int) -> list[Text]:
        """The texts of a stretch, in order; one that cannot be read is a :class:`Refusal`."""
        ...

    def describe(self) -> dict[str, Any]:
        """What decides the texts, as plain values."""
        ...


@dataclass(frozen=True)
class LineFiles:
    """Files of lines: plain text, a text a line, or JSON Lines, a field of an object a line.

    Hugging Face ``datasets`` would copy the files into its cache, identify them by path and time instead of content,
    and fail the whole file for one damaged line.
    """

    files: tuple[FileIdentity, ...]
    lines: tuple[int, ...]
    """Number of lines of each file."""
    marks: tuple[tuple[int, ...], ...]
    """For each file, where every ``stride``-th line begins, in bytes."""
    stride: int
    column: str | None
    """Field that holds the text; None for plain text."""

    @classmethod
    def open(cls, paths: Sequence[Path], column: str | None, stride: int) -> LineFiles:
        """Read all files once: for their digests, and for where lines begin."""
        scanned = [_scan(path, stride) for path in paths]
        opened = cls(
            tuple(file for file, _, _ in scanned),
            tuple(count for _, count, _ in scanned),
            tuple(marks for _, _, marks in scanned),
            stride,
            column,
        )
        opened._require_column()
        return opened

    def __len__(self) -> int:
        """Number of lines."""
        return sum(self.lines)

    def read(self, start: int, stop: int) -> list[Text]:
        """The texts of lines ``start`` to ``stop``, counted over all files."""
        parse = _plain if self.column is None else partial(_field, self.column)
        texts: list[Text] = []
        first = 0
        for file, count, marks in zip(self.files, self.lines, self.marks, strict=True):
            begin, end = max(start - first, 0), min(stop - first, count)
            first += count
            if begin < end:
                for number, line in enumerate(self._lines(file.path, marks, begin, end), start=begin + 1):
                    text = parse(line)
                    texts.append(
                        Refusal(f"line {number} of {file.path.name}: {text}")
                        if isinstance(text, Refusal)
                        else text
                    )
        return texts

    def describe(self) -> dict[str, Any]:
        """Digests and sizes of the files; their folder may change."""
        return {"column": self.column, "files": [file.describe() for file in self.files]}

    def _lines(self, path: Path, marks: Sequence[int], begin: int, end: int) -> Iterator[bytes]:
        with path.open("rb") as file:
            file.seek(marks[begin // self.stride])
            yield from itertools.islice(file, begin % self.stride, begin % self.stride + end - begin)

    def _require_column(self) -> None:
        """Raise ``ValueError`` where the first line has no such field: a misspelling, and not a damaged line."""
        if self.column is None or not len(self):
            return
        path = next(file.path for file, count in zip(self.files, self.lines, strict=True) if count)
        with path.open("rb") as lines:
            first = _object(lines.readline())
        if isinstance(first, Mapping) and self.column not in first:
            raise ValueError(
                f"{path} has no field {self.column!r}; its first line has {', '.join(first) or 'none'}. "
                "Name the one that holds the text with column=..."
            )


def open_source(
    where: str | Path | Sequence[str | Path], *, column: str = "text", split: str = "train", stride: int
) -> Source:
    """A source of texts.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "texts.jsonl"
    >>> _ = path.write_text('{"text": "one"}\\n{"text": "two"}\\n{"txt": "three"}\\n')
    >>> source = open_source(path, stride=100)
    >>> len(source), source.read(1, 3)
    (3, ['two', Refusal(reason="line 3 of texts.jsonl: there is no field 'text'")])

    Args:
        where: files or folders of them, Parquet (``.parquet``), JSON Lines (``.jsonl``, ``.ndjson``) or plain text
            (``.txt``, a text a line), of one kind; a folder written by ``Dataset.save_to_disk``; or the id of a
            data set on the hub.
        column: that holds the text, or a list of messages.
        split: of a data set.
        stride: lines between two stored line starts: the length of the stretches that will be read.

    Raises:
        ValueError: nothing is there, files of several or unknown kinds, or no such column.
    """
    places = [where] if isinstance(where, str | Path) else list(where)
    if len(places) == 1 and _is_data_set(str(places[0])):
        return HubDataset.open(str(places[0]), column, split)
    paths = [path for place in places for path in _files(Path(place).expanduser())]
    kinds = {_KINDS.get(path.suffix) for path in paths}
    if len(kinds) != 1 or None in kinds:
        raise ValueError(
            f"{', '.join(map(str, places)) or 'no source'} holds {_suffixes(paths)}; a corpus is read from files of "
            f"one kind, of {', '.join(_KINDS)}, from a folder of Dataset.save_to_disk, or from a data set on the hub"
        )
    (kind,) = kinds
    if kind == "parquet":
        return ParquetFiles.open(paths, column)
    return LineFiles.open(paths, column if kind == "json" else None, stride)


_KINDS = {".parquet": "parquet", ".jsonl": "json", ".ndjson": "json", ".txt": "text"}


def _is_data_set(place: str) -> bool:
    path = Path(place).expanduser()
    if path.exists():
        return (path / "state.json").is_file() or (path / "dataset_dict.json").is_file()
    looks_local = place.startswith((".", "/", "~")) or path.suffix in _KINDS
    return not looks_local and re.fullmatch(r"[\w.-]+(/[\w.-]+)?", place) is not None


def _files(place: Path) -> list[Path]:
    if place.is_dir():
        return sorted(path.absolute() for path in place.iterdir() if path.suffix in _KINDS)
    if not place.is_file():
        raise ValueError(f"{place} does not exist; name files, a folder of them, or a data set")
    return [place.absolute()]


def _suffixes(paths: Sequence[Path]) -> str:
    return (
        ", ".join(sorted({f"{path.suffix or path.name} files" for path in paths}))
        or "no files of a known kind"
    )


def _scan(path: Path, stride: int) -> tuple[FileIdentity, int, tuple[int, ...]]:
    """A file's identity, its number of lines, and where every ``stride``-th of them begins, in bytes."""
    digest = hashlib.sha256()
    marks: list[int] = []
    offset = count = 0
    with path.open("rb") as file:
        for line in file:
            if count % stride == 0:
                marks.append(offset)
            digest.update(line)
            offset += len(line)
            count += 1
    return FileIdentity(path, offset, digest.hexdigest()), count, tuple(marks)


def _plain(line: bytes) -> str | Refusal:
    try:
        return line.rstrip(b"\r\n").decode()
    except UnicodeDecodeError as error:
        return Refusal(f"not UTF-8 ({error.reason} at byte {error.start})")


def _field(column: str, line: bytes) -> Text:
    parsed = _object(line)
    if isinstance(parsed, Refusal):
        return parsed
    if column not in parsed:
        return Refusal(f"there is no field {column!r}")
    value: Text = parsed[column]
    return value


def _object(line: bytes) -> Mapping[str, Any] | Refusal:
    try:
        parsed = json.loads(line)
    except ValueError as error:
        return Refusal(f"not JSON ({error})")
    return parsed if isinstance(parsed, dict) else Refusal(f"a JSON {type(parsed).__name__}, not an object")
