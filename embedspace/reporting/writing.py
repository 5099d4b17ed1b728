"""A report in a run's folder: one HTML page that needs nothing but itself, and its findings and tables as Markdown."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.files import atomic_write
from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval
from embedspace.reporting.report import Cell, Report, Section, unsigned
from embedspace.runs import Tag, last_engine

if TYPE_CHECKING:
    from embedspace.runs import Run

MAX_RECORDS = 2000
"""Records that a page lists one by one; the record file holds all."""

_FOLDED_CHARACTERS = 420
_FOLDED_ROWS = 9


def write_report(report: Report, run: Run) -> Path:
    """Write a run's ``report.html``, and its findings and tables as ``report.md`` beside it, atomically.

    >>> import tempfile
    >>> from embedspace.runs import Run
    >>> with Run.open(tempfile.mkdtemp(), {"seed": 7}, fingerprint="abc") as run:
    ...     write_report(Report("Style", "What alpha does.", []), run).name
    'report.html'

    The page makes no request, follows the reader's light or dark scheme, and escapes all that a model wrote.

    Raises:
        OSError: the folder cannot be written.
    """
    atomic_write(run.report_path.with_suffix(".md"), _markdown(report, run).encode(errors="replace"))
    atomic_write(run.report_path, _render(report, run).encode(errors="xmlcharrefreplace"))
    return run.report_path


def _render(report: Report, run: Run) -> str:
    import jinja2
    from markupsafe import Markup

    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("embedspace.reporting"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"paragraphs": _paragraphs, "cell": _cell, "tags": _tags, "svg": Markup}
    records = list(itertools.islice(run.records(), MAX_RECORDS + 1))
    return environment.get_template("report.html.j2").render(
        report=report,
        records=records[:MAX_RECORDS],
        more_records=len(records) > MAX_RECORDS,
        answers=sum(1 for _ in run.records()),
        failures=[record for record in run.records() if record.error is not None],
        records_name=run.records_path.name,
        folded=_FOLDED_CHARACTERS,
        folded_rows=_FOLDED_ROWS,
        chips=_chips(run),
        command=run.sitting["command"],
        provenance=_provenance(run.manifest),
    )


def _paragraphs(text: str) -> list[str]:
    return [paragraph.strip() for paragraph in text.split("\n\n") if paragraph.strip()]


def _cell(value: Cell, digits: int) -> tuple[str, str]:
    """Text of a table's cell, and the interval that stands beside it in small print."""
    if isinstance(value, Interval):
        return unsigned(value.estimate, digits), value.uncertainty(lambda number: unsigned(number, digits))
    if isinstance(value, float):
        return unsigned(value, digits), ""
    return "" if value is None else str(value), ""


def _tags(tags: Mapping[str, Tag]) -> str:
    return ", ".join(f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
                     for name, value in tags.items())  # fmt: skip


def _chips(run: Run) -> list[str]:
    engine = last_engine(run.manifest)
    dtype = engine.get("dtype", "")
    chips = [engine.get("model", ""), f"{engine.get('engine', '')} {dtype if dtype.isalnum() else ''}"]
    return [chip.strip() for chip in (*chips, run.sitting["started"][:10]) if chip.strip()]


def _provenance(manifest: Mapping[str, Any]) -> dict[str, str]:
    """Where the numbers come from, as rows of a table."""
    sitting = manifest["sittings"][-1]
    git = sitting["git"]
    commit = (
        "not a git checkout" if git is None else git["commit"] + (" + local changes" if git["dirty"] else "")
    )
    return {
        "Model fingerprint": manifest["fingerprint"],
        "Engine": _pairs(last_engine(manifest)),
        "Seeds": _pairs(manifest["seeds"]),
        "Commit": commit,
        "Python": sitting["python"],
        "Packages": _pairs(sitting["packages"]),
        "Machine": _pairs(sitting["machine"]),
        "Started": manifest["sittings"][0]["started"],
        "Sittings": str(len(manifest["sittings"])),
        "Requests sent again": _pairs(_retries(manifest)),
    }


def _retries(manifest: Mapping[str, Any]) -> Mapping[str, int]:
    """Requests that the engine sent again, in all sittings together, by the reason for it."""
    return sum((Counter(sitting.get("retries", {})) for sitting in manifest["sittings"]), Counter[str]())


def _pairs(values: Mapping[str, object]) -> str:
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"


def _markdown(report: Report, run: Run) -> str:
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
