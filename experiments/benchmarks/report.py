"""The page of ``docs/`` that shows the benchmarks: a section for each part, with where its figures come from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from embedspace._util.markdown import markdown_table
from embedspace._util.provenance import describe_origin
from experiments.benchmarks.measurement import Measurement, verdict

HEADER = (
    "# Benchmarks\n\n"
    "Most figures are ratios of the toolkit's result to that of the usual alternative on the same work; the "
    "others name what they are relative to. Both sides are measured in one run, round by round. The verdict is *met* "
    "or *missed* only where the whole interval, or every round, is on one side of the target, and *not told* "
    "otherwise. Each section says how its ratios were taken. `make bench` writes this page; `python "
    "experiments/run.py experiment=benchmark experiment.parts=[PART] experiment.page=docs/benchmarks.md` measures one "
    "part again and leaves the sections of the others unchanged. The individual measurements are in `runs/`, in "
    "`measurements.jsonl`."
)


RATIOS = (
    "Ratios of the medians over rounds; of fewer than ten rounds the ratio in each is shown, and no interval."
)


def updated(page: str, titles: Mapping[str, str], sections: Mapping[str, str]) -> str:
    """The page with some of its sections replaced or added, in the order of the titles.

    Args:
        page: Markdown, or nothing.
        titles: name of a part -> title of its section.
        sections: name of a part -> new text of its section.
    """
    parts = {title: part for part, title in titles.items()}
    known = {
        parts[title]: body.strip()
        for title, body in re.findall(r"^## (.+?)\n\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
        if title in parts
    } | dict(sections)
    shown = [f"## {title}\n\n{known[part]}" for part, title in titles.items() if part in known]
    return "\n\n".join([HEADER, *shown]) + "\n"


def section(
    part: str, rows: Sequence[Measurement], origin: Mapping[str, Any], model: str, figure: str = ""
) -> str:
    """A part's text: where the figures come from, its table, and its figure."""
    return f"Part `{part}`: {describe_origin(origin)}; `{model}`. {RATIOS}\n\n{as_markdown(rows)}\n{figure}".strip()


def as_markdown(measured: Sequence[Measurement]) -> str:
    """A table of ratios."""
    return markdown_table(
        ("what", "ratio (95% interval, or each round)", "target", "verdict", "measured"),
        (
            (row.name, f"{row.ratio:.2f}", row.aim, verdict(row.ratio, row.aim), row.detail)
            for row in measured
        ),
    )
