"""The readers that ``configs/data/safety/sources.yaml`` names."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import TextIOWrapper
from pathlib import Path
from typing import IO, Any
from zipfile import ZipFile

from experiments.safety import attack_texts as attacks
from experiments.safety import benign_texts as benign
from experiments.safety.packages import rows_of
from experiments.safety.patterns import long_documents, own, planted


def field(folder: Path, path: str, names: Sequence[str]) -> Iterator[str]:
    """A field of every row of a JSON file, all its entries where it is a list."""
    for row in rows_of(folder / path):
        value: Any = row
        for name in names:
            value = value.get(name) or ""
        yield from map(str, value) if isinstance(value, list) else [str(value)]


def table(folder: Path, path: str, columns: Sequence[str]) -> Iterator[str]:
    """Columns of a CSV file, whose header may stand after a preamble."""
    csv.field_size_limit(10**8)
    lines = (folder / path).read_text().splitlines(keepends=True)
    header = next(number for number, line in enumerate(lines) if columns[0] in line.split(","))
    for row in csv.DictReader(lines[header:]):
        yield "\n".join(row[column] or "" for column in columns)


def column(folder: Path, path: str, column: str, shortest: int = 0) -> Iterator[str]:
    """The texts of at least so many characters in a column of a CSV file, or of the only one in a zip archive."""
    csv.field_size_limit(10**8)
    with contextlib.ExitStack() as opened:
        file: IO[bytes]
        if path.endswith(".zip"):
            archive = opened.enter_context(ZipFile(folder / path))
            file = opened.enter_context(archive.open(archive.namelist()[0]))
        else:
            file = opened.enter_context((folder / path).open("rb"))
        for row in csv.DictReader(TextIOWrapper(file, encoding="utf-8", newline="")):
            if len(row[column]) >= shortest:
                yield row[column]


def lines(folder: Path, path: str, column: int) -> Iterator[str]:
    """A column of a file of tab-separated lines."""
    yield from (line.split("\t")[column] for line in (folder / path).read_text().splitlines())


_READERS: Sequence[Callable[..., Iterator[str]]] = (
    field, table, column, lines, own, long_documents, planted,
    attacks.armor, attacks.in_the_wild, attacks.dan, attacks.payloads, attacks.tool_results, attacks.prompt_requests,
    attacks.inboxes, attacks.hijacks, attacks.latent, attacks.memories, attacks.repositories, attacks.labelled,
    attacks.neuralchemy,
    benign.documents, benign.tickets, benign.roles, benign.system_prompts, benign.handbooks, benign.prompts_in_code,
    benign.descriptions, benign.policies, benign.tasks, benign.excerpts, benign.judges, benign.talk, benign.interface,
)  # fmt: skip
READERS: Mapping[str, Callable[..., Iterator[str]]] = {reader.__name__: reader for reader in _READERS}
"""By the name that ``sources.yaml`` gives."""
