"""Sweeps on a real SLURM cluster: jobs that are signalled, lose their node or fail, and what they leave."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.checkpoints import make_tiny_checkpoint
from tests.slurm_cluster import SlurmCluster, until, version
from tests.sweeps import ROOT, command, final, records, sittings, sweep

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
pytestmark = pytest.mark.slow

QUESTIONS = ",".join(f"{number}?" for number in range(12))
LONGEST = "sampling.max_tokens=24"
SLURM = "launcher=slurm"


@pytest.fixture(scope="module")
def baseline(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """An experiment of 36 cases on a tiny model, one case after another."""
    model = tmp_path_factory.mktemp("model")
    make_tiny_checkpoint(model)
    return [
        "experiment=baseline",
        f"experiment.questions=[{QUESTIONS}]",
        f"model.name={model}",
        "+engine.batch_size=1",
    ]


@pytest.fixture(scope="module")
def undisturbed(baseline: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three jobs one after another, in one process."""
    out = tmp_path_factory.mktemp("undisturbed")
    done = sweep(out, *baseline, f"{LONGEST},2,3")
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@contextmanager
def launched(cluster: SlurmCluster, out: Path, *overrides: str) -> Iterator[subprocess.Popen[str]]:
    """A sweep on the cluster while it runs; it is ended with the block."""
    with (out / "launcher.log").open("w") as log, subprocess.Popen(
        command(out, *overrides, SLURM), cwd=ROOT, env=cluster.environment, text=True, stdout=log, stderr=log
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def recorded(out: Path, count: int, process: subprocess.Popen[str]) -> Path:
    """Wait until the only job has so many records; returns their file."""

    def enough() -> list[Path]:
        assert process.poll() is None, "the sweep ended before it could be disturbed"
        return [path for path in out.rglob("records.jsonl") if len(records(path)) >= count]

    until(enough, f"{count} records", 300)
    (path,) = enough()
    return path


def assert_resumed(out: Path, before: list[dict[str, Any]], undisturbed: Path) -> None:
    """The only job of a sweep went on from the records that it had, to those of the sweep that nothing disturbed."""
    (path,) = out.rglob("records.jsonl")
    assert records(path)[: len(before)] == before
    assert sittings(path.parent) == 2
    assert final(out).items() <= final(undisturbed).items()


def test_a_sweep_outlives_the_daemon_of_its_node_and_the_error_of_a_failed_job_reaches_the_launcher(
    cluster: SlurmCluster, baseline: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    with launched(cluster, tmp_path, *baseline, f"{LONGEST},2,3,0") as process:
        until(lambda: any(map(records, tmp_path.rglob("records.jsonl"))), "the first record", 300)
        cluster.kill_daemon_of_node()
        assert process.poll() is None
        cluster.start_node()
        assert cluster.finish(process) == 1
    said = (tmp_path / "launcher.log").read_text()
    assert len(final(undisturbed)) == 3
    assert final(tmp_path) == final(undisturbed), said
    assert {sittings(path.parent) for path in tmp_path.rglob("report.html")} == {1}
    assert len(list(tmp_path.rglob("report.html"))) == 3
    assert re.search(r"^job \d+_3 \(.*sampling.max_tokens=0.*\): ", said, re.MULTILINE)
    assert "Sampling.max_tokens is 0; it must be at least 1" in said
    (log,) = re.findall(r"its log: (.*)", said)
    assert "Sampling.max_tokens is 0" in Path(log).read_text()
    assert "Traceback" not in said
    assert "sacct" not in said


def test_a_job_that_is_signalled_before_its_time_is_up_goes_on_from_its_records(
    cluster: SlurmCluster, baseline: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    with launched(cluster, tmp_path, *baseline, LONGEST) as process:
        path = recorded(tmp_path, 3, process)
        before = records(path)
        cluster.ask("scancel", "--signal=USR2", cluster.only_job())
        assert cluster.finish(process) == 0
    assert_resumed(tmp_path, before, undisturbed)


@pytest.mark.skipif(
    version() < (23, 2),
    reason="SLURM 22.05's controller may die of a null pointer when a lost node's job starts again",
)
def test_a_job_whose_node_is_lost_goes_on_from_its_records_when_there_is_a_node_again(
    cluster: SlurmCluster, baseline: list[str], undisturbed: Path, tmp_path: Path
) -> None:
    with launched(cluster, tmp_path, *baseline, LONGEST) as process:
        path = recorded(tmp_path, 3, process)
        job = cluster.only_job()
        cluster.kill_node()
        before = records(path)
        until(lambda: cluster.states()[job] == "PENDING", "the job of the lost node is queued again", 120)
        cluster.start_node()
        assert cluster.finish(process) == 0
    assert_resumed(tmp_path, before, undisturbed)


def test_a_job_that_times_out_before_its_first_record_ends_with_an_error_and_is_not_queued_again(
    cluster: SlurmCluster, baseline: list[str], tmp_path: Path
) -> None:
    waiting = "experiment.questions={_target_:time.sleep,_args_:[900]}"
    settings = [waiting if override.startswith("experiment.questions") else override for override in baseline]
    with launched(cluster, tmp_path, *settings, LONGEST, "hydra.launcher.timeout_min=1") as process:
        until(lambda: list(tmp_path.rglob("*sampling*")), "the job has started", 300)
        job = cluster.only_job()
        cluster.ask("scancel", "--signal=USR2", job)
        assert cluster.finish(process) == 1
    assert "Restarts=0" in cluster.ask("scontrol", "show", "job", job)
    said = (tmp_path / "launcher.log").read_text()
    for part in (
        "has written no record",
        "hydra.launcher.timeout_min=1",
        "hydra.launcher.signal_delay_s=120",
        "its log: ",
    ):
        assert part in said


def test_what_the_cluster_refuses_is_said_in_its_words(
    cluster: SlurmCluster, baseline: list[str], tmp_path: Path
) -> None:
    done = sweep(
        tmp_path, *baseline, "sampling.max_tokens=2,3", "launcher=slurm_gpu", env=cluster.environment
    )
    assert done.returncode == 1
    assert done.stderr.startswith(
        "error: the cluster refused the jobs: Invalid generic resource (gres) specification. "
    )
    assert "launcher=slurm asks for no GPU" in done.stderr
    assert "Traceback" not in done.stderr
