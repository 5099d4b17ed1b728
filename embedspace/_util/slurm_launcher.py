"""``launcher=slurm``: the jobs of a sweep on a SLURM cluster, and what is said when something goes wrong there."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr
from pathlib import Path
from typing import Any

import submitit
from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import CompactHydraException
from hydra_plugins.hydra_submitit_launcher import submitit_launcher
from submitit.core.utils import FailedJobError, FailedSubmissionError, UncompletedJobError
from submitit.slurm.slurm import SlurmInfoWatcher

SHARED_SETTINGS = (
    "timeout_min", "cpus_per_task", "gpus_per_node", "tasks_per_node", "mem_gb", "nodes", "name", "stderr_to_stdout",
)  # fmt: skip
"""What submitit calls the same for every kind of cluster; it wants ``slurm_`` before the others."""
RESULTS = (".jsonl", ".safetensors", ".parquet", ".ckpt")
"""Files that a job which is started again goes on from."""
GONE = "unknown to SLURM"
ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "REVOKED", "TIMEOUT",
    GONE,
)  # fmt: skip
"""States of a job that neither runs nor waits."""
ADVICE = {
    "gres": "launcher=slurm asks for no GPU, launcher=slurm_gpu for hydra.launcher.gpus_per_node=1",
    "node configuration": "no node has so much; lower hydra.launcher.mem_gb, cpus_per_task or gpus_per_node",
    "partition": "name one that sinfo lists: hydra.launcher.partition=NAME",
    "account": "name yours: hydra.launcher.account=NAME",
    "time limit": "lower hydra.launcher.timeout_min",
}
"""Words of an error of sbatch -> what to do."""


class SlurmFailed(CompactHydraException):
    """Hydra shows its text without a traceback and exits with 1."""


class SlurmLauncher(submitit_launcher.SlurmLauncher):  # type: ignore[misc]
    """Hydra's launcher for SLURM with errors of one line, and an end for jobs that time out before they have anything.

    Raises:
        SlurmFailed: the cluster refused the jobs, or some of them failed.
    """

    def __call__(self, *job: Any) -> JobReturn:
        """Run one job on its node. The error of one that failed is followed by the path of its log."""
        self._started = time.time()
        overrides, *rest = job
        # A job that is queued again goes on with what it has, also where it was to start afresh.
        if int(os.environ.get("SLURM_RESTART_COUNT", "0")):
            overrides = ["fresh=false" if each.startswith("fresh=") else each for each in overrides]
        returned: JobReturn = super().__call__(overrides, *rest)
        if returned.status == JobStatus.FAILED:
            error = returned._return_value
            if isinstance(error, CompactHydraException):
                print(error, file=sys.stderr)
            else:
                traceback.print_exception(error)
            returned.return_value = SlurmFailed(f"{error}\nits log: {submitit.JobEnvironment().paths.stderr}")
        return returned

    def checkpoint(self, *job: Any) -> Any:
        """What to run when the job is queued again; called at the signal that its time will soon be up.

        Raises:
            SlurmFailed: the job has written nothing to go on from, so that it would time out again and again.
        """
        ran, given = time.time() - self._started, self.params["timeout_min"] * 60
        # SLURM may signal a minute earlier than it is asked to; a job that gets the signal before that was preempted.
        if ran >= given - self.params["signal_delay_s"] - 60 and not _has_results():
            raise SlurmFailed(
                f"error: after {ran:.0f} s the job was told that its {given} s will soon be up, and it has written no "
                "record or checkpoint to go on from. The start-up alone may take that long: raise the time-out "
                f"(hydra.launcher.timeout_min={self.params['timeout_min']}) or lower the time between signal and "
                f"time-out (hydra.launcher.signal_delay_s={self.params['signal_delay_s']})"
            )
        return super().checkpoint(*job)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Submit all jobs and wait until the last one has ended."""
        assert self.config is not None
        Path(str(self.config.hydra.sweep.dir)).mkdir(parents=True, exist_ok=True)
        try:
            jobs = self._submit(job_overrides, initial_job_idx)
        except (FailedJobError, FailedSubmissionError) as error:
            words = str(error).strip().splitlines()[-1].removeprefix("sbatch: error: ")
            advice = [f". {advice}" for part, advice in ADVICE.items() if part in words.lower()]
            raise SlurmFailed(f"error: the cluster refused the jobs: {words}{''.join(advice[:1])}") from error
        except RuntimeError as error:
            raise SlurmFailed(f"error: {error}") from error
        print(f"on the cluster: {', '.join(job.job_id for job in jobs)}", file=sys.stderr, flush=True)
        results = [_result(job, overrides) for job, overrides in zip(jobs, job_overrides, strict=True)]
        if failed := [result for result in results if isinstance(result, str)]:
            raise SlurmFailed("\n".join([*failed, f"{len(failed)} of {len(jobs)} jobs failed"]))
        return [result for result in results if isinstance(result, JobReturn)]

    def _submit(self, job_overrides: Sequence[Sequence[str]], first: int) -> list[submitit.Job[JobReturn]]:
        settings = dict(self.params)
        submitit.SlurmJob.watcher = QueueWatcher(delay_s=60)
        executor = submitit.AutoExecutor(
            settings.pop("submitit_folder"),
            cluster="slurm",
            slurm_max_num_timeout=settings.pop("max_num_timeout"),
        )
        executor.update_parameters(
            **{
                name if name in SHARED_SETTINGS else f"slurm_{name}": given
                for name, given in settings.items()
            }
        )
        arguments = [
            (list(overrides), "hydra.sweep.dir", number, f"job_id_for_{number}", Singleton.get_state())
            for number, overrides in enumerate(job_overrides, first)
        ]
        with redirect_stderr(io.StringIO()):  # it prints what sbatch prints, and raises it as well
            return executor.map_array(self, *zip(*arguments, strict=True))


