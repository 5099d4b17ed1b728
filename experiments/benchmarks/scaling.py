"""Two servers against one, each on its own half of the processor's cores."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from embedspace import EmbeddingSpace
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from experiments.benchmarks.measurement import Measurement, medians, ratio, timed
from experiments.benchmarks.workloads import random_ids

ROUNDS = 5
PROMPTS = 64
ROWS = 64
NEW_TOKENS = 32
"""Of one prompt, at most; small, so that a round on a single core takes seconds."""


def scaling(model: str) -> Iterator[Measurement]:
    """Throughput through one client of two servers against that of one of them, in turns.

    Raises:
        ValueError: this process may use a single core only.
        EngineError: a server did not start, or failed.
    """
    space, sampling = EmbeddingSpace.from_pretrained(model), Sampling(max_tokens=NEW_TOKENS)
    first, second = halves_of_the_cores()
    with (
        on_cores(first),
        VLLMServer(model, max_model_len=512) as one,
        on_cores(second),
        VLLMServer(model, max_model_len=512) as two,
        VLLMClient(one.url, prompts_per_request=8) as single,
        VLLMClient([one.url, two.url], prompts_per_request=8) as both,
    ):
        pairs = []
        for number in range(ROUNDS + 1):
            # New prompts for each pass: none is in a prefix cache.
            ours, theirs = (
                random_ids(space.vocab_size, PROMPTS, ROWS, seed=2 * number + turn) for turn in (0, 1)
            )
            pairs.append((timed(both, ours, sampling).throughput, timed(single, theirs, sampling).throughput))
    del pairs[0]  # it warmed both up
    own, other = medians(pairs)
    yield Measurement(
        "throughput of two servers to that of one",
        ratio(pairs),
        "at least 1.7",
        f"{own:.0f} against {other:.0f} tokens a second, each server on {len(first)} of {len(first) + len(second)} "
        f"cores; {PROMPTS} prompts of {ROWS} tokens and up to {NEW_TOKENS} new ones",
    )


def halves_of_the_cores() -> tuple[list[int], list[int]]:
    """The cores that this process may use, in two.

    Raises:
        ValueError: there is only one.
    """
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise ValueError("scaling over two servers needs at least 2 cores, this process may use 1")
    return cores[: len(cores) // 2], cores[len(cores) // 2 :]


@contextmanager
def on_cores(cores: list[int]) -> Iterator[None]:
    """Servers that are started within use these cores."""
    name = "VLLM_CPU_OMP_THREADS_BIND"
    before = os.environ.get(name)
    os.environ[name] = ",".join(map(str, cores))
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before
