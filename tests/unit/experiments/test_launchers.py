"""Every launcher's configuration composes, and one whose plug-in is missing says what to install."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from experiments import launchers
from experiments.launchers import EXTRAS, missing_launcher

ROOT = Path(__file__).parents[3]
NAMES = sorted(path.stem for path in (ROOT / "configs/launcher").glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "configs"), version_base=None):
        return compose("run", overrides=[*overrides, "out=unused"], return_hydra_config=True)


@pytest.mark.parametrize("name", NAMES)
def test_every_launcher_names_its_plug_in(name: str) -> None:
    if missing_launcher([f"launcher={name}"]):
        pytest.skip("the plug-in is not installed")
    target = composed(f"launcher={name}").hydra.launcher._target_
    assert target.startswith(EXTRAS[name][0] if name in EXTRAS else "hydra._internal.core_plugins.basic")


def test_the_default_launcher_is_hydras_own() -> None:
    assert composed().hydra.launcher == composed("launcher=local").hydra.launcher
    assert set(composed().hydra.launcher) == {"_target_"}


def test_the_launcher_changes_nothing_that_a_run_is_compared_by() -> None:
    for name in NAMES:
        if missing_launcher([f"launcher={name}"]) is None:
            assert set(composed(f"launcher={name}")) == set(composed())
            assert "launcher" not in composed(f"launcher={name}")


@pytest.mark.parametrize("word", ["launcher=joblib", "+launcher=slurm", "hydra/launcher=submitit_local"])
def test_a_missing_plug_in_names_an_extra_that_exists(word: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launchers, "_installed", lambda module: False)
    message = missing_launcher(["experiment=style", word])
    assert message is not None
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    extra = message.split("embedspace[")[1].split("]")[0]
    assert any("launcher" in requirement for requirement in extras[extra])


def test_nothing_is_missing_where_the_launcher_is_hydras_own() -> None:
    assert missing_launcher(["--multirun", "experiment=style", "launcher=local"]) is None
    assert missing_launcher(["experiment=style"]) is None


def test_the_cluster_job_asks_for_gpus_time_and_to_be_queued_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The script that goes to sbatch, made by submitit itself."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    import submitit

    cluster = tmp_path / "cluster"
    cluster.mkdir()
    for name in ("sbatch", "srun"):
        (cluster / name).write_text("#!/bin/sh\necho Submitted batch job 7\n")
        (cluster / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{cluster}:/usr/bin:/bin")
    settings = OmegaConf.to_container(
        composed("launcher=slurm_gpu", "hydra.launcher.partition=gpu").hydra.launcher, resolve=False
    )
    assert isinstance(settings, dict)
    shared = {"timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes"}
    executor = submitit.AutoExecutor(
        tmp_path / "jobs", cluster="slurm", slurm_max_num_timeout=settings["max_num_timeout"]
    )
    executor.update_parameters(
        **{name: settings[name] for name in shared},
        **{
            f"slurm_{name}": settings[name]
            for name in ("partition", "signal_delay_s", "array_parallelism", "additional_parameters")
        },
    )
    executor.submit(print, "hello")
    script = tmp_path / "jobs" / "7_submission.sh"
    lines = script.read_text().splitlines()
    for flag in ("--partition=gpu", "--gpus-per-node=1", "--time=240", "--requeue", "--nodes=1"):
        assert f"#SBATCH {flag}" in lines
    assert "#SBATCH --signal=USR2@120" in lines


def test_a_cluster_job_asks_for_nothing_that_a_cluster_may_not_have() -> None:
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    settings = composed("launcher=slurm").hydra.launcher
    assert [settings[name] for name in ("partition", "gpus_per_node", "cpus_per_task", "mem_gb")] == [
        None
    ] * 4
