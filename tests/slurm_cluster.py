"""A real SLURM cluster of one node on this machine: munged, slurmctld and slurmd with folder and ports of their own."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

DAEMONS = ("munged", "slurmctld", "slurmd")
NODE = "one"
PATH = f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin"
"""Where the daemons are looked for."""

CONFIGURATION = """\
ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmdPort={node_port}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=1
SlurmdParameters=config_overrides
SlurmdTimeout=6
ReturnToService=2
JobRequeue=1
AccountingStorageType=accounting_storage/none
NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 CPUs=4 RealMemory=16000
PartitionName=main Nodes={node} Default=YES MaxTime=INFINITE State=UP
"""
"""Without accounting, without GPUs, and with four jobs at a time whatever the machine has."""


def unavailable() -> str | None:
    """Why no cluster can be started here; None where one can."""
    if missing := [name for name in DAEMONS if shutil.which(name, path=PATH) is None]:
        return f"SLURM is not installed ({', '.join(missing)} missing); as root, tests/install_slurm.sh installs it"
    if os.geteuid() != 0:
        return "slurmd has to be started by root"
    return None


def version() -> tuple[int, int]:
    """Year and month of SLURM's release, such as 22, 5; 0, 0 where it is not installed."""
    path = shutil.which("slurmctld", path=PATH)
    said = subprocess.run([path, "-V"], capture_output=True, text=True).stdout if path else ""
    found = re.search(r"(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


@dataclass
class SlurmCluster:
    """The daemons of one cluster, each of which can be killed and started again."""

    folder: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    stopping: bool = False

    @property
    def environment(self) -> dict[str, str]:
        """For commands that use the cluster."""
        return os.environ | {
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": PATH,
        }

    def ask(self, *words: str) -> str:
        """What a command of SLURM prints; errors included, since a state is asked again until it is right.

        Where the controller has died of a signal that nobody sent, a fault of SLURM itself, the test is skipped.
        """
        controller = self.processes.get("slurmctld")
        if (
            controller is not None
            and (code := controller.poll()) is not None
            and code < 0
            and not self.stopping
        ):
            pytest.skip(f"SLURM's controller died by itself (signal {-code})")
        done = subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    def states(self) -> dict[str, str]:
        """The state of each job, by its id; a task of an array has ``7_1``."""
        lines = self.ask("squeue", "--noheader", "--array", "--states=all", "--format=%i %T").splitlines()
        return dict(parts for line in lines if len(parts := line.split()) == 2)  # type: ignore[misc]

    def node_state(self) -> str:
        """Such as ``idle``; with ``*`` where the node does not answer."""
        return self.ask("sinfo", "--noheader", f"--nodes={NODE}", "--format=%t").strip()

    def hurry(self, job: str) -> None:
        """Start a requeued job at once, which SLURM otherwise holds back for two minutes."""
        if self.ask("squeue", "--noheader", f"--jobs={job}", "--format=%r").strip() == "BeginTime":
            self.ask("scontrol", "update", f"jobid={job}", "StartTime=now")

    def only_job(self) -> str:
        """The job that runs."""
        (job,) = (job for job, state in self.states().items() if state == "RUNNING")
        return job

    def finish(self, process: subprocess.Popen[str]) -> int:
        """Wait for a launcher; jobs that were queued again start at once."""

        def over() -> bool:
            for job, state in self.states().items():
                if state == "PENDING":
                    self.hurry(job)
            return process.poll() is not None

        until(over, "the launcher ends", 400)
        return process.wait()

    def start(self) -> None:
        """Start all daemons and wait until the node takes jobs."""
        (self.folder / "state").mkdir()
        (self.folder / "spool").mkdir()
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        self._configure()
        files = {"socket": "socket", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        places = [f"--{option}={self.folder / 'munge'}.{ending}" for option, ending in files.items()]
        self._spawn("munged", "--foreground", "--force", f"--key-file={key}", *places)
        until(lambda: (self.folder / "munge.socket").exists(), "munged listens", 60)
        self._spawn("slurmctld", "-D")
        until(lambda: "is UP" in self.ask("scontrol", "ping"), "slurmctld answers", 60)
        self.start_node()

    def _configure(self) -> None:
        controller, node = free_ports(2)
        (self.folder / "slurm.conf").write_text(
            CONFIGURATION.format(
                host=socket.gethostname().split(".")[0], folder=self.folder, user=getpass.getuser(), node=NODE,
                controller_port=controller, node_port=node,
            )
        )  # fmt: skip

    def start_node(self) -> None:
        """Start slurmd and wait until the node can run jobs."""
        self._spawn("slurmd", "-D", "-N", NODE)
        until(lambda: self.node_state() in ("idle", "mix", "alloc"), "the node is up", 90)

    def kill_daemon_of_node(self) -> None:
        """Kill slurmd alone; the jobs of its node run on.

        They must not be queued again afterwards: SLURM 22.05 then dies of a null pointer.
        """
        self.processes["slurmd"].kill()
        self.processes["slurmd"].wait()

    def kill_node(self) -> None:
        """Kill slurmd and every process of the node's jobs, as the loss of the machine would."""
        self.kill_daemon_of_node()
        self._kill_jobs()

    def stop(self) -> None:
        """Cancel what runs and end every process of the cluster, by its id."""
        self.stopping = True
        if "slurmctld" in self.processes:
            self.ask("scancel", f"--user={getpass.getuser()}")
            with contextlib.suppress(TimeoutError):
                until(lambda: not self.ask("squeue", "--noheader").strip(), "the queue is empty", 15)
        self._kill_jobs()
        for name in reversed(list(self.processes)):
            self.processes[name].terminate()
        for process in self.processes.values():
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def _kill_jobs(self) -> None:
        """Kill the steps of all jobs, which are no daemon's children but have slurmd's log open, and all below them."""
        log = str(self.folder / "slurmd.log")
        found: list[psutil.Process] = []
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == "slurmstepd" and log in (f.path for f in process.open_files()):
                    found += [process, *process.children(recursive=True)]
        for process in found:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(found, timeout=30)

    def _spawn(self, name: str, *arguments: str) -> None:
        executable = shutil.which(name, path=PATH)
        assert executable is not None
        with (self.folder / f"{name}.out").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                [executable, *arguments], cwd=self.folder, env=self.environment, stdout=output, stderr=output
            )


@contextmanager
def slurm_cluster(folder: Path) -> Iterator[SlurmCluster]:
    """A running cluster, which ends with the block."""
    cluster = SlurmCluster(folder)
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.stop()


def until(condition: Callable[[], object], what: str, seconds: float, look: float = 0.2) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {seconds:.0f} s in vain: {what}")
        time.sleep(look)


def free_ports(count: int) -> list[int]:
    """Ports that nothing listens on."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
