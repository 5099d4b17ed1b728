"""Columns of text: Parquet files and Hugging Face data sets."""

from __future__ import annotations

import bisect
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from embedspace._util.extras import pip_install
from embedspace.corpus.files import FileIdentity, identity_of


@dataclass(frozen=True)
class ParquetFiles:
    """A column of Parquet files."""

    files: tuple[FileIdentity, ...]
    starts: tuple[int, ...]
    """Number of the first row of every row group, over all files, and at the end the number of all rows."""
    groups: tuple[tuple[int, int], ...]
    """For every row group, its file and its number in it."""
    column: str

    @classmethod
    def open(cls, paths: Sequence[Path], column: str) -> ParquetFiles:
        """Read the files once for their digests, and their footers."""
        parquet = needed("pyarrow.parquet")
        starts, groups = [0], []
        for number, path in enumerate(paths):
            try:
                footer = parquet.ParquetFile(path)
            except (OSError, ValueError) as error:
                raise ValueError(f"{path} is not a whole Parquet file: {error}; write it again") from error
            if column not in footer.schema_arrow.names:
                raise ValueError(_no_column(str(path), column, footer.schema_arrow.names))
            for group in range(footer.num_row_groups):
                starts.append(starts[-1] + footer.metadata.row_group(group).num_rows)
                groups.append((number, group))
        return cls(tuple(identity_of(path) for path in paths), tuple(starts), tuple(groups), column)

    def __len__(self) -> int:
        """Number of rows."""
        return self.starts[-1]

    def read(self, start: int, stop: int) -> list[Any]:
        """The texts of rows ``start`` to ``stop``, counted over all files."""
        texts: list[Any] = []
        first = bisect.bisect_right(self.starts, start) - 1
        for index in range(first, len(self.groups)):
            begin = self.starts[index]
            if begin >= stop:
                break
            file, group = self.groups[index]
            values = _row_group(self.files[file].path, group, self.column)
            offset = max(start - begin, 0)
            texts += values.slice(offset, min(stop - begin, len(values)) - offset).to_pylist()
        return texts

    def describe(self) -> dict[str, Any]:
        """Digests and sizes of the files; their folder may change."""
        return {"column": self.column, "files": [file.describe() for file in self.files]}


@lru_cache(maxsize=1)
def _row_group(path: Path, group: int, column: str) -> Any:
    """One column of a row group; the last one is kept, since several shards may lie in it."""
    return needed("pyarrow.parquet").ParquetFile(path).read_row_group(group, columns=[column]).column(0)


@dataclass(frozen=True)
class HubDataset:
    """A column of a Hugging Face data set: an id on the hub, or a folder of ``save_to_disk``."""

    name: str
    split: str
    column: str

    @classmethod
    def open(cls, name: str, column: str, split: str) -> HubDataset:
        """Load the data set, from the hub where it is not in the machine's cache."""
        opened = cls(name, split, column)
        if column not in opened._rows.column_names:
            raise ValueError(_no_column(name, column, opened._rows.column_names))
        return opened

    def __len__(self) -> int:
        """Number of rows."""
        return len(self._rows)

    def read(self, start: int, stop: int) -> list[Any]:
        """The texts of rows ``start`` to ``stop``."""
        return list(self._rows.select_columns([self.column])[start:stop][self.column])

    def describe(self) -> dict[str, Any]:
        """Name, split, and the fingerprint that the library keeps of the data."""
        return {
            "dataset": self.name,
            "split": self.split,
            "column": self.column,
            "rows": len(self),
            "fingerprint": self._rows._fingerprint,
        }

    def __getstate__(self) -> dict[str, Any]:
        """Other processes load the data set themselves: it is memory-mapped, and costs nothing to load again."""
        return {"name": self.name, "split": self.split, "column": self.column}

    @cached_property
    def _rows(self) -> Any:
        library = needed("datasets")
        try:
            if not Path(self.name).expanduser().is_dir():
                return library.load_dataset(self.name, split=self.split)
            loaded = library.load_from_disk(str(Path(self.name).expanduser()))
        except (OSError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"the data set {self.name!r} (split {self.split!r}) cannot be loaded: {_first_line(error)}. "
                "Check its name, the split, the network and, for a gated one, `hf auth login`"
            ) from error
        if not isinstance(loaded, dict):
            return loaded
        if self.split not in loaded:
            raise ValueError(
                f"{self.name} has no split {self.split!r}; it has {', '.join(loaded)}. Choose one with split=..."
            )
        return loaded[self.split]


def needed(module: str) -> Any:
    """A module of the extra ``corpus``.

    Raises:
        ValueError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"this source needs {module.split('.')[0]}, which is not installed: {pip_install('corpus')}. "
            "JSON Lines and text files need nothing more"
        ) from error


def _no_column(where: str, column: str, there: Sequence[str]) -> str:
    return (
        f"{where} has no column {column!r}; it has {', '.join(there) or 'none'}. "
        "Name the one that holds the text with column=..."
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
