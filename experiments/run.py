"""Run an experiment: ``python experiments/run.py experiment=style engine=transformers model=smollm2``."""

from __future__ import annotations

import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from embedspace._util import hydra_choices  # noqa: F401  makes ${chosen:...} known to Hydra
from embedspace._util.setting_types import require_types
from embedspace.errors import EngineError
from experiments.launchers import missing_launcher

if TYPE_CHECKING:
    from embedspace.reporting import Report

with suppress(ModuleNotFoundError):  # its plug-in is optional
    from embedspace._util import slurm_launcher  # noqa: F401  makes launcher=slurm ours

SIZES = Path(__file__).parents[1] / "configs" / "sizes"
"""What ``size=`` changes, one file for each experiment and size."""


class RunFailed(CompactHydraException):
    """Hydra shows its text without a traceback, continues with the other jobs of a sweep, and exits with 1."""


@hydra.main(version_base=None, config_path="../configs", config_name="run")
def main(config: DictConfig) -> None:
    """Ask what is not recorded yet, analyse, and write the report."""
    folder = folder_of(config)
    kept = f"the records are in {folder}, the same command resumes the run"
    try:
        run_experiment(config, folder, how_to_ask_less(config))
    except KeyboardInterrupt:
        print(f"\ninterrupted; {kept}")
        sys.exit(130)
    except EngineError as error:
        raise RunFailed(f"error: {error}\n{kept}") from error
    except (ValueError, TypeError, OSError) as error:
        raise RunFailed(f"error: {error}") from error


def run_experiment(config: DictConfig, folder: Path, hint: str = "") -> Report | None:
    """One run from its configuration to its report; a benchmark has none.

    Args:
        config: of ``configs/run.yaml``.
        folder: of the run.
        hint: what makes the run smaller, which is said before it starts.

    Raises:
        RunFailed: some cases failed; the report is written all the same.
    """
    from embedspace.reporting import write_report
    from embedspace.runs import UNIMPORTANT, Run, execute
    from experiments.experiment import Experiment
    from experiments.sealed_sets import count_look

    values = checked(config)
    experiment = instantiate(config.experiment)
    if not isinstance(experiment, Experiment):  # a benchmark measures the machine and asks the model nothing
        if hint:
            print(f"{folder.name}: {hint}", file=sys.stderr, flush=True)
        print(experiment.run(folder))
        return None
    space, sampling = instantiate(config.model), instantiate(config.sampling)
    open_engine = partial(instantiate, config.engine)
    with Run.open(
        folder, values, fingerprint=space.fingerprint, fresh=config.fresh, ignored=UNIMPORTANT
    ) as run:
        summary = execute(run, open_engine, experiment.cases(space), sampling, title=folder.name, hint=hint)
        print(f"{summary}, records in {run.records_path}")
        report = experiment.analyse([record for record in run.records() if record.error is None])
        if said := count_look(experiment, run, trial=config.size == "small"):
            report = replace(report, summary=f"{report.summary}\n\n{said}".strip())
        print(f"report: {write_report(report, run)}")
    if summary.failed:
        raise RunFailed(
            f"{summary.failed} of {summary.cases} cases failed; their errors are in {run.records_path} and in the "
            "report. The same command tries them again"
        )
    return report


def checked(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without keys of servers.

    Raises:
        ValueError: a setting still needs a value, or has one of another type.
    """
    missing = OmegaConf.missing_keys(config)
    if "size" in missing:
        raise ValueError(
            f"this experiment has one size, full; leave size= out. Those with size=small and size=medium: "
            f"{', '.join(sized_experiments())}"
        )
    if missing:
        raise ValueError(
            f"these settings have no value: give {', '.join(f'{key}=...' for key in sorted(missing))}"
        )
    values: Any = OmegaConf.to_container(config, resolve=True)
    for key in ("experiment", "engine", "model", "sampling"):
        require_types(values[key], key)
    values["engine"].pop("api_key", None)
    return dict(values)


def sized_experiments() -> list[str]:
    """Names of the experiments that can be run smaller."""
    return sorted(path.stem.removesuffix("_small") for path in SIZES.glob("*_small.yaml"))


def how_to_ask_less(config: DictConfig) -> str:
    """What makes a run smaller; empty where nothing does."""
    if (
        config.size == "small"
        or HydraConfig.get().runtime.choices.get("experiment") not in sized_experiments()
    ):
        return ""
    return f"for a smaller run: {'size=small or size=medium' if config.size == 'full' else 'size=small'}"


def folder_of(config: DictConfig) -> Path:
    """The run's folder: ``out``, or in a sweep the job's own folder."""
    job = HydraConfig.get()
    return Path(job.runtime.output_dir if job.mode == RunMode.MULTIRUN else config.out)


if __name__ == "__main__":
    if absent := missing_launcher(sys.argv[1:]):
        sys.exit(f"error: {absent}")
    main()
