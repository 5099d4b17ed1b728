"""Experiments as their users start them: small, real, killed and gone on with."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from embedspace import EmbeddingSpace
from embedspace.engines import VLLMServer
from embedspace.projector import Projector, ProjectorConfig, SentenceEncoder

ROOT = Path(__file__).parents[2]
TINY = ["sampling.max_tokens=4", "data=small"]
BASELINE = [
    "experiment=baseline",
    "experiment.questions=[One?,Two?,Three?,Four?,Five?,Six?]",
    "sampling.max_tokens=4",
    "+engine.batch_size=1",
]
SMALL = {
    "baseline": BASELINE,
    "style": [
        "experiment=style", *TINY, "experiment.questions=[Why does bread rise?,How do cacti drink?]",
        "experiment.optimised=null", "experiment.methods=[mean_difference]", "experiment.alphas=[-1.0,1.0]",
        "experiment.answered_alphas=[1.0]", "experiment.control_seeds=[0,1]", "experiment.control_alphas=[1.0]",
    ],
    "interpolation": [
        "experiment=interpolation", *TINY, "experiment.steps=[0.5]", "experiment.answered_steps=[0.5]",
        "experiment.random_seeds=[0]", "experiment.random_steps=[1.0]",
    ],
    "compression": [
        "experiment=compression", *TINY, "experiment.ratios=[2.0]", "experiment.answered_ratios=[2.0]",
    ],
}  # fmt: skip


def command(out: Path, *overrides: str) -> list[str]:
    return [sys.executable, "experiments/run.py", *overrides, f"out={out}"]


def run(out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(out, *overrides), cwd=ROOT, capture_output=True, text=True, timeout=500)


def records(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "records.jsonl").read_text().splitlines()]


def final(out: Path) -> dict[tuple[str, int], tuple[str, tuple[int, ...], Any]]:
    """What the records say, without the times; a doubled record is an error."""
    reported = [
        ((r["key"], r["choice"]), (r["text"], tuple(r["token_ids"]), r["recipe"])) for r in records(out)
    ]
    assert len(dict(reported)) == len(reported)
    return dict(reported)


@pytest.mark.parametrize("name", SMALL)
def test_an_experiment_ends_with_records_a_manifest_and_a_page_that_needs_nothing_else(
    name: str, tmp_path: Path
) -> None:
    done = run(tmp_path, *SMALL[name])
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(record["error"] is None for record in records(tmp_path))
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert {"config", "fingerprint", "seeds", "sittings"} <= set(manifest)
    assert {"packages", "git", "machine"} <= set(manifest["sittings"][0])
    page = (tmp_path / "report.html").read_text()
    assert not re.search(r"""(src|href)=["']?(https?:)?//|@import|url\(\s*["']?https?:""", page)
    assert "prefers-color-scheme" in page
    assert manifest["fingerprint"] in page


@pytest.mark.server
@pytest.mark.parametrize("name", [name for name in SMALL if name != "baseline"])
def test_what_needs_no_likelihoods_runs_on_a_vllm_server_too(
    name: str, vllm_server: VLLMServer, tmp_path: Path
) -> None:
    done = run(tmp_path, *SMALL[name], "engine=vllm", f"engine.url={vllm_server.url}")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert found
    assert all(record["error"] is None for record in found)
    assert {record["engine"]["engine"] for record in found} == {"vllm"}
    assert not any(record["scores"] for record in found)
    assert (tmp_path / "report.html").stat().st_size > 10_000


@pytest.fixture(scope="module")
def projector(tmp_path_factory: pytest.TempPathFactory, smollm2: EmbeddingSpace) -> Path:
    """An untrained one: the way from command to report does not hang on its weights."""
    encoder = SentenceEncoder()
    config = ProjectorConfig(
        "linear",
        4,
        384,
        smollm2.hidden_size,
        encoder.name,
        encoder.fingerprint,
        smollm2.name,
        smollm2.fingerprint,
    )
    folder = tmp_path_factory.mktemp("projector")
    Projector(config, smollm2).save_pretrained(folder)
    return folder


SOFT = {
    "projector": [
        "experiment=projector", "experiment.projectors.distilled={folder}", "+experiment.projectors.other={folder}",
        *(f"experiment.{name}={count}" for name, count in (("answered", 1), ("retrieved", 2), ("compared", 2))),
    ],
    "rag": [
        "experiment=rag", "experiment.projector={folder}", "data.knowledge.knowledge.pages=60",
        "data.knowledge.knowledge.explanations=0", "experiment.answered=1", "experiment.timed=1",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SOFT)
def test_experiments_on_soft_tokens_end_with_a_page_and_their_prompts_are_recorded(
    name: str, projector: Path, tmp_path: Path
) -> None:
    words = [word.format(folder=projector) for word in SOFT[name]]
    done = run(tmp_path, *words, "sampling.max_tokens=4")
    assert done.returncode == 0, done.stdout + done.stderr
    found = records(tmp_path)
    assert all(record["error"] is None for record in found)
    assert any("project" in json.dumps(record["recipe"]) for record in found)
    page = (tmp_path / "report.html").read_text()
    assert "better control" in page
    assert "<svg" in page


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("undisturbed")
    assert run(out, *BASELINE).returncode == 0
    return out


def test_kills_at_random_moments_lose_and_double_nothing(undisturbed: Path, tmp_path: Path) -> None:
    lottery = random.Random(0)
    whole = len(records(undisturbed))
    kills = 0
    for _ in range(3):
        process = subprocess.Popen(command(tmp_path, *BASELINE), cwd=ROOT, stderr=subprocess.DEVNULL)
        target = (len(records(tmp_path)) if (tmp_path / "records.jsonl").exists() else 0) + lottery.randint(
            1, 3
        )
        deadline = time.monotonic() + 300
        while process.poll() is None and time.monotonic() < deadline:
            path = tmp_path / "records.jsonl"
            if path.exists() and path.read_bytes().count(b"\n") >= min(target, whole - 1):
                process.send_signal(signal.SIGKILL)
                kills += 1
                break
        process.wait(60)
    assert kills
    done = run(tmp_path, *BASELINE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert final(tmp_path) == final(undisturbed)


def test_a_torn_last_line_is_repaired(undisturbed: Path, tmp_path: Path) -> None:
    for name in ("run.json", "records.jsonl"):
        (tmp_path / name).write_bytes((undisturbed / name).read_bytes())
    with (tmp_path / "records.jsonl").open("r+b") as file:
        file.truncate(file.seek(0, 2) - 40)
    assert run(tmp_path, *BASELINE).returncode == 0
    assert final(tmp_path) == final(undisturbed)


def test_an_interrupt_says_how_to_go_on_and_exits_with_130(undisturbed: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        command(tmp_path, *BASELINE), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300
    path = tmp_path / "records.jsonl"
    while not (path.exists() and path.read_bytes().count(b"\n")):
        assert process.poll() is None
        assert time.monotonic() < deadline
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 130
    assert "the same command resumes the run" in output
    assert run(tmp_path, *BASELINE).returncode == 0
    assert final(tmp_path) == final(undisturbed)


def test_a_changed_setting_is_refused_and_named(undisturbed: Path) -> None:
    before = (undisturbed / "records.jsonl").read_bytes()
    done = run(undisturbed, *BASELINE, "sampling.temperature=0.5")
    assert done.returncode == 1
    output = done.stdout + done.stderr
    assert "sampling.temperature" in output
    assert "0.5" in output
    assert "fresh=true" in output
    assert (undisturbed / "records.jsonl").read_bytes() == before


def test_one_bad_prompt_fails_alone_and_the_run_says_where_the_records_are(tmp_path: Path) -> None:
    long = "word " * 9000
    questions = f"experiment.questions=[One?,{long.strip()},Two?]"
    done = run(tmp_path, "experiment=baseline", questions, "sampling.max_tokens=4")
    assert done.returncode == 1
    assert str(tmp_path / "records.jsonl") in done.stdout + done.stderr
    failed = [record for record in records(tmp_path) if record["error"]]
    fine = [record for record in records(tmp_path) if not record["error"]]
    assert failed
    assert all("at most 8191" in record["error"] for record in failed)
    assert len(fine) == 2 * len(failed)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    done = run(blocked / "below", *BASELINE)
    assert done.returncode == 1
    assert str(blocked) in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_sweep_gives_each_job_its_own_run(tmp_path: Path) -> None:
    words = [word for word in BASELINE if not word.startswith("sampling")]
    done = run(tmp_path, "--multirun", *words, "sampling.max_tokens=2,3")
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list(tmp_path.rglob("report.html"))) == 2
