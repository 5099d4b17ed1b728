"""Whole runs through vLLM: the documented way for a Llama, a server of the run's own, and its interrupt."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
import torch

from embedspace.engines import VLLMServer
from embedspace.verification import verify
from tests.checkpoints import make_tiny_checkpoint

pytestmark = pytest.mark.server

ROOT = Path(__file__).parents[2]
QUESTIONS = "experiment.questions=[What is the capital of France?,Name a colour.,  trimmed by the template  ]"


@pytest.fixture(scope="module")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama in everything but size: architecture, begin token, headers and a template that trims."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny-llama", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def llama_server(tiny_llama: Path) -> Iterator[VLLMServer]:
    with VLLMServer(str(tiny_llama), max_model_len=512) as server:
        yield server


def command(*overrides: str) -> list[str]:
    return [sys.executable, "experiments/run.py", *overrides]


def test_the_llama_configuration_runs_against_a_server_at_an_address(
    tiny_llama: Path, llama_server: VLLMServer, tmp_path: Path
) -> None:
    words = ["experiment=baseline", "model=llama", f"model.name={tiny_llama}", "engine=vllm"]
    words += [f"engine.url={llama_server.url}", f"out={tmp_path}", QUESTIONS, "sampling.max_tokens=6"]
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    assert records
    assert all(record["error"] is None for record in records)
    assert {record["engine"]["engine"] for record in records} == {"vllm"}
    assert (tmp_path / "report.html").stat().st_size > 10_000


def test_a_llama_with_its_server_passes_the_parity_certificate(
    tiny_llama: Path, llama_server: VLLMServer
) -> None:
    certificate = verify(str(tiny_llama), server=llama_server.url)
    assert certificate.passed, certificate.to_json()


def test_a_server_that_is_not_there_ends_the_run_with_its_address(tmp_path: Path) -> None:
    words = [
        "experiment=baseline",
        "engine=vllm",
        "engine.url=http://127.0.0.1:9",
        f"out={tmp_path}",
        QUESTIONS,
    ]
    done = subprocess.run(command(*words), cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


def test_an_interrupt_leaves_no_server_behind(tiny_llama: Path, tmp_path: Path) -> None:
    words = ["experiment=baseline", "model=llama", f"model.name={tiny_llama}", "engine=vllm_server"]
    run = psutil.Popen(
        command(*words, f"out={tmp_path}", QUESTIONS), cwd=ROOT, stderr=subprocess.PIPE, text=True
    )
    family: dict[int, psutil.Process] = {}
    deadline = time.monotonic() + 300
    while not any("vllm.entrypoints" in " ".join(_arguments(child)) for child in family.values()):
        assert run.poll() is None, run.stderr.read()
        assert time.monotonic() < deadline, "no server was started"
        family |= {child.pid: child for child in run.children(recursive=True)}
    run.send_signal(signal.SIGINT)
    family |= {child.pid: child for child in run.children(recursive=True)}
    assert run.wait(300) == 130
    _, alive = psutil.wait_procs(list(family.values()), timeout=120)
    assert not alive


def _arguments(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []
