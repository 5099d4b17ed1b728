"""An experiment whose process is killed at random moments: are its records those of an uninterrupted run?"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedspace._util.progress import progress
from experiments.reliability.rows import Row, compared
from experiments.reliability.small_server import SmallServer


def kill_rows(folder: Path, model: str, kills: int, questions: int) -> Iterator[Row]:
    """An experiment of that many questions, killed that often, and resumed each time."""
    killed_run, whole_run = folder / "disturbed", folder / "undisturbed"
    for old in (killed_run, whole_run):
        shutil.rmtree(old, ignore_errors=True)
    rng = random.Random(0)
    moments: list[str] = []
    with SmallServer(0.03) as server:
        finish(command(server, model, questions, whole_run))
        expected = final(whole_run)
        resume = command(server, model, questions, killed_run)
        with progress("kills", kills) as advance:
            while len(moments) < kills:
                written = lines_in(killed_run)
                # What is left is shared evenly between the kills to come, so that the last one has a process to kill.
                share = (len(expected) - written) / (kills - len(moments) + 1)
                if killed(resume, killed_run, written + round(rng.uniform(0, 2 * share)), rng):
                    moments.append(str(lines_in(killed_run)))
                    advance()
        finish(resume)
    counts = compared(final(killed_run), dict(expected))
    yield Row(
        f"{len(moments)} SIGKILLs of an experiment",
        counts.in_words(),
        f"{len(expected)} records, killed when there were {', '.join(moments)}; the rest is the same as that of an "
        "uninterrupted run",
        counts.clean and len(moments) == kills,
        "each once and right",
    )


def command(server: SmallServer, model: str, questions: int, out: Path) -> list[str]:
    """The command line that a user types."""
    asked = ",".join(f"Question number {number}?" for number in range(questions))
    return [
        sys.executable,
        str(Path(__file__).parents[1] / "run.py"),
        "experiment=baseline",
        "engine=vllm",
        f"model.name={model}",
        f"engine.url={server.url}",
        "+engine.prompts_per_request=1",
        "+engine.max_concurrency=2",
        f"experiment.questions=[{asked}]",
        f"out={out}",
    ]


def finish(command: Sequence[str]) -> None:
    """Run a process to its end.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed(command: Sequence[str], out: Path, records: int, rng: random.Random) -> bool:
    """Start a process and kill it when it has written about that many records; False where it ended before.

    One in ten is killed while it starts or reads earlier records.
    """
    early, ended = rng.random() < 0.1, time.monotonic() + rng.uniform(0, 3)
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while process.poll() is None and (time.monotonic() < ended if early else lines_in(out) < records):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))  # between two records as well as in the middle of one
        return process.poll() is None
    finally:
        process.kill()
        process.wait()


def lines_in(folder: Path) -> int:
    """Number of records written."""
    path = folder / "records.jsonl"
    return path.read_bytes().count(b"\n") if path.exists() else 0


def final(folder: Path) -> list[tuple[str, str]]:
    """What the records say, without the times."""
    from embedspace.runs import read_records

    return [
        (f"{record.key} {record.choice}", f"{record.text} {record.recipe.digest} {record.error}")
        for record in read_records(folder / "records.jsonl")
    ]
