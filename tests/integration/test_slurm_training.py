"""Trainings on a real SLURM cluster: at the signal they end between two steps, and go on as if nothing had been."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.slurm_cluster import SlurmCluster, until
from tests.trainings import ENVIRONMENT, ROOT, logged, make_ground, settings, trained_here, weights

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
pytestmark = pytest.mark.slow

EVERY_STEP = ["checkpoint_every=1000", "trainer.lightning.log_every_n_steps=1"]
"""No checkpoint but at the signal and the end of an epoch, and every step in the log."""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_ground(tmp_path_factory.mktemp("ground"))


@pytest.fixture(scope="module")
def undisturbed(ground: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both stages in one process, without a cluster."""
    out = tmp_path_factory.mktemp("undisturbed")
    trained_here(out, settings(ground, *EVERY_STEP))
    return out


def signalled(cluster: SlurmCluster, ground: Path, out: Path) -> Path:
    """A training as a job of the cluster, signalled in the first epoch of its second stage; returns its folder."""
    words = [f"out={out}", *settings(ground, *EVERY_STEP), "trainer=slurm", "fresh=true"]
    words += [f"+callbacks.probe={{_target_: tests.training_probe.TrainingProbe, folder: '{out}'}}"]
    environment = cluster.environment | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]}
    log = out / "launcher.log"
    with log.open("w") as file, subprocess.Popen(
        [sys.executable, "train/projector.py", "--multirun", *words],
        cwd=ROOT, env=environment, text=True, stdout=file, stderr=file,
    ) as process:  # fmt: skip

        def waits() -> bool:
            assert process.poll() is None, log.read_text()
            return (out / "step").exists()

        try:
            until(waits, "the training has come to its step", 400)
            cluster.ask("scancel", "--signal=USR2", cluster.only_job())
            (out / "step").unlink()
            assert cluster.finish(process) == 0, log.read_text()
        finally:
            process.kill()
    (folder,) = (path.parent for path in out.rglob("projector") if (path / "model.safetensors").is_file())
    starts = [len(list((folder / stage / "logs").glob("version_*"))) for stage in ("reconstruct", "distill")]
    assert starts == [2, 2]  # a stage that was over logs nothing in its second start
    return folder


def test_a_training_that_is_signalled_before_its_time_is_up_goes_on_with_the_next_step(
    cluster: SlurmCluster, ground: Path, undisturbed: Path, tmp_path: Path
) -> None:
    folder = signalled(cluster, ground, tmp_path)
    for stage in ("reconstruct", "distill"):
        assert logged(folder, stage, "train/loss") == logged(undisturbed, stage, "train/loss")
    ours, theirs = weights(folder), weights(undisturbed)
    assert all(ours[name].equal(theirs[name]) for name in theirs)
