"""The processes that decode and screen: one that loads the filter, and its forks, the workers.

A fork starts in milliseconds and shares the memory of the loaded filter. Its memory is limited, it cannot write files,
has no secrets in its environment, and ends with the gateway. A payload that compromises it has compromised only a
disposable process.

Run as ``python -m embedspace.gateway.worker DESCRIPTOR`` with the settings as JSON on standard input. The descriptor
is a socket to the gateway, which sends the sockets of new workers over it.
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
    from embedspace.gateway.screener import RequestScreener
    from embedspace.space import EmbeddingSpace

MAX_BATCH_JOBS = 16
"""Most requests that are screened together."""
MAX_BATCH_BYTES = 32 * 2**20
"""Size of their bodies from which on no further request joins."""

_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
_PROBES = 4


def load(settings: dict[str, Any]) -> tuple[RequestScreener, dict[str, Any]]:
    """The screener, and the description of its filter for the gateway."""
    import torch

    from embedspace.gateway.screener import RequestScreener
    from embedspace.prompt import encode_prompt_embeds
    from embedspace.safety import SafetyFilter
    from embedspace.space import EmbeddingSpace
    from embedspace.verification.prompts import PARITY_PROMPTS

    torch.set_num_threads(1)  # a fork does not inherit threads
    space = EmbeddingSpace.from_pretrained(settings["model"])
    guard = SafetyFilter.from_pretrained(settings["filter"], space)
    screener = RequestScreener(guard, space, Limits(**settings["limits"]), settings["screen_text"])
    probes = [_probe(space, text) for text in PARITY_PROMPTS[:_PROBES]]
    # Full scores run every layer, so that lazily loaded parts are loaded once for all forks: also what compares rows
    # that are no token's with the whole vocabulary.
    rows = [space.embed(text, special_tokens=False).vectors.float() for text in PARITY_PROMPTS[:_PROBES]]
    guard.score_many([*rows, *(1.1 * each for each in rows)])
    filter_info = {
        "model": space.name,
        "fingerprint": space.fingerprint,
        "hidden_size": space.hidden_size,
        "context_length": space.context_length,
        "probes": [{"ids": ids, "payload": encode_prompt_embeds(space.lookup(ids))} for ids in probes],
    }
    return screener, filter_info


def main() -> None:
    """Load the filter, report the result, and fork a worker for each socket received."""
    control = socket.socket(fileno=int(sys.argv[1]))
    _die_with_parent(signal.SIGTERM)
    try:
        screener, filter_info = load(json.load(sys.stdin))
    except Exception as error:
        control.sendall(Frame(0, {"error": f"{type(error).__name__}: {error}"}).to_bytes())
        return
    control.sendall(Frame(0, filter_info).to_bytes())
    signal.signal(signal.SIGCHLD, lambda *_: _reap())
    while True:
        message, descriptors, _, _ = socket.recv_fds(control, 1, 1)
        if not message:
            return
        if os.fork() == 0:
            control.close()
            work(screener, socket.socket(fileno=descriptors[0]))
        os.close(descriptors[0])


def work(screener: RequestScreener, connection: socket.socket) -> NoReturn:
    """Answer requests until the gateway ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    _die_with_parent(signal.SIGKILL)
    restrict(screener.limits.worker_bytes)
    connection.sendall(Frame(0, {"pid": os.getpid()}).to_bytes())
    try:
        while True:
            jobs = [Frame.receive(connection)]
            while (
                len(jobs) < MAX_BATCH_JOBS
                and sum(len(job.body) for job in jobs) < MAX_BATCH_BYTES
                and select.select([connection], [], [], 0)[0]
            ):
                jobs.append(Frame.receive(connection))
            signal.setitimer(signal.ITIMER_PROF, screener.limits.cpu_seconds)  # SIGPROF ends the process
            for answer in screener.answers(jobs):
                connection.sendall(answer.to_bytes())
            signal.setitimer(signal.ITIMER_PROF, 0)
    except (EOFError, OSError):
        os._exit(0)
    finally:
        os._exit(1)  # never return into the parent's code


def _probe(space: EmbeddingSpace, text: str) -> list[int]:
    """Token ids of a short prompt, as a conversation if the model has a chat template."""
    try:
        return space.chat_ids([{"role": "user", "content": text}])
    except ValueError:
        return space.tokenize(text)


def restrict(extra_bytes: int) -> None:
    """Limit the resources and privileges of this process irrevocably."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    memory = pages * resource.getpagesize() + extra_bytes
    limits = {
        resource.RLIMIT_AS: memory,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 256,
    }
    for kind, limit in limits.items():
        _, hard = resource.getrlimit(kind)
        limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (limit, limit))
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
