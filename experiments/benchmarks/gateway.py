"""Benchmarks of the gateway: latency, throughput and memory, against the server reached directly."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from embedspace import EmbeddingSpace, encode_prompt_embeds
from embedspace._util.progress import progress
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from embedspace.gateway import Gateway
from experiments.benchmarks.measurement import Measurement, medians, ratio, timed
from experiments.benchmarks.workloads import plain_texts
from experiments.reliability.small_server import SmallServer

AT_ONCE = (1, 8, 64)
PROMPTS = 64
NEW_TOKENS = 32
SHORT_ANSWER = 16
"""New tokens of the answers whose latency is measured."""
WAITING_SECONDS = 1.0
"""How long the stand-in server waits before it answers: about what a short answer takes."""


def gateway(model: str, filter: str | Path, rounds: int) -> Iterator[Measurement]:
    """Throughput and latency before vLLM, from which the gateway takes processors where both are on one machine.

    Args:
        model: whose embeddings are sent.
        filter: saved filter, or the name of a shipped one.
        rounds: of each comparison.
    """
    space = EmbeddingSpace.from_pretrained(model)
    with VLLMServer(model) as server, Gateway(server.url, filter, arguments=["--model", model]) as before:
        yield throughput(space, before.url, server.url, rounds)
        yield from latency(space, before.url, server.url, rounds, "vLLM")


def gateway_alone(model: str, filter: str | Path, rounds: int, requests: int) -> Iterator[Measurement]:
    """Latency and memory before a stand-in server that computes nothing: what the gateway itself takes.

    Args:
        model: whose embeddings are sent.
        filter: saved filter, or the name of a shipped one.
        rounds: of each comparison.
        requests: over which memory is watched, at least 500.
    """
    space = EmbeddingSpace.from_pretrained(model)
    with (
        SmallServer(WAITING_SECONDS, model=model, text="fine") as stand_in,
        Gateway(stand_in.url, filter) as before,
    ):
        what = f"a stand-in server that waits {WAITING_SECONDS:g} s"
        yield from latency(space, before.url, stand_in.url, rounds, what)
    yield memory(space, filter, requests)


def latency(
    space: EmbeddingSpace,
    through: str,
    direct: str,
    rounds: int,
    server: str,
    at_once: Sequence[int] = AT_ONCE,
) -> Iterator[Measurement]:
    """From sending a prompt to its answer, with callers that begin evenly spread over a second.

    Args:
        space: of the prompts.
        through: address of the gateway.
        direct: address of the server behind it.
        rounds: of both, in turn.
        server: what it is, in words.
        at_once: callers.
    """
    bodies = [request_body(space, text, SHORT_ANSWER) for text in plain_texts(PROMPTS)]
    for url in (through, direct):  # fills the server's prefix cache
        asyncio.run(request_times(url, bodies, 8, total=PROMPTS))
    for count in at_once:
        pairs = [
            (
                asyncio.run(request_times(through, bodies, count)),
                asyncio.run(request_times(direct, bodies, count)),
            )
            for _ in range(rounds)
        ]
        own, other = (sorted(seconds for pair in pairs for seconds in pair[side]) for side in (0, 1))
        yield Measurement(
            f"latency through the gateway to direct, {count} requests at once, {server}",
            ratio([(statistics.median(own), statistics.median(other)) for own, other in pairs]),
            "reported",
            f"median {1e3 * (statistics.median(own) - statistics.median(other)):+.0f} ms to "
            f"{1e3 * statistics.median(other):.0f} ms, 95th percentile {1e3 * (tail(own) - tail(other)):+.0f} ms to "
            f"{1e3 * tail(other):.0f} ms, of {len(own)} requests each; prompts of about 64 rows",
        )


def memory(space: EmbeddingSpace, filter: str | Path, requests: int) -> Measurement:
    """Resident memory of the gateway and of what screens for it, over many requests."""
    import psutil

    with SmallServer(model=space.name, text="fine") as server, Gateway(server.url, filter) as before:
        processes = [psutil.Process(before.pid), *psutil.Process(before.pid).children(recursive=True)]
        bodies = [request_body(space, text) for text in plain_texts(PROMPTS)]
        resident = []
        began = time.perf_counter()
        with progress("hundreds of requests", requests // 100) as advance:
            for _ in range(0, requests, 100):
                asyncio.run(request_times(before.url, bodies, 8, total=100, spread=0.0))
                advance()
                # Pages that the workers share count once.
                resident.append(sum(process.memory_full_info().pss for process in processes) / 1e6)
        seconds = time.perf_counter() - began
    early, late = max(resident[: len(resident) // 5]), max(resident[len(resident) // 5 :])
    return Measurement(
        f"the gateway's memory over {requests:,} requests, rest to first fifth, stand-in server",
        ratio([(late, early)]),
        "at most 1.03",
        f"peak of {early:.0f} MB over the first fifth, {late:.0f} MB over the rest, its workers included; "
        f"{requests / seconds:.0f} requests a second, 8 at once",
    )


def throughput(space: EmbeddingSpace, through: str, direct: str, rounds: int) -> Measurement:
    """Prompts of the same kind through the gateway and directly, on one vLLM server, in turn."""
    sampling = Sampling(max_tokens=NEW_TOKENS)
    pairs = []
    with VLLMClient(through) as own, VLLMClient(direct) as other:
        # New prompts for each pass: none is in the server's prefix cache.
        texts = plain_texts(2 * PROMPTS * (rounds + 1))
        for start in range(0, len(texts), 2 * PROMPTS):
            made = [space.embed(text, special_tokens=False) for text in texts[start : start + 2 * PROMPTS]]
            ours, theirs = timed(own, made[:PROMPTS], sampling), timed(other, made[PROMPTS:], sampling)
            pairs.append((ours.throughput, theirs.throughput))
    del pairs[0]  # it warmed both up
    through_gateway, directly = medians(pairs)
    return Measurement(
        "throughput through the gateway to direct, vLLM",
        ratio(pairs),
        "at least 0.95",
        f"{through_gateway:.0f} against {directly:.0f} tokens a second; {PROMPTS} prompts of about 64 rows, "
        f"{NEW_TOKENS} new tokens",
    )


def request_body(space: EmbeddingSpace, text: str, new_tokens: int = 1) -> dict[str, Any]:
    """The body of a completions request for one embedded prompt."""
    payload = encode_prompt_embeds(space.embed(text, special_tokens=False))
    return {"prompt_embeds": [payload], "max_tokens": new_tokens, "n": 1}


async def request_times(
    url: str, bodies: Sequence[dict[str, Any]], at_once: int, *, total: int | None = None, spread: float = 1.0
) -> list[float]:
    """Seconds from sending to the answer's end, for each request.

    Args:
        url: of the server or the gateway.
        bodies: that are sent, in turn.
        at_once: how many callers there are, each of which sends its next request when it has an answer.
        total: requests of all callers together; 2 for each by default, and at least 16.
        spread: seconds over which the callers begin.
    """
    import httpx2

    count = max(2 * at_once, 16) if total is None else total
    numbers = iter(range(count))
    seconds: list[float] = []

    async def call(client: httpx2.AsyncClient, delay: float) -> None:
        await asyncio.sleep(delay)
        for number in numbers:
            began = time.perf_counter()
            answer = await client.post(f"{url}/v1/completions", json=bodies[number % len(bodies)])
            seconds.append(time.perf_counter() - began)
            answer.raise_for_status()

    limits = httpx2.Limits(max_connections=at_once, keepalive_expiry=2.0)
    async with httpx2.AsyncClient(limits=limits, timeout=600.0, trust_env=False) as client:
        await asyncio.gather(*(call(client, spread * n / at_once) for n in range(at_once)))
    return seconds


def tail(seconds: Sequence[float]) -> float:
    """The 95th percentile of seconds in order."""
    return seconds[int(0.95 * (len(seconds) - 1))]
