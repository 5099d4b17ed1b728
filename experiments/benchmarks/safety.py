"""Benchmark of the filter: each layer's share, the cascade, many prompts together, and a table of 128k rows."""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, SafetyFilter
from embedspace.safety import Reading
from embedspace.space import EmbeddingTable, match_tokens, nearest_tokens
from experiments.benchmarks.measurement import Measurement, inverse_ratio, medians, rate, ratio, seconds
from experiments.benchmarks.workloads import plain_texts, prompt_of

ROWS = 64
ROUNDS = 7
MANY = 64
LARGE = (128_000, 4_096)
"""Vocabulary and hidden size of today's larger models."""


def safety(model: str) -> Iterator[Measurement]:
    """Times of the shipped filter on English prompts of 64 rows; ratios are to what is aimed at."""
    space = EmbeddingSpace.from_pretrained(model)
    guard = SafetyFilter.from_pretrained("smollm2-injection", space)
    prompts = _prompts(space, MANY)
    guard.check_many(prompts[:2])
    readings = [Reading.of(space, prompt) for prompt in prompts[:ROUNDS]]
    # The layers of a reading's round one after another: what an earlier one has read from the rows, a later one finds.
    spent = {
        layer.name: [seconds(lambda layer=layer, r=reading: layer.scores([r])) for reading in readings]
        for layer in guard.layers
    }
    total = [sum(each) for each in zip(*spent.values(), strict=True)]
    for name, times in spent.items():
        yield Measurement(
            f"filter, layer {name}, share of all layers' time",
            ratio(list(zip(times, total, strict=True))),
            "",
            f"{1000 * statistics.median(times):.2f} ms for {ROWS} rows",
        )
    cheap = dataclasses.replace(
        guard,
        layers=tuple(layer for layer in guard.layers if not layer.costly),
        weights={"ngrams": 1.0},
    )
    for name, filtered, limit in (
        ("layers without an encoder", cheap, 0.02),
        ("all layers", guard, 0.08),
    ):
        times = [
            seconds(lambda f=filtered, p=prompt: f.score(p)) for prompt in prompts[:ROUNDS] for _ in range(3)
        ]
        yield Measurement(
            f"filter, {name}, time to the {1000 * limit:g} ms aimed at",
            ratio([(each, limit) for each in times]),
            "at most 1",
            f"{1000 * statistics.median(times):.2f} ms for one prompt of {ROWS} rows",
        )
    yield _together("check_many to check", guard.check_many, guard.check, prompts)
    yield _together("score_many to score, all layers", guard.score_many, guard.score, prompts)
    yield from _read_back(space, "this model's table")
    yield from _read_back(random_space(*LARGE), f"a random table of {LARGE[0]:,} x {LARGE[1]:,}")


def _together(
    name: str,
    many: Callable[[list[PromptEmbeds]], object],
    single: Callable[[PromptEmbeds], object],
    prompts: list[PromptEmbeds],
) -> Measurement:
    """How many times as fast prompts are judged together as one at a time."""
    rounds = [
        (seconds(lambda: many(prompts)), sum(seconds(lambda p=prompt: single(p)) for prompt in prompts))
        for _ in range(ROUNDS)
    ]
    together, alone = medians(rounds)
    return Measurement(
        f"filter, {len(prompts)} prompts together, rate of {name}",
        inverse_ratio(rounds),
        "at least 4",
        f"{len(prompts) / together:,.0f} against {len(prompts) / alone:,.0f} prompts a second",
    )


def _read_back(space: EmbeddingSpace, name: str) -> Iterator[Measurement]:
    """Rows with noise of the size of a row: the share of right tokens, and the time against a whole-table product's."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, space.vocab_size, (ROWS,), generator=generator)
    rows = space.lookup(ids.tolist()).float()
    noise = torch.randn(rows.shape, generator=generator)
    noisy = rows + noise * (rows - space.mean).norm(dim=1, keepdim=True) / noise.norm(dim=1, keepdim=True)
    right = float((nearest_tokens(space, noisy) == ids).float().mean())
    exactly = space.nearest(noisy, k=1)[0].flatten()
    pairs = [
        (seconds(lambda: nearest_tokens(space, noisy)), seconds(lambda: space.nearest(noisy, k=1)))
        for _ in range(3)
    ]
    exact = 1 / rate(lambda: match_tokens(space, rows))
    own, other = medians(pairs)
    yield Measurement(
        f"read-back of {ROWS} noisy rows from {name}, time to a product with the whole table",
        ratio(pairs),
        "at most 0.5",
        f"{1000 * own:.0f} ms against {1000 * other:.0f}; {100 * right:.0f}% right, "
        f"{100 * float((exactly == ids).float().mean()):.0f}% by the product; rows of the table {1000 * exact:.2f} ms",
    )


def random_space(vocabulary: int, hidden: int, seed: int = 0) -> EmbeddingSpace:
    """A space with a table of random bfloat16 rows; it has no tokenizer to speak of."""
    generator = torch.Generator().manual_seed(seed)
    table = torch.empty(vocabulary, hidden, dtype=torch.bfloat16)
    for chunk in table.split(8192):
        chunk.copy_(torch.randn(chunk.shape, generator=generator))
    donor = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    rows = EmbeddingTable(table, 1.0, Path("random"))
    return EmbeddingSpace("random", Path("random"), donor.tokenizer, rows, "random", None)


def _prompts(space: EmbeddingSpace, count: int) -> list[PromptEmbeds]:
    """English prompts of the same number of rows, no two alike."""
    return [prompt_of(space, space.tokenize(text * 2)[:ROWS]) for text in plain_texts(count)]
