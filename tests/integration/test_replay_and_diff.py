"""A real run's prompts are made again from its records, and two runs are told apart."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.integration.test_experiments import BASELINE, records, run


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """One run, the same again, and one that asks another question."""
    folders = [tmp_path_factory.mktemp("run") for _ in range(3)]
    other = [word.replace("Six?", "Seven?") for word in BASELINE]
    for folder, words in zip(folders, (BASELINE, BASELINE, other), strict=True):
        done = run(folder, *words)
        assert done.returncode == 0, done.stdout + done.stderr
    return folders[0], folders[1], folders[2]


def embedspace(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "embedspace", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=300)


def test_prompts_of_every_kind_are_replayed(runs: tuple[Path, Path, Path]) -> None:
    found = records(runs[0])
    for condition in ("ids", "embeddings", "shuffled"):
        index = next(i for i, record in enumerate(found) if record["tags"]["condition"] == condition)
        done = embedspace("replay", runs[0] / "records.jsonl", "--index", str(index))
        assert done.returncode == 0, done.stdout + done.stderr
        assert "bit-identical" in done.stdout


def test_runs_are_compared(runs: tuple[Path, Path, Path]) -> None:
    first, again, other = runs
    same = embedspace("diff", first, again)
    assert same.returncode == 0, same.stdout
    different = embedspace("diff", first, other)
    assert different.returncode == 1
    assert "experiment.questions.5" in different.stdout
    assert embedspace("diff", first, first / "nowhere").returncode == 2
