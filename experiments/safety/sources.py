"""The readers that ``configs/data/safety/sources.yaml`` names."""

from __future__ import annotations

import csv
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments.safety import attack_texts as attacks
from experiments.safety import benign_texts as benign
from experiments.safety.packages import Patterns, filled, rows_of

CONFIGS = Path(__file__).parents[2] / "configs/data/safety"


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


def lines(folder: Path, path: str, column: int) -> Iterator[str]:
    """A column of a file of tab-separated lines."""
    yield from (line.split("\t")[column] for line in (folder / path).read_text().splitlines())


def own(folder: Path, file: str, each: int) -> Iterator[str]:
    """Texts generated from this project's own patterns, at most ``each`` of a pattern."""
    content: Patterns = yaml.safe_load((folder / file).read_text())
    for patterns in content["patterns"].values():
        for pattern in patterns:
            rng = random.Random(pattern)
            yield from dict.fromkeys(filled(pattern, content["slots"], rng) for _ in range(each))


_READERS: Sequence[Callable[..., Iterator[str]]] = (
    field, table, lines, own,
    attacks.armor, attacks.in_the_wild, attacks.dan, attacks.payloads, attacks.tool_results, attacks.prompt_requests,
    attacks.inboxes, attacks.hijacks, attacks.latent, attacks.memories, attacks.repositories, attacks.planted,
    benign.documents, benign.tickets, benign.roles, benign.system_prompts, benign.handbooks, benign.prompts_in_code,
    benign.descriptions, benign.policies, benign.offices, benign.tasks, benign.excerpts, benign.judges, benign.talk,
)  # fmt: skip
READERS: Mapping[str, Callable[..., Iterator[str]]] = {reader.__name__: reader for reader in _READERS}
"""By the name that ``sources.yaml`` gives."""
