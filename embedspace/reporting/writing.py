"""A report in a run's folder: one HTML page that needs nothing but itself, and its findings and tables as Markdown."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from embedspace._util.files import atomic_write
from embedspace._util.provenance import describe_origin
from embedspace.reporting.page import render
from embedspace.reporting.report import Report, Section

if TYPE_CHECKING:
    from embedspace.runs import Run


def write_report(report: Report, run: Run) -> Path:
    """Write a run's ``report.html``, and its findings and tables as ``report.md`` beside it, atomically.

    >>> import tempfile
    >>> from embedspace.runs import Run
    >>> with Run.open(tempfile.mkdtemp(), {"seed": 7}, fingerprint="abc") as run:
    ...     write_report(Report("Style", "What alpha does.", []), run).name
    'report.html'

    The page makes no request, follows the reader's light or dark scheme, and escapes all that a model wrote. It lists
    at most 2,000 records and says where the others are.

    Raises:
        OSError: the folder cannot be written.
    """
    atomic_write(run.report_path.with_suffix(".md"), _markdown(report, run).encode(errors="replace"))
    atomic_write(run.report_path, render(report, run).encode(errors="xmlcharrefreplace"))
    return run.report_path


def _markdown(report: Report, run: Run) -> str:
    """The findings, what was done, and the tables; figures and answers are in the HTML page alone."""
    parts = [f"# {report.title}", report.summary, *map(_section, report.sections), _origin(run)]
    return "\n\n".join(part.strip() for part in parts if part.strip()) + "\n"


def _section(section: Section) -> str:
    tables = [f"{table.to_markdown()}\n{table.caption}" for table in section.tables]
    finding = [section.finding] if section.verdict else []
    return "\n\n".join([f"## {section.title}", f"**{section.headline}**", *finding, section.text, *tables])


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
