"""The page of ``docs/`` that shows the benchmarks: a section for each part, with where its figures come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from embedspace._util.provenance import describe_origin

if TYPE_CHECKING:
    from experiments.benchmarks.experiment import Measurement, Part

TITLES: dict[Part, str] = {
    "cold_start": "First prompt in a fresh process",
    "wire": "The wire format",
    "server": "A vLLM server",
    "cache": "The cache of prompts",
    "prefix": "Shared prefixes",
    "corpus": "Corpora",
    "scaling": "Several servers",
    "transforms": "Transforms",
    "compressed": "What compression buys on a server",
    "projector": "The projector",
    "projector_gpu": "Training the projector on a GPU",
    "safety": "The safety filter",
    "gateway": "The gateway before vLLM",
    "gateway_alone": "The gateway alone",
}
"""Parts in the page's order."""

FIGURES: dict[Part, str] = {
    "transforms": "![Time of each way to compress against the number of rows](figures/compress_time.svg)",
    "compressed": "![Throughput and first-token time against the compression ratio](figures/compress_served.svg)",
}
"""What a part adds below its table."""

HEADER = (
    "# Benchmarks\n\n"
    "Ratios of the toolkit's figure to that of the ordinary way, on the same work, both sides in turn, in one run; the "
    "mean over rounds with its 95% bootstrap interval. Made by `make bench`; a part alone is made anew by `python "
    "experiments/run.py experiment=benchmark experiment.parts=[PART]`, which leaves the others' sections as they "
    "are. The single figures are in `runs/`, in `measurements.jsonl`."
)


def updated(
    page: str, measured: Mapping[Part, Sequence[Measurement]], origin: Mapping[str, Any], model: str
) -> str:
    """The page with the sections of what was measured; those of other parts stay."""
    parts = {title: part for part, title in TITLES.items()}
    known = {
        parts[title]: body
        for title, body in re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        if title in parts
    }
    sections = {part: body.strip() for part, body in known.items()}
    for part, rows in measured.items():
        made = f"Part `{part}`: {describe_origin(origin)}; `{model}`.\n\n{as_markdown(rows)}"
        sections[part] = f"{made}\n{FIGURES[part]}" if part in FIGURES else made.strip()
    shown = [f"## {title}\n\n{sections[part]}" for part, title in TITLES.items() if part in sections]
    return "\n\n".join([HEADER, *shown]) + "\n"


def as_markdown(measured: Sequence[Measurement]) -> str:
    """A table of ratios."""
    lines = ["| what | ratio (95% interval) | aim | measured |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.name} | {row.ratio:.2f} | {row.aim} | {row.detail} |" for row in measured]
    return "\n".join(lines) + "\n"
