"""Run an experiment: ``python experiments/run.py experiment=style engine=transformers model=smollm2``."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import CompactHydraException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from embedspace.errors import EngineError
from experiments.launchers import missing_launcher

if TYPE_CHECKING:
    from embedspace.reporting import Report


class RunFailed(CompactHydraException):
    """Hydra shows its text without a traceback, goes on with the other jobs of a sweep, and exits with 1."""


@hydra.main(version_base=None, config_path="../configs", config_name="run")
def main(config: DictConfig) -> None:
    """Ask what is not recorded yet, analyse, and write the report."""
    try:
        run_experiment(config, folder_of(config))
    except KeyboardInterrupt:
        print(f"\ninterrupted; the records are in {folder_of(config)}, the same command goes on from there")
        sys.exit(130)
    except EngineError as error:
        raise RunFailed(
            f"error: {error}\nthe records are in {folder_of(config)}, the same command goes on from there"
        ) from error
    except (ValueError, TypeError, OSError) as error:
        raise RunFailed(f"error: {error}") from error


def run_experiment(config: DictConfig, folder: Path) -> Report | None:
    """One run from its configuration to its report; a benchmark has none.

    Raises:
        RunFailed: some cases failed; the report is written all the same.
    """
    from embedspace.reporting import write_report
    from embedspace.runs import UNIMPORTANT, Run, execute
    from experiments.experiment import Experiment

    values = checked(config)
    experiment = instantiate(config.experiment)
    if not isinstance(experiment, Experiment):  # a benchmark measures the machine and asks the model nothing
        print(experiment.run(folder))
        return None
    space, sampling = instantiate(config.model), instantiate(config.sampling)
    with Run.open(
        folder, values, fingerprint=space.fingerprint, fresh=config.fresh, ignored=UNIMPORTANT
    ) as run:
        outcome = execute(
            run,
            partial(instantiate, config.engine),
            experiment.cases(space),
            sampling,
            title=folder.name,
        )
        good = [record for record in run.records() if record.error is None]
        print(f"{outcome.cases} cases, {outcome.recorded} asked now, records in {run.records_path}")
        if outcome.retries:
            told = ", ".join(f"{reason} {times}" for reason, times in sorted(outcome.retries.items()))
            print(f"{sum(outcome.retries.values())} requests were sent again: {told}")
        if outcome.skipped:
            print(
                f"{outcome.skipped} cases ask for likelihoods alone, which this engine cannot tell; left out"
            )
        report = experiment.analyse(good)
        print(f"report: {write_report(report, run)}")
    if outcome.failed:
        raise RunFailed(
            f"{outcome.failed} of {outcome.cases} cases failed; their errors are in {run.records_path} and in the "
            "report. The same command tries them again"
        )
    return report


def checked(config: DictConfig) -> dict[str, Any]:
    """The configuration as plain values, without keys of servers.

    Raises:
        ValueError: a setting still needs a value.
    """
    if missing := OmegaConf.missing_keys(config):
        raise ValueError(
            f"these settings have no value: give {', '.join(f'{key}=...' for key in sorted(missing))}"
        )
    values: Any = OmegaConf.to_container(config, resolve=True)
    values["engine"].pop("api_key", None)
    return dict(values)


def folder_of(config: DictConfig) -> Path:
    """The run's folder: ``out``, or in a sweep the job's own folder."""
    job = HydraConfig.get()
    return Path(job.runtime.output_dir if job.mode == RunMode.MULTIRUN else config.out)


if __name__ == "__main__":
    if absent := missing_launcher(sys.argv[1:]):
        sys.exit(f"error: {absent}")
    main()
