"""How often 95% intervals hold the truth, for samples of the sizes that reports have."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from embedspace._util.files import atomic_write, write_json
from embedspace._util.markdown import markdown_table
from embedspace._util.progress import progress
from embedspace._util.provenance import describe_origin, provenance
from experiments.coverage.populations import POPULATIONS, Population

TITLE = "## Coverage of the intervals"


@dataclass(frozen=True)
class Coverage:
    """Draws samples of populations whose truth is known, and counts the intervals that hold it."""

    sizes: Sequence[int]
    """Independent units (items, clusters, sources) of a sample."""
    draws: int
    """Samples of each population and size."""
    seed: int
    page: str
    """File whose section on coverage is replaced, or that is made."""

    def run(self, folder: Path) -> str:
        """Measure all populations, write the counts into ``folder`` and the table into ``page``."""
        folder.mkdir(parents=True, exist_ok=True)
        origin = provenance()
        held: dict[str, list[int | None]] = {}
        with progress("coverage", len(POPULATIONS) * len(self.sizes)) as advance:
            for population in POPULATIONS:
                name = f"{population.interval}: {population.items}"
                held[name] = []
                for size in self.sizes:
                    held[name].append(held_of(population, size, self.draws, self.seed))
                    advance()
        write_json(
            folder / "coverage.json", {"draws": self.draws, "sizes": list(self.sizes), "held": held, **origin}
        )
        table = as_markdown(list(held.values()), self.sizes, self.draws)
        page = Path(self.page)
        known = page.read_text() if page.is_file() else ""
        atomic_write(page, updated(known, self._section(table, origin)))
        return f"{table}\nwritten to {self.page} and {folder / 'coverage.json'}"

    def _section(self, table: str, origin: Mapping[str, Any]) -> str:
        return (
            f"{TITLE}\n\n"
            "How many of the intervals that are called 95% intervals hold the truth, in per cent: "
            f"{self.draws:,} samples of each population and size, whose truth is known. The size *n* is the number of "
            "independent units: items, clusters or sources. *none*: a report makes no interval of so few.\n\n"
            f"{table}\n"
            f"Made by `python experiments/run.py experiment=coverage experiment.page=docs/evidence.md`, seed "
            f"{self.seed}: {describe_origin(origin)}."
        )


def held_of(population: Population, size: int, draws: int, seed: int) -> int | None:
    """How many intervals of so many samples hold the truth; None where most have no bounds."""
    rng = np.random.default_rng([seed, size, POPULATIONS.index(population)])
    intervals = [population.sample(rng, size) for _ in range(draws)]
    if sum(interval.known for interval in intervals) < draws / 2:
        return None
    # An estimate without bounds claims nothing, so it is not wrong: it is counted as an interval that holds the truth.
    return sum(
        not interval.known or interval.low <= population.truth <= interval.high for interval in intervals
    )


def as_markdown(held: Sequence[Sequence[int | None]], sizes: Sequence[int], draws: int) -> str:
    """Per cent for each population and size."""
    rows = [
        [
            f"`{name}`{comma}{rest}",
            population.items,
            *("none" if count is None else f"{100 * count / draws:.1f}" for count in counts),
        ]
        for population, counts in zip(POPULATIONS, held, strict=True)
        for name, comma, rest in [population.interval.partition(",")]
    ]
    return markdown_table(["interval", "population", *(f"n = {size}" for size in sizes)], rows)


def updated(page: str, section: str) -> str:
    """The page with its section on coverage replaced, or added at its end."""
    found = re.search(rf"^{re.escape(TITLE)}\n.*?(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    if found is None:
        return f"{page.rstrip()}\n\n{section}\n".lstrip()
    return f"{page[: found.start()]}{section}\n\n{page[found.end() :]}".rstrip() + "\n"
