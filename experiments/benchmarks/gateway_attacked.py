"""Benchmark of the gateway under attack: what one hostile caller costs another one."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from embedspace import EmbeddingSpace
from embedspace._util.progress import progress
from embedspace.gateway import Gateway
from experiments.benchmarks import attacker
from experiments.benchmarks.gateway import request_body
from experiments.benchmarks.measurement import Measurement, ratio
from experiments.benchmarks.stand_in import StandIn
from experiments.benchmarks.workloads import plain_texts

BENIGN_KEY, ATTACKER_KEY = "key-of-the-benign-caller", "key-of-the-attacker"
SERVER_SECONDS = 0.02
PAUSE_SECONDS = 0.02
"""Between an answer and the benign caller's next request."""
NEEDS_KEY = frozenset(
    {
        "100 KB of empty objects",
        "prompts of 60 random rows",
        "pickles that never end",
        "good prompts of 64 rows",
        "good prompts of 8,000 rows",
        "10 MB of text",
    }
)
"""Kinds that are the same as others without a key: none of their content is read."""


@dataclass(frozen=True)
class Observed:
    """What a benign caller saw for a while."""

    seconds: Sequence[float]
    refused: int
    peak_mb: float
    """Of the gateway's processes, each page counted once."""

    @property
    def median(self) -> float:
        """Of its requests."""
        return statistics.median(self.seconds)


def gateway_attacked(
    model: str, filter: str | Path, rounds: int, seconds: float = 5.0, kinds: Sequence[str] = ()
) -> Iterator[Measurement]:
    """One benign caller beside an attacker at 5 MB/s, with each kind of attack, with and without a key.

    Args:
        model: whose embeddings are sent.
        filter: saved filter, or the name of a shipped one.
        rounds: of each comparison with a time without attack.
        seconds: of one observation.
        kinds: of attacks; by default all.
    """
    space = EmbeddingSpace.from_pretrained(model)
    words = plain_texts(1)[0]
    attacks = [
        (kind, key)
        for kind in kinds or attacker.KINDS
        for key in ("", ATTACKER_KEY)
        if key or kind not in NEEDS_KEY
    ]
    body = json.dumps(request_body(space, words)).encode()
    long_text = " ".join([words] * (8000 // len(space.tokenize(words))))
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as long_body,
        StandIn(SERVER_SECONDS, model) as server,
        Gateway(server.url, filter, keys=[BENIGN_KEY, ATTACKER_KEY]) as gateway,
        progress("attacks", len(attacks)) as advance,
    ):
        json.dump(request_body(space, long_text), long_body)
        long_body.flush()
        texts = {"ATTACKER_PROMPT": body.decode(), "ATTACKER_LONG": long_body.name}
        observe(gateway, body, 1.0)  # warms up
        for kind, key in attacks:
            pairs = []
            for _ in range(max(2, rounds)):
                quiet = observe(gateway, body, seconds)
                with attacking(gateway.url, kind, key, seconds + 1, texts):
                    pairs.append((observe(gateway, body, seconds), quiet))
            yield measurement(kind, key, pairs)
            advance()


def measurement(kind: str, key: str, pairs: Sequence[tuple[Observed, Observed]]) -> Measurement:
    """The benign caller's requests under attack against those without one."""
    grown = statistics.median(1e3 * (attacked.median - quiet.median) for attacked, quiet in pairs)
    longest = max(max(attacked.seconds) for attacked, _ in pairs)
    return Measurement(
        f"a benign caller beside {kind}, {'with' if key else 'without'} a key",
        ratio([(attacked.median, quiet.median) for attacked, quiet in pairs]),
        "median +100 ms at most, maximum under 2 s",
        f"median {grown:+.0f} ms to {1e3 * statistics.median(q.median for _, q in pairs):.0f} ms, maximum "
        f"{1e3 * longest:.0f} ms of {sum(len(attacked.seconds) for attacked, _ in pairs)} requests, "
        f"{sum(attacked.refused for attacked, _ in pairs)} refused; at most "
        f"{max(attacked.peak_mb for attacked, _ in pairs):.0f} MB",
    )


@contextlib.contextmanager
def attacking(url: str, kind: str, key: str, seconds: float, texts: dict[str, str]) -> Iterator[None]:
    """While it lasts, an attacker sends."""
    process = subprocess.Popen(
        [sys.executable, str(attacker.__file__), url, kind, key, str(seconds)],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | texts,
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        time.sleep(0.5)
        yield
    finally:
        process.kill()
        process.communicate()


def observe(gateway: Gateway, body: bytes, seconds: float) -> Observed:
    """Send one request after the other for a while."""
    took: list[float] = []
    refused, peak = 0, [memory_mb(gateway)]
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.5):
            peak.append(memory_mb(gateway))

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.perf_counter()
        refused += request(gateway.url, body) != 200
        took.append(time.perf_counter() - began)
        time.sleep(PAUSE_SECONDS)
    done.set()
    watching.join()
    return Observed(took, refused, max(peak))


def request(url: str, body: bytes) -> int:
    """The status of one request over a connection of its own; 0 where it was closed."""
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {BENIGN_KEY}"}
    try:
        connection.request("POST", "/v1/completions", body, headers)
        answer = connection.getresponse()
        answer.read()
        return answer.status
    except (OSError, http.client.HTTPException):
        return 0
    finally:
        connection.close()


def memory_mb(gateway: Gateway) -> float:
    """Of the gateway and its workers, each page counted once."""
    import psutil

    total = 0
    for process in [psutil.Process(gateway.pid), *psutil.Process(gateway.pid).children(recursive=True)]:
        with contextlib.suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 1e6
