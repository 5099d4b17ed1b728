"""The processes that decode and screen: one that has the filter loaded, and forks of it that do the work.

A fork is there in milliseconds and shares the loaded filter's memory. It can take no more than its share of
memory, writes no files, has no keys in its environment, and is gone when the gateway is. What a payload does to it is
done to a process that is thrown away.

Run as ``python -m embedspace.gateway.worker DESCRIPTOR`` with the settings as JSON on standard input and a socket of
the gateway's, over which come the sockets of new workers.
"""

from __future__ import annotations

import ctypes
import json
import os
import resource
import select
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from embedspace.gateway.frames import Frame
from embedspace.gateway.settings import Limits

if TYPE_CHECKING:
    from embedspace.gateway.screen import Screen
    from embedspace.space import EmbeddingSpace

MOST_JOBS = 16
"""That are screened together."""
MOST_BYTES = 32 * 2**20
"""Of their bodies, above which no further one is taken."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PROBES = 4


def load(settings: dict[str, Any]) -> tuple[Screen, dict[str, Any]]:
    """The screen, and what the gateway has to know of it."""
    import torch

    from embedspace.gateway.screen import Screen
    from embedspace.prompt import encode_prompt_embeds
    from embedspace.safety import SafetyFilter
    from embedspace.space import EmbeddingSpace
    from embedspace.verification.prompts import PARITY_PROMPTS

    torch.set_num_threads(1)  # a fork has none of its parent's threads
    space = EmbeddingSpace.from_pretrained(settings["model"])
    screening = SafetyFilter.from_pretrained(settings["filter"], space)
    screen = Screen(screening, space, Limits(**settings["limits"]), settings["screen_text"])
    probes = [_probe(space, text) for text in PARITY_PROMPTS[:_PROBES]]
    # What is made on first use is made once, for all forks; a whole score asks every layer.
    screening.score_many([space.embed(text) for text in PARITY_PROMPTS[:_PROBES]])
    about = {
        "model": space.name,
        "fingerprint": space.fingerprint,
        "hidden_size": space.hidden_size,
        "context_length": space.context_length,
        "probes": [{"ids": ids, "payload": encode_prompt_embeds(space.lookup(ids))} for ids in probes],
    }
    return screen, about


def main() -> None:
    """Load the filter, say how that went, and fork a worker for each socket that comes."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _die_with_parent(signal.SIGTERM)
    try:
        screen, about = load(json.load(sys.stdin))
    except Exception as error:
        control.sendall(Frame(0, {"error": f"{type(error).__name__}: {error}"}).to_bytes())
        return
    control.sendall(Frame(0, about).to_bytes())
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            work(screen, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])


def work(screen: Screen, connection: socket.socket) -> NoReturn:
    """Answer requests until the gateway is gone."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    _die_with_parent(signal.SIGKILL)
    confine(screen.limits.worker_bytes)
    connection.sendall(Frame(0, {"pid": os.getpid()}).to_bytes())
    try:
        while True:
            jobs = [Frame.receive(connection)]
            while (
                len(jobs) < MOST_JOBS
                and sum(len(job.body) for job in jobs) < MOST_BYTES
                and select.select([connection], [], [], 0)[0]
            ):
                jobs.append(Frame.receive(connection))
            for answer in screen.answers(jobs):
                connection.sendall(answer.to_bytes())
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)  # never back into the process that was forked


def _probe(space: EmbeddingSpace, text: str) -> list[int]:
    """Token ids of a short prompt, as a conversation where the model has a template."""
    try:
        return space.chat_ids([{"role": "user", "content": text}])
    except ValueError:
        return space.tokenize(text)


def confine(extra_bytes: int) -> None:
    """Bound what this process can take and do from here on, for good."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + extra_bytes
    bounds = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for kind, bound in bounds.items():
        _, hard = resource.getrlimit(kind)
        bound = bound if hard == resource.RLIM_INFINITY else min(bound, hard)
        resource.setrlimit(kind, (bound, bound))
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _die_with_parent(number: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
