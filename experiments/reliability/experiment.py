"""The soak test: crashes, faults, damaged files and long streams, injected a known number of times, and counted."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from embedspace._util.markdown import markdown_table
from embedspace._util.progress import progress
from embedspace._util.provenance import describe_origin, provenance
from experiments.reliability.cache import cache_rows
from experiments.reliability.faults import fault_rows
from experiments.reliability.gateway_fuzz import gateway_rows
from experiments.reliability.kills import kill_rows
from experiments.reliability.memory import memory_rows
from experiments.reliability.rows import Row


@dataclass(frozen=True)
class Soak:
    """What is injected, and how often."""

    model: str
    prompts: int
    """Through the fault proxy."""
    faults: int
    """Of each kind; a quarter as many of those that affect every request in flight."""
    kills: int
    """Of an experiment's process."""
    questions: int
    """Of that experiment."""
    cache_kills: int
    """Of processes that write to a cache."""
    damaged_files: int
    """Copies of a cache's file, each damaged at one place."""
    streamed: int
    """Prompts through ``embed_many`` and ``generate`` while memory is watched."""
    fuzzed: int
    """Damaged payloads and bodies of the gateway; a tenth as many requests."""
    most_growth_mb: float
    """Growth of the resident memory that still counts as flat."""
    page: str
    """File that gets the table."""
    parts: Sequence[str] | None
    """Names of :data:`PARTS`; None runs all."""

    @property
    def measured(self) -> Sequence[str]:
        """The parts that run."""
        return self.parts or list(PARTS)

    def run(self, folder: Path) -> str:
        """Run the parts, write the counts into ``folder`` and the table into ``page``.

        Raises:
            ValueError: a claim does not hold; the table is written all the same.
        """
        folder.mkdir(parents=True, exist_ok=True)
        rows: list[Row] = []
        with progress("soak", len(self.measured)) as advance:
            for part in self.measured:
                rows += PARTS[part](self, folder)
                advance()
        origin = provenance()
        lines = [{"row": asdict(row), **origin} for row in rows]
        (folder / "counts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        table = as_markdown(rows)
        Path(self.page).write_text(as_page(table, origin, self))
        if failed := [row.what for row in rows if not row.holds]:
            raise ValueError(f"{len(failed)} claims do not hold: {'; '.join(failed)}. See {self.page}")
        return f"{table}\nwritten to {self.page} and {folder / 'counts.jsonl'}"


PARTS: Mapping[str, Callable[[Soak, Path], Iterator[Row]]] = {
    # Memory first: what the others give back to the allocator could hide growth.
    "memory": lambda soak, _: memory_rows(soak.model, soak.streamed, soak.most_growth_mb),
    "faults": lambda soak, folder: fault_rows(folder / "faults", soak.prompts, soak.faults),
    "kills": lambda soak, folder: kill_rows(folder / "kills", soak.model, soak.kills, soak.questions),
    "cache": lambda soak, folder: cache_rows(folder / "cache", soak.cache_kills, soak.damaged_files),
    "gateway": lambda soak, _: gateway_rows(soak.model, soak.fuzzed),
}
"""Name -> what is done, given the settings and a folder for its files."""


def as_markdown(rows: Sequence[Row]) -> str:
    """A table of counts."""
    return markdown_table(
        ("injected", "result", "required", "holds", "details"),
        ((row.what, row.counted, row.claim, "yes" if row.holds else "**no**", row.detail) for row in rows),
    )


def as_page(table: str, origin: Mapping[str, Any], soak: Soak) -> str:
    """The page of ``docs/`` that shows the table and where it comes from."""
    return (
        "# Reliability\n\n"
        "This page reports what happens under crashes, faults, damaged files and long streams. Each was injected "
        "a known number of times in one run. Records are compared one by one with the expected ones: *right* "
        "means that a record is there once and has the expected content. Faults are injected by a proxy in front "
        "of a small HTTP server that answers each prompt with a digest of it, since a real model's server cannot "
        "be made to fail on demand; the experiment that is killed is a real one and uses the same server. Cache "
        "entries are compared bit for bit with the same prompts built again: a damaged file may lose entries or "
        "be refused, but must never return a wrong one. *Holds* is about what is *required*, and nothing else: see the "
        "result for entries that were missed. For the gateway, hypothesis chooses the damage: a payload must "
        "be refused or read as torch reads it, and what screens a body must find every text in it. "
        f"Made by `make soak` ({', '.join(soak.measured)}) with `{soak.model}`, Python {origin['python']} and openai "
        f"{origin['packages']['openai']}: {describe_origin(origin)}. "
        "The individual counts are in `runs/`, in `counts.jsonl`.\n\n"
        f"{table}"
    )
