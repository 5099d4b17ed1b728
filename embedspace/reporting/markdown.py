"""A report's findings and tables as Markdown, for papers, pages of ``docs/`` and comparisons of two runs by line."""

from __future__ import annotations

from typing import TYPE_CHECKING

from embedspace._util.provenance import describe_origin

if TYPE_CHECKING:
    from embedspace.reporting.report import Report, Section
    from embedspace.runs import Run


def as_markdown(report: Report, run: Run) -> str:
    """The findings, what was done, and the tables; figures and answers are in the HTML page alone."""
    parts = [f"# {report.title}", report.summary, *map(_section, report.sections), _origin(run)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _section(section: Section) -> str:
    tables = [f"{table.to_markdown()}\n{table.caption}" for table in section.tables]
    return "\n\n".join([f"## {section.title}", f"**{section.finding}**", section.text, *tables])


def _origin(run: Run) -> str:
    sittings = run.manifest["sittings"]
    origins = dict.fromkeys(map(describe_origin, sittings))
    seeds = "".join(f"; {name} {seed}" for name, seed in run.manifest["seeds"].items())
    return "\n\n".join(
        [
            "## Where the numbers come from",
            f"`{run.sitting['command']}`",
            f"Model {run.manifest['fingerprint']}{seeds}; {'; then '.join(origins)}. Brackets are 95% intervals.",
        ]
    )
