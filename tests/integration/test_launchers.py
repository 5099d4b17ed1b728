"""Sweeps through each launcher: the same folders, the same records, and a queued-again job goes on from its records."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.sweeps import ROOT, command, final, records, sittings, sweep

SWEEP = ["experiment=baseline", "experiment.questions=[One?,Two?]", "sampling.max_tokens=2,3"]
LONG = [
    "experiment=baseline",
    "experiment.questions=[One?,Two?,Three?,Four?,Five?,Six?]",
    "sampling.max_tokens=24",
    "+engine.batch_size=1",
]


@pytest.fixture(scope="module")
def one_by_one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local")
    done = sweep(out, *SWEEP)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.mark.parametrize(
    ("launcher", "plugin"),
    [
        ("launcher=joblib", "hydra_plugins.hydra_joblib_launcher"),
        ("hydra/launcher=submitit_local", "hydra_plugins.hydra_submitit_launcher"),
    ],
)
def test_a_sweep_ends_with_the_same_folders_and_records_whatever_launches_it(
    launcher: str, plugin: str, one_by_one: Path, tmp_path: Path
) -> None:
    pytest.importorskip(plugin)
    done = sweep(tmp_path, *SWEEP, launcher)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(final(tmp_path)) == 2
    assert final(tmp_path) == final(one_by_one)


def test_a_failed_job_of_a_parallel_sweep_leaves_the_others_whole_and_the_exit_status_tells(
    tmp_path: Path,
) -> None:
    pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    done = sweep(tmp_path, *SWEEP[:2], "sampling.max_tokens=2,0", "launcher=joblib")
    assert done.returncode == 1
    assert "max_tokens" in done.stdout + done.stderr
    assert len(list(tmp_path.glob("*/report.html"))) == 1


def test_a_job_that_is_queued_again_goes_on_from_its_records(tmp_path: Path) -> None:
    """The signal that SLURM sends before the time is up, sent to submitit's own local executor."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    calm, disturbed = tmp_path / "calm", tmp_path / "disturbed"
    assert sweep(calm, *LONG).returncode == 0
    with subprocess.Popen(command(disturbed, *LONG, "hydra/launcher=submitit_local"), cwd=ROOT) as process:
        before = _interrupt(process, disturbed)
        assert process.wait(400) == 0
    assert final(disturbed) == final(calm)
    (path,) = disturbed.glob("*/records.jsonl")
    assert sittings(path.parent) == 2
    assert records(path)[: len(before)] == before


def _interrupt(process: subprocess.Popen[bytes], out: Path) -> list[dict[str, Any]]:
    """Signal the job once some of its records are there; returns those that were."""
    deadline = time.monotonic() + 300
    while process.poll() is None and time.monotonic() < deadline:
        if lines := [records(path) for path in out.glob("*/records.jsonl") if len(records(path)) >= 3]:
            (job,) = _jobs(process)
            os.kill(job, signal.SIGUSR2)
            return lines[0]
    raise AssertionError("the sweep ended before it could be interrupted")


def _jobs(process: subprocess.Popen[bytes]) -> list[int]:
    """The processes that run submitit's jobs, below those that watch over them."""
    found = psutil.Process(process.pid).children(recursive=True)
    return [child.pid for child in found if "submitit.core._submit" in " ".join(child.cmdline())]


def test_a_launcher_that_is_not_installed_names_the_extra(tmp_path: Path) -> None:
    try:
        import hydra_plugins.hydra_ray_launcher  # noqa: F401
    except ModuleNotFoundError:
        pass
    else:
        pytest.skip("the launcher is installed here")
    done = sweep(tmp_path / "out", *SWEEP, "launcher=ray")
    assert done.returncode == 1
    assert "pip install 'embedspace[ray-launcher]'" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "out").exists()
