"""Gallery: the evidence at full size, and the figures of it that ``docs/`` shows.

``python experiments/gallery.py`` runs everything again; with names after it, only those.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir

from embedspace._util.files import write_json
from embedspace._util.provenance import describe_origin, provenance
from embedspace.errors import EngineError
from experiments.run import RunFailed, run_experiment

if TYPE_CHECKING:
    from embedspace.reporting import Report

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "docs" / "figures"
NOTES = "gallery.json"
"""Beside the figures: command and origin of each. ``README.md`` there is made of it."""


@dataclass(frozen=True)
class Exhibit:
    """A run, and what to keep of its report."""

    overrides: Sequence[str]
    """Of ``configs/run.yaml``."""
    figures: Mapping[str, int]
    """Name of the file without ending -> number of the figure in the report, from 0."""


EXHIBITS: Mapping[str, Exhibit] = {
    **{
        f"style-{style}": Exhibit(
            [
                "experiment=style",
                f"data/style={style}",
                "sampling.max_tokens=32",
                # Other methods and controls answer at one strength; at the others only openings are scored.
                "experiment.answered_methods=[]",
                "experiment.answered_control_alphas=[1.0]",
            ],
            {
                f"style_{style}_{figure}": number
                for number, figure in enumerate(("odds", "judge", "fluency", "topic"))
            },
        )
        for style in ("formal", "cheerful", "terse")
    },
    "interpolation": Exhibit(
        ["experiment=interpolation", "sampling.max_tokens=24"],
        {"interpolation_likelihood": 0, "interpolation_turn": 1, "interpolation_distance": 3},
    ),
    "compression": Exhibit(
        ["experiment=compression", "data/passages=kinds", "sampling.max_tokens=24"],
        # After that of all kinds, each kind of text has a figure of shares and one of answers.
        {f"compression_{kind}": 1 + 2 * number for number, kind in enumerate(
            ("numbers", "words", "gist", "conditions", "code", "records", "german", "chinese", "hindi")
        )},
    ),
}  # fmt: skip


def show(name: str, exhibit: Exhibit, runs: Path, figures: Path, origin: Mapping[str, Any]) -> None:
    """Run one exhibit in process, write its figures, and note where they come from (``origin``, a provenance).

    Raises:
        ValueError: the report has no figure of a wanted number.
        RunFailed: some cases failed.
        EngineError: the engine failed.
        OSError: a file cannot be written.
    """
    overrides = [*exhibit.overrides, "engine=transformers", "fresh=true", f"out={runs / name}"]
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        config = compose("run", overrides=overrides)
    began = time.monotonic()
    report = run_experiment(config, runs / name)
    seconds = time.monotonic() - began
    captions = write_figures(report, exhibit.figures, figures)
    path = figures / NOTES
    notes = json.loads(path.read_text()) if path.exists() else {}
    notes[name] = {
        "command": f"python experiments/run.py {' '.join([*exhibit.overrides, 'engine=transformers'])}",
        "seconds": round(seconds),
        "figures": captions,
        **{fact: origin[fact] for fact in ("git", "machine", "packages")},
    }
    write_json(path, {key: notes[key] for key in sorted(notes)})
    (figures / "README.md").write_text(as_page(notes))


def write_figures(report: Report | None, wanted: Mapping[str, int], folder: Path) -> dict[str, str]:
    """Figures of a report as SVG files: name of the file -> what it shows.

    Raises:
        ValueError: the report has no figure of a wanted number.
        OSError: a file cannot be written.
    """
    found = [figure for section in report.sections for figure in section.figures] if report else []
    if missing := {name: number for name, number in wanted.items() if not 0 <= number < len(found)}:
        raise ValueError(f"the report has {len(found)} figures; there are none of the numbers in {missing}")
    folder.mkdir(parents=True, exist_ok=True)
    for name, number in wanted.items():
        (folder / f"{name}.svg").write_text(found[number].stand_alone())
    return {f"{name}.svg": found[number].caption for name, number in wanted.items()}


def as_page(notes: Mapping[str, Any]) -> str:
    """What the figures show and where they come from."""
    hours = sum(note["seconds"] for note in notes.values()) / 3600
    lines = [
        "# Figures",
        "",
        "Made by `make gallery`, in process. Each section gives the command, the duration and the commit of its run; "
        f"all runs together took {hours:.1f} hours.",
        "",
        "The figures of style are of questions that were looked at before the method was chosen, and those of "
        "interpolation of a second look ([sealed sets](../evidence.md#sealed-sets)).",
    ]
    for name, note in sorted(notes.items()):
        lines += [
            "",
            f"## {name}",
            "",
            f"`{note['command']}`: {note['seconds'] / 60:.1f} minutes; {describe_origin(note)}.",
        ]
        for file, caption in note["figures"].items():
            lines += ["", f"![{caption}]({file})", "", caption]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the exhibits that are named, or all."""
    parser = argparse.ArgumentParser(
        description="Run the evidence at full size and write the figures of docs/."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(EXHIBITS)}; all by default")
    parser.add_argument("--runs", type=Path, default=ROOT / "runs" / "gallery", help="folder of the runs")
    parser.add_argument("--figures", type=Path, default=FIGURES, help="folder of the figures")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in EXHIBITS]:
        parser.error(f"unknown {', '.join(unknown)}; there are {', '.join(EXHIBITS)}")
    origin = provenance()  # before figures are written, which change the checkout
    try:
        for name in arguments.names or EXHIBITS:
            show(name, EXHIBITS[name], arguments.runs, arguments.figures, origin)
    except (RunFailed, EngineError, ValueError, OSError) as error:
        raise SystemExit(f"error: {error}") from error


if __name__ == "__main__":
    main()
