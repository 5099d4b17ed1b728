"""Claims about the supervisor: nothing that it runs outlives the program that started it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import psutil
import pytest

from embedspace.engines.vllm import supervisor

SUPERVISOR = [sys.executable, str(Path(supervisor.__file__))]

# A server with a worker of its own, in a session of its own, as far from its parent as a process can get.
SERVER = """
import os, pathlib, subprocess, sys, time
worker = subprocess.Popen([sys.executable, "-c", sys.argv[2]], start_new_session=True)
pathlib.Path(sys.argv[1] + ".new").write_text(f"{os.getppid()} {os.getpid()} {worker.pid}")
pathlib.Path(sys.argv[1] + ".new").rename(sys.argv[1])
"""
SLEEP = "import time; time.sleep(600)"
STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"

PROGRAM = """
import os, subprocess, sys, time
process = subprocess.Popen(sys.argv[2:], stdin=subprocess.PIPE, start_new_session=True)
if sys.argv[1] == "fork" and os.fork() == 0:
    time.sleep(600)  # holds the pipe, as a worker of a data loader does
process.wait()
"""


def wait_until(condition: Callable[[], bool], seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.02)


def is_gone(process: int) -> bool:
    try:
        return psutil.Process(process).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


@pytest.fixture
def started() -> Iterator[list[int]]:
    """Ids of processes that must not outlive the test even where it fails."""
    processes: list[int] = []
    yield processes
    for process in processes:
        if not is_gone(process):
            os.kill(process, signal.SIGKILL)


@pytest.fixture
def server(tmp_path: Path) -> Callable[..., list[str]]:
    """The command of a server that goes on with some code after it has written down its processes."""

    def command(then: str = SLEEP, worker: str = SLEEP) -> list[str]:
        return [sys.executable, "-c", SERVER + then, str(tmp_path / "processes"), worker]

    return command


@pytest.fixture
def processes(tmp_path: Path, started: list[int]) -> Callable[[], list[int]]:
    """Waits for a server, and gives the ids of supervisor, server and worker."""

    def read() -> list[int]:
        wait_until((tmp_path / "processes").exists)
        started.extend(map(int, (tmp_path / "processes").read_text().split()))
        return started[-3:]

    return read


def run_program(command: Sequence[str], kind: str = "plain") -> subprocess.Popen[bytes]:
    return subprocess.Popen([sys.executable, "-c", PROGRAM, kind, *SUPERVISOR, *command])


def run_supervisor(
    command: Sequence[str], grace: float = supervisor.GRACE_SECONDS
) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from embedspace.engines.vllm import supervisor; "
        f"supervisor.GRACE_SECONDS = {grace}; sys.exit(supervisor.Supervisor(sys.argv[1:]).run())"
    )
    return subprocess.Popen([sys.executable, "-c", code, *command], stdin=subprocess.PIPE)


@pytest.mark.parametrize("kind", ["plain", "fork"])
def test_server_and_workers_are_gone_after_their_program_is_killed(
    server: Callable[..., list[str]], processes: Callable[[], list[int]], started: list[int], kind: str
) -> None:
    program = run_program(server(), kind)
    ids = processes()
    started.extend(child.pid for child in psutil.Process(program.pid).children())
    program.kill()
    program.wait()
    wait_until(lambda: all(map(is_gone, ids)))


def test_closing_the_pipe_ends_the_server(
    server: Callable[..., list[str]], processes: Callable[[], list[int]]
) -> None:
    program = run_supervisor(server())
    ids = processes()
    assert program.stdin is not None
    program.stdin.close()
    assert program.wait(timeout=120) == 128 + signal.SIGTERM
    assert all(map(is_gone, ids))


def test_asking_the_supervisor_to_end_ends_the_server(
    server: Callable[..., list[str]], processes: Callable[[], list[int]]
) -> None:
    program = run_supervisor(server())
    ids = processes()
    program.terminate()
    program.communicate(timeout=120)
    assert all(map(is_gone, ids))


def test_processes_that_do_not_listen_are_killed(
    server: Callable[..., list[str]], processes: Callable[[], list[int]]
) -> None:
    program = run_supervisor(server(STUBBORN, STUBBORN), grace=0.3)
    ids = processes()
    program.communicate(timeout=120)
    assert all(map(is_gone, ids))


def test_the_servers_exit_code_is_reported_and_its_workers_end_with_it(
    server: Callable[..., list[str]], processes: Callable[[], list[int]]
) -> None:
    program = run_supervisor(server("sys.exit(7)"))
    ids = processes()
    assert program.wait(timeout=120) == 7
    assert program.stdin is not None
    program.stdin.close()
    assert all(map(is_gone, ids))


def test_a_server_whose_supervisor_is_killed_ends(
    server: Callable[..., list[str]], processes: Callable[[], list[int]]
) -> None:
    program = run_supervisor(server())
    _, process, _ = processes()
    program.kill()
    program.communicate()
    wait_until(lambda: is_gone(process))


def test_descendants_are_found_through_names_with_brackets(tmp_path: Path) -> None:
    odd = tmp_path / "a) (b"
    odd.symlink_to(sys.executable)
    with subprocess.Popen([odd, "-c", SLEEP]) as process:
        wait_until(lambda: process.pid in supervisor.descendants(os.getpid()))
        process.kill()
        process.wait()
    assert process.pid not in supervisor.descendants(os.getpid())
