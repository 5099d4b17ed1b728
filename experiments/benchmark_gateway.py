"""Benchmarks of the gateway: latency, throughput and memory, against the server reached directly."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace.metrics import Interval, mean_interval
from embedspace.progress import progress
from experiments.benchmark import Measurement, timed
from experiments.benchmark_cache import plain_texts
from experiments.small_server import SmallServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from embedspace import EmbeddingSpace

FILTER = "smollm2-injection"
AT_ONCE = (1, 8, 64)
ANSWER_SECONDS = 1.0
"""Of the server behind the gateway while latency is measured: about what a short answer takes."""
REQUESTS = 10_000
PROMPTS = 64
NEW_TOKENS = 32


def gateway(
    model: str = "smollm2-135m-instruct", rounds: int = 5, filter: str | Path = FILTER
) -> Iterator[Measurement]:
    """Added latency and memory before a cheap server, and throughput before vLLM."""
    from embedspace import EmbeddingSpace

    space = EmbeddingSpace.from_pretrained(model)
    yield from latency(space, filter, rounds)
    yield memory(space, filter, REQUESTS)
    yield throughput(space, filter, rounds)


def latency(
    space: EmbeddingSpace, filter: str | Path, rounds: int, at_once: Sequence[int] = AT_ONCE
) -> Iterator[Measurement]:
    """From sending a prompt to its answer, with requests that begin evenly spread over the time of an answer."""
    from embedspace.gateway import Gateway

    with (
        SmallServer(ANSWER_SECONDS, model=space.name, text="fine") as server,
        Gateway(server.url, filter) as before,
    ):
        bodies = [request(space, text) for text in plain_texts(PROMPTS)]
        for count in at_once:
            pairs = [
                (asyncio.run(asked(before.url, bodies, count)), asyncio.run(asked(server.url, bodies, count)))
                for _ in range(rounds)
            ]
            added = [
                (statistics.median(own) - statistics.median(other), tail(own) - tail(other))
                for own, other in pairs
            ]
            yield Measurement(
                f"latency through the gateway to direct, {count} requests at once",
                mean_interval([statistics.median(own) / statistics.median(other) for own, other in pairs]),
                "at most 1.05",
                f"median +{1e3 * statistics.median(a for a, _ in added):.0f} ms, 95th percentile "
                f"+{1e3 * statistics.median(b for _, b in added):.0f} ms, to answers of {ANSWER_SECONDS:g} s from a "
                "server that only waits; prompts of about 64 rows",
            )


def memory(space: EmbeddingSpace, filter: str | Path, requests: int) -> Measurement:
    """Resident memory of the gateway and of what screens for it, over many requests."""
    import psutil

    from embedspace.gateway import Gateway

    with SmallServer(model=space.name, text="fine") as server, Gateway(server.url, filter) as before:
        processes = [psutil.Process(before.pid), *psutil.Process(before.pid).children(recursive=True)]
        bodies = [request(space, text) for text in plain_texts(PROMPTS)]
        resident = []
        began = time.perf_counter()
        with progress("hundreds of requests", requests // 100) as advance:
            for _ in range(0, requests, 100):
                asyncio.run(asked(before.url, bodies, 8, total=100, spread=0.0))
                advance()
                # Pages that the workers share count once.
                resident.append(sum(process.memory_full_info().pss for process in processes) / 1e6)
        seconds = time.perf_counter() - began
    early, late = max(resident[: len(resident) // 5]), max(resident[len(resident) // 5 :])
    return Measurement(
        f"the gateway's memory over {requests:,} requests, rest to first fifth",
        Interval(late / early, late / early, late / early, 1),
        "at most 1.03",
        f"peak of {early:.0f} MB over the first fifth, {late:.0f} MB over the rest, its workers included; "
        f"{requests / seconds:.0f} requests a second, 8 at once",
    )


def throughput(space: EmbeddingSpace, filter: str | Path, rounds: int) -> Measurement:
    """The same prompts through the gateway and directly, on one vLLM server, in turn."""
    from embedspace.engines import Sampling, VLLMClient, VLLMServer
    from embedspace.gateway import Gateway

    sampling = Sampling(max_tokens=NEW_TOKENS)
    pairs = []
    with (
        VLLMServer(space.name) as server,
        Gateway(server.url, filter) as before,
        VLLMClient(before.url) as through,
        VLLMClient(server.url) as direct,
    ):
        # New prompts for each pass: the server remembers the beginnings of earlier ones.
        texts = plain_texts(2 * PROMPTS * (rounds + 1))
        for start in range(0, len(texts), 2 * PROMPTS):
            made = [space.embed(text) for text in texts[start : start + 2 * PROMPTS]]
            own = timed(through, made[:PROMPTS], sampling)
            other = timed(direct, made[PROMPTS:], sampling)
            pairs.append((own.tokens / own.seconds, other.tokens / other.seconds))
    del pairs[0]  # it warmed both
    ours, theirs = (statistics.median(pair[side] for pair in pairs) for side in (0, 1))
    return Measurement(
        "throughput through the gateway to direct",
        mean_interval([own / other for own, other in pairs]),
        "at least 0.95",
        f"{ours:.0f} against {theirs:.0f} tokens a second; {PROMPTS} prompts of about 64 rows, {NEW_TOKENS} new tokens",
    )


def request(space: EmbeddingSpace, text: str) -> dict[str, Any]:
    """The body of a completions request for one embedded prompt."""
    from embedspace import encode_prompt_embeds

    payload = encode_prompt_embeds(space.embed(text))
    return {"model": space.name, "prompt_embeds": [payload], "max_tokens": 1, "n": 1}


async def asked(
    url: str,
    bodies: Sequence[dict[str, Any]],
    at_once: int,
    *,
    total: int | None = None,
    spread: float = ANSWER_SECONDS,
) -> list[float]:
    """Seconds from sending to the answer's end, for each request.

    Args:
        url: of the server or the gateway.
        bodies: that are sent, in turn.
        at_once: how many callers there are, each of which sends its next request when it has an answer.
        total: requests of all callers together; 4 for each by default, and at least 8.
        spread: seconds over which the callers begin.
    """
    import httpx2

    count = max(4 * at_once, 8) if total is None else total
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
    async with httpx2.AsyncClient(limits=limits, timeout=60.0, trust_env=False) as client:
        await asyncio.gather(*(call(client, spread * n / at_once) for n in range(at_once)))
    return seconds


def tail(seconds: Sequence[float]) -> float:
    """The 95th percentile."""
    return sorted(seconds)[int(0.95 * (len(seconds) - 1))]
