"""Throughput through a real vLLM server: embeddings against token ids, batches against single prompts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from embedspace import EmbeddingSpace
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from experiments.benchmarks.measurement import Measurement, medians, random_rounds, ratio, timed
from experiments.benchmarks.workloads import prompt_of, random_ids

ROWS = 64


def server(model: str, rounds: int, prompts: int, new_tokens: int) -> Iterator[Measurement]:
    """Passes of the same random prompts as embeddings and as token ids, in turn.

    Raises:
        EngineError: the server did not start, or failed.
    """
    space = EmbeddingSpace.from_pretrained(model)
    ids = random_ids(space.vocab_size, prompts, ROWS, seed=0)
    embedded = [prompt_of(space, row) for row in ids]
    sampling = Sampling(max_tokens=new_tokens)
    with VLLMServer(model) as running, VLLMClient(running.url) as client:
        timed(client, embedded, sampling)
        timed(client, ids, sampling)
        sides = [partial(timed, client, embedded, sampling), partial(timed, client, ids, sampling)]
        passes = random_rounds(sides, rounds)
        single = sum(timed(client, [prompt], sampling).seconds for prompt in embedded)
    throughputs = [(own.throughput, other.throughput) for own, other in passes]
    times = [(own.own_seconds, own.seconds) for own, _ in passes]
    (fast, plain), (processor, wall) = medians(throughputs), medians(times)
    yield Measurement(
        "throughput of embeddings to that of token ids",
        ratio(throughputs),
        "at least 0.97",
        f"{fast:.0f} against {plain:.0f} tokens a second; {prompts} prompts of {ROWS} rows and up to {new_tokens} "
        "new tokens",
    )
    yield Measurement(
        f"{prompts} prompts together, time to one at a time",
        ratio([(seconds, single) for _, seconds in times]),
        "at most 0.2",
        f"{wall:.1f} s against {single:.1f} s, which was measured once",
    )
    yield Measurement(
        "client's own processor time to wall time",
        ratio(times),
        "under 0.05",
        f"{processor:.2f} s in {wall:.1f} s",
    )
