"""How much sooner the first token comes when a prompt begins with rows that were computed before."""

from __future__ import annotations

import itertools
import random
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedspace import EmbeddingSpace
from embedspace.engines import Engine, Sampling, TransformersEngine, VLLMClient, VLLMServer
from embedspace.space import PrefixedPrompts
from experiments.benchmarks.measurement import Measurement, fastest, inverse_ratio, medians, ratio
from experiments.benchmarks.workloads import WORDS

ROWS = 1500
"""Least length of the shared prefix."""
QUESTIONS = ("What is the capital of France?", "Why does bread rise in the oven?")

COUNTERS = {
    "hits": "vllm:prefix_cache_hits_total",
    "seconds": "vllm:time_to_first_token_seconds_sum",
    "requests": "vllm:time_to_first_token_seconds_count",
}
"""What vLLM counts, by the names under which it publishes it."""


@dataclass(frozen=True)
class Round:
    """The first tokens of two prompts that begin alike, the first of which is the first of its kind."""

    cold: float
    """Seconds."""
    warm: float


def prefix(model: str, rounds: int) -> Iterator[Measurement]:
    """First-token time after a prefix of 1,500 rows, new to the engine and known to it; and the client's own part."""
    space = EmbeddingSpace.from_pretrained(model)
    # The first round warms up everything else: its prefix is asked about and the figures are left out.
    shared = [prompts_after(space, seed) for seed in range(rounds + 1)]
    yield from client_side(space, shared[1:])
    yield in_process(space, shared)
    yield from on_the_server(model, shared)


def client_side(space: EmbeddingSpace, shared: Sequence[PrefixedPrompts]) -> Iterator[Measurement]:
    """Embedding a user turn after a known prefix against embedding the whole conversation."""
    times = []
    for prompts in shared:
        for question in QUESTIONS:
            prompts(question)
            whole = prompts.conversation(question)
            times.append(
                (
                    fastest(lambda p=prompts, q=question: p(q), repeats=5),
                    fastest(lambda w=whole: space.embed_chat(w), repeats=5),
                )
            )
    own, other = medians(times)
    yield Measurement(
        f"embedding a user turn after {ROWS:,} shared rows, time",
        ratio(times),
        "under 0.5",
        f"{1e3 * own:.2f} ms against {1e3 * other:.2f} ms for the whole conversation",
    )


def in_process(space: EmbeddingSpace, shared: Sequence[PrefixedPrompts]) -> Measurement:
    """With the model in this process."""
    engine = TransformersEngine(space)
    measured = [
        Round(*(first_token(engine, prompts, question) for question in QUESTIONS)) for prompts in shared
    ]
    engine.close()
    return sooner("first token in process", measured[1:])


def on_the_server(model: str, shared: Sequence[PrefixedPrompts]) -> Iterator[Measurement]:
    """On a real vLLM server, by this side's clock and by the server's own counters."""
    with VLLMServer(model) as server, VLLMClient(server.url) as client:
        measured, reported, hits = [], [], 0.0
        for prompts in shared:
            counts = [counters(server.url)]
            times = []
            for question in QUESTIONS:
                times.append(first_token(client, prompts, question))
                counts.append(counted(server.url, counts[-1]["requests"] + 1))
            measured.append(Round(*times))
            reported.append(Round(*(first_token_between(*pair) for pair in itertools.pairwise(counts))))
            hits += counts[2]["hits"] - counts[1]["hits"]
    rows = sum(len(prompts.prefix) for prompts in shared)
    yield sooner("first token on the server", measured[1:])
    yield sooner(
        "first token by the server's own count",
        reported[1:],
        f"; {hits / rows:.0%} of shared rows came from its cache",
    )


def sooner(name: str, measured: Sequence[Round], note: str = "") -> Measurement:
    """How many times sooner the warm first token came."""
    pairs = [(each.warm, each.cold) for each in measured]
    warm, cold = medians(pairs)
    return Measurement(
        f"{name}, cold to warm time ({ROWS:,} shared rows)",
        inverse_ratio(pairs),
        "at least 5",
        f"{cold:.2f} s cold, {warm:.2f} s warm{note}",
    )


def prompts_after(space: EmbeddingSpace, seed: int) -> PrefixedPrompts:
    """Prompts after a system message of at least 1,500 rows that differs from the first words on."""
    rng = random.Random(seed)
    words: list[str] = []
    prompts = PrefixedPrompts(space, system=str(seed))
    while len(prompts.prefix) < ROWS:
        words += rng.choices(WORDS, k=max(1, ROWS - len(prompts.prefix)))
        prompts = PrefixedPrompts(space, system=" ".join(words))
    return prompts


def first_token(engine: Engine, prompts: PrefixedPrompts, question: str) -> float:
    """Seconds from the prompt to its first and only new token."""
    prompt = prompts(question)
    began = time.perf_counter()
    (completion,) = engine.generate([prompt], Sampling(max_tokens=1))
    if completion.error:
        raise ValueError(f"a prompt of a benchmark failed: {completion.error}")
    return time.perf_counter() - began


def counters(url: str) -> dict[str, float]:
    """What the server has counted so far."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{url}/metrics", timeout=60) as answer:
        lines = answer.read().decode().splitlines()
    return {
        name: sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(published))
        for name, published in COUNTERS.items()
    }


def counted(url: str, requests: float) -> dict[str, float]:
    """The same once the server has counted this many requests, which it does a moment after it answered."""
    deadline = time.monotonic() + 30
    while (now := counters(url))["requests"] < requests:
        if time.monotonic() > deadline:
            raise ValueError(f"{url}/metrics counts {now['requests']:g} requests, {requests:g} were answered")
        time.sleep(0.02)
    return now


def first_token_between(before: dict[str, float], after: dict[str, float]) -> float:
    """The mean first-token time of the requests between two readings."""
    return (after["seconds"] - before["seconds"]) / (after["requests"] - before["requests"])
