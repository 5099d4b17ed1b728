"""A small process between a program and its server: the server ends when the program ends, even if it is killed.

Run as ``python supervisor.py COMMAND...`` with a pipe from the program as standard input. It needs the standard
library alone, so it starts in milliseconds and runs by path, whatever the program's import path is.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

GRACE_SECONDS = 15.0
"""From asking the server to end to killing it."""

_POLL_SECONDS = 0.2
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """Runs one command and ends after all its descendants, which it stops itself where necessary."""

    def __init__(self, command: Sequence[str]) -> None:
        self._stopping = False
        self._program = os.getppid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._request_stop)
        # Descendants that lose their parent become children of the supervisor and stay visible to it.
        _process_control(_PR_SET_CHILD_SUBREAPER, 1)
        self._server = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            # If the supervisor itself is killed, the server gets SIGTERM.
            preexec_fn=lambda: _process_control(_PR_SET_PDEATHSIG, signal.SIGTERM),
        )

    def run(self) -> int:
        """Wait for the server's or the program's end, stop what is left, and return the server's exit code."""
        while not self._stopping and self._server.returncode is None and not self._program_has_ended():
            self._reap()
        self._stop()
        code = self._server.returncode
        return 1 if code is None else code if code >= 0 else 128 - code

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self._stopping = True

    def _program_has_ended(self) -> bool:
        readable, _, _ = select.select([sys.stdin], [], [], _POLL_SECONDS)
        # A process forked off the program may hold the pipe open after the program's end: check both.
        return bool(readable and not os.read(sys.stdin.fileno(), 4096)) or os.getppid() != self._program

    def _stop(self) -> None:
        """Terminate every descendant, then kill what is left; also those that start meanwhile."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE_SECONDS
            signalled: set[int] = set()
            while (alive := descendants(os.getpid())) and time.monotonic() < deadline:
                for process in alive - signalled:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process, number)
                signalled = alive
                time.sleep(_POLL_SECONDS / 4)
                self._reap()
        self._reap()

    def _reap(self) -> None:
        with contextlib.suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                if ended[0] == self._server.pid:
                    self._server.returncode = os.waitstatus_to_exitcode(ended[1])


def descendants(ancestor: int) -> set[int]:
    """Ids of the living processes below a process, read from ``/proc``."""
    children: dict[int, list[int]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            # "pid (name) state ppid ...": the name may hold anything, so count from its closing bracket.
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            if state != "Z":
                children.setdefault(int(parent), []).append(int(folder.name))
    found: set[int] = set()
    waiting = [ancestor]
    while waiting:
        below = children.get(waiting.pop(), [])
        found.update(below)
        waiting.extend(below)
    return found


def _process_control(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


if __name__ == "__main__":
    sys.exit(Supervisor(sys.argv[1:]).run())