class QueueWatcher(SlurmInfoWatcher):
    """Jobs' states by ``squeue``, which every cluster answers; submitit's ``sacct`` needs accounting."""

    def update(self) -> None:
        """Ask for the states of all jobs that have not ended; where the controller does not answer, again later."""
        waited = sorted(self._registered - self._finished)
        if not waited:
            return
        ids = ",".join(dict.fromkeys(job.split("_")[0] for job in waited))
        command = ["squeue", "--noheader", "--array", "--states=all", "--format=%i %T", f"--jobs={ids}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        self._num_calls += 1
        self._last_status_check = time.time()
        if done.returncode and "Invalid job id" not in done.stderr:
            return
        states = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
        for job in waited:
            # SLURM forgets a job some minutes after its end.
            self._info_dict[job] = {"JobID": job, "State": states.get(job, GONE)}
            if self.is_done(job, mode="cache"):
                self._finished.add(job)

    def is_done(self, job_id: str, mode: str = "standard") -> bool:
        """Whether the job neither runs nor waits, to be queued again for example."""
        return self.get_state(job_id, mode=mode) in ENDED


def _has_results() -> bool:
    """Whether the job has written anything to go on from since it was submitted or last queued again.

    Both times are those of the shared disk, whose clock may differ from the node's.
    """
    since = submitit.JobEnvironment().paths.submitted_pickle.stat().st_mtime
    files = Path(HydraConfig.get().runtime.output_dir).rglob("*") if HydraConfig.initialized() else ()
    return any(path.suffix in RESULTS and path.stat().st_mtime > since for path in files)


def _result(job: submitit.Job[JobReturn], overrides: Sequence[str]) -> JobReturn | str:
    """What the job returned, when it has ended; of a failed one its error."""
    title = f"job {job.job_id} ({' '.join(overrides)})"
    try:
        returned = job.results()[0]
    except FailedJobError as error:  # it failed outside of the experiment
        trace = str(error).split("-" * 22)[1].strip().splitlines()
        return f"{title}: error: {trace[-1]}\nits log: {job.paths.stderr}"
    except UncompletedJobError:
        state = job.watcher.get_state(job.job_id, mode="cache")
        said = [line for line in (job.stderr() or "").splitlines() if line.strip()]
        return (
            f"{title}: error: it ended without a result (state: {state})"
            f"{f'; the last line of its log: {said[-1]}' if said else ''}\nits log: {job.paths.stderr}"
        )
    return f"{title}: {returned._return_value}" if returned.status == JobStatus.FAILED else returned


# Hydra takes launchers from the package hydra_plugins alone, by name.
replaced = submitit_launcher.SlurmLauncher
Plugins.instance().class_name_to_class[f"{replaced.__module__}.{replaced.__name__}"] = SlurmLauncher
