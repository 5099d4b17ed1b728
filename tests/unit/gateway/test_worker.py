"""Claims about the processes that screen."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedspace.gateway import Limits
from embedspace.gateway.frames import Frame
from embedspace.gateway.worker import work


@dataclass(frozen=True)
class Endless:
    """Stands in for a screener that never finishes with one request, and at once with others."""

    limits: Limits

    def answers(self, jobs: Sequence[Frame]) -> Iterator[Frame]:
        for job in jobs:
            while job.body == b"endless":
                pass
            yield Frame(job.number, {})


def test_a_request_that_takes_more_processor_time_than_is_allowed_ends_its_worker() -> None:
    ours, theirs = socket.socketpair()
    if (pid := os.fork()) == 0:
        ours.close()
        work(Endless(Limits(cpu_seconds=0.3)), theirs)  # type: ignore[arg-type]
    theirs.close()
    with ours:
        assert Frame.receive(ours).fields == {"pid": pid}
        for number in range(3):  # each has its own time
            ours.sendall(Frame(number, {}, b"short").to_bytes())
            assert Frame.receive(ours).number == number
        ours.sendall(Frame(4, {}, b"endless").to_bytes())
        _, status = os.waitpid(pid, 0)
    assert os.WTERMSIG(status) == signal.SIGPROF
