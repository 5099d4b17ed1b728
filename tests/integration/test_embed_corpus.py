"""A corpus made from the command line: killed and gone on with, and refusals that do not stop it."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = 3000


def command(source: Path, out: Path, *overrides: str) -> list[str]:
    settings = ["experiment=embed_corpus", f"experiment.source={source}", "experiment.shard_size=50"]
    return [sys.executable, "experiments/run.py", *settings, *overrides, f"out={out}"]


def run(source: Path, out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(source, out, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=500
    )


def shards(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.glob("shard-*.safetensors")}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    lottery = random.Random(0)
    words = ["the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "and", "some", "more"]
    path = tmp_path_factory.mktemp("texts") / "texts.jsonl"
    lines = (" ".join(lottery.choices(words, k=lottery.randint(1, 30))) for _ in range(TEXTS))
    path.write_text("".join(json.dumps({"text": line}) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def undisturbed(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    done = run(source, out, "experiment.processes=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3,000 texts" in done.stdout
    return out


def test_killed_runs_go_on_and_end_with_the_same_bytes(
    source: Path, undisturbed: Path, tmp_path: Path
) -> None:
    lottery, kills, whole = random.Random(0), 0, len(shards(undisturbed))
    for _ in range(3):
        process = subprocess.Popen(
            command(source, tmp_path, "experiment.processes=2"),
            cwd=ROOT,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        target = len(shards(tmp_path)) + lottery.randint(1, 8)
        deadline = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < deadline:
            if len(list(tmp_path.glob("shard-*.safetensors"))) >= min(target, whole - 1):
                os.killpg(process.pid, signal.SIGKILL)  # the workers as well
                kills += 1
                break
        process.wait(60)
    assert kills
    done = run(source, tmp_path, "experiment.processes=2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert shards(tmp_path) == shards(undisturbed)
    assert not list(tmp_path.glob("*.draft"))


def test_refused_texts_are_counted_and_the_exit_status_tells(tmp_path: Path) -> None:
    path = tmp_path / "texts.txt"
    path.write_text("one\n\ntwo\n")
    done = run(path, tmp_path / "out")
    assert done.returncode == 1
    assert "1 of 3 texts are no prompts" in done.stderr
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["refused"] == {
        "1": "the text is empty"
    }


def test_a_missing_source_says_what_to_do(tmp_path: Path) -> None:
    done = run(tmp_path / "nothing.jsonl", tmp_path / "out")
    assert done.returncode == 1
    assert "does not exist" in done.stderr
    assert "Traceback" not in done.stderr
