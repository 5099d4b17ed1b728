"""Commands about recorded runs: ``runs``, ``diff``, ``replay``."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from embedspace._util.extras import pip_install
from embedspace.cli.tables import unabridged


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the command line."""
    runs = commands.add_parser(
        "runs",
        help="list runs, open a report, lay two runs side by side, or export one",
        usage="%(prog)s [-h] [FOLDER | open FOLDER | compare FOLDER FOLDER | export FOLDER] [--html FILE] [--format "
        "FORMAT] [--out FOLDER]",
    )
    runs.set_defaults(run=_runs)
    runs.add_argument(
        "words",
        nargs="*",
        metavar="FOLDER",
        help="list the runs below a folder (default: runs); or open and the folder of a run; or compare and the "
        "folders of two runs; or export and the folder of a run",
    )
    runs.add_argument(
        "--html", metavar="FILE", type=Path, help="compare: the page to write; default: compared.html"
    )
    runs.add_argument(
        "--format", choices=("inspect",), default="inspect", help="export: a log that Inspect reads"
    )
    runs.add_argument(
        "--out", metavar="FOLDER", type=Path, help="export: for the log; default: inspect in the run's folder"
    )

    diff = commands.add_parser("diff", help="what differs between two runs")
    diff.set_defaults(run=_diff)
    diff.add_argument("first", type=Path, help="folder of a run")
    diff.add_argument("second", type=Path)
    diff.add_argument("--html", metavar="FILE", type=Path, help="also write both runs side by side as a page")

    replay = commands.add_parser(
        "replay", help="make a recorded prompt again from its recipe and compare the bits"
    )
    replay.set_defaults(run=_replay)
    replay.add_argument("records", type=Path, help="records.jsonl of a run")
    replay.add_argument("--index", type=int, required=True, help="which record, counted from 0")
    replay.add_argument("--model", help="default: the one that run.json names")
    replay.add_argument(
        "--vector", metavar="FILE", action="append", default=[],
        help="a style vector that StyleVector.save wrote, or the folder of a SoftPrompt",
    )  # fmt: skip


def _runs(options: argparse.Namespace) -> int:
    match options.words:
        case []:
            return _list_runs(Path("runs"))
        case ["open", folder]:
            return _open_report(Path(folder))
        case ["compare", first, second]:
            return _compare(Path(first), Path(second), options.html or Path("compared.html"))
        case ["export", folder]:
            return _export(Path(folder), options.out)
        case [folder] if folder not in ("open", "compare", "export"):
            return _list_runs(Path(folder))
        case words:
            raise ValueError(
                f"embedspace runs {' '.join(words)} is not known; give a folder, or open or export and the folder of a "
                "run, or compare and the folders of two runs"
            )


def _open_report(folder: Path) -> int:
    import webbrowser

    from embedspace.runs.run import REPORT

    page = folder / REPORT
    if not page.is_file():
        raise ValueError(f"{folder} has no {REPORT}; the command of its run, given again, writes it")
    print(page)
    webbrowser.open(page.resolve().as_uri())
    return 0


def _compare(first: Path, second: Path, page: Path) -> int:
    from embedspace.reporting import compare_runs

    print(f"side by side: {compare_runs(first, second, page)}")
    return 0


def _export(folder: Path, target: Path | None) -> int:
    from embedspace.reporting import export_inspect

    log = export_inspect(folder, target)
    print(log)
    print(f"to look at it: inspect view --log-dir {log.parent} ({pip_install('inspect')})")
    return 0


def _list_runs(below: Path) -> int:
    from rich.console import Console
    from rich.table import Table

    from embedspace.runs import last_engine, read_records
    from embedspace.runs.run import RECORDS, REPORT, read_manifest

    table = unabridged(Table("folder", "model", "engine", "records", "failed", "started", "report"))
    for manifest_path in sorted(below.rglob("run.json")):
        folder = manifest_path.parent
        manifest = read_manifest(folder)
        if manifest is None or "fingerprint" not in manifest:
            continue  # a corpus or a training
        engine = last_engine(manifest)
        path = folder / RECORDS
        errors = [record.error is not None for record in read_records(path)] if path.is_file() else []
        table.add_row(
            str(folder),
            str(engine.get("model", "")),
            str(engine.get("engine", "")),
            str(len(errors)),
            str(sum(errors)),
            manifest["sittings"][0]["started"][:16].replace("T", " "),
            REPORT if (folder / REPORT).is_file() else "",
        )
    if not table.row_count:
        print(f"there are no runs below {below}; embedspace run experiment=... makes one")
        return 0
    Console().print(table)
    return 0


def _replay(options: argparse.Namespace) -> int:
    from embedspace.runs import replay

    done = replay(options.records, options.index, model=options.model, vectors=options.vector)
    verdict = "bit-identical" if done.identical else "NOT the same"
    print(f"{done.record.key}, choice {done.record.choice}: {done.record.recipe}")
    print(f"recorded {done.record.prompt_sha256}  {done.record.rows} rows")
    print(f"replayed {done.digest}  {len(done.prompt)} rows: {verdict}")
    return 0 if done.identical else 1


def _diff(options: argparse.Namespace) -> int:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from embedspace.runs import differences

    found = differences(options.first, options.second)
    if options.html:
        _compare(options.first, options.second, options.html)
    if not found:
        print("the runs are the same")
        return 0
    table = Table("what", "", str(options.first), str(options.second))
    for each in found:
        table.add_row(*(Text(cell) for cell in (each.kind, each.name, each.first, each.second)))
    # A file or another program takes lines of any length, and is searched for whole names.
    Console(width=None if sys.stdout.isatty() else 240).print(table)
    return 1
