"""Benchmarks of the persistent cache: against a pickled dictionary, memory copies, and no cache at all."""

from __future__ import annotations

import pickle
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch

from embedspace import EmbeddingCache, EmbeddingSpace, PromptEmbeds, Recipe, compress
from embedspace.engines import TransformersEngine
from embedspace.prompt import cache_key
from experiments.benchmarks.measurement import Measurement, inverse_ratio, medians, ratio, seconds
from experiments.benchmarks.workloads import plain_texts, prompt_of, random_ids

ENTRIES = 10_000
ROUNDS = 5
INSERTS = 64
"""Into the cache in each round; the pickled dictionary, which takes seconds, is written once in a round."""
READ_BATCH_SIZE = 64


def cache(model: str = "smollm2-135m-instruct") -> Iterator[Measurement]:
    """Inserts, reads, `embed_many` and a transformation that runs the model."""
    space = EmbeddingSpace.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        yield from inserts(space, Path(folder))
        yield from reads(space, Path(folder))
        yield from batches(space, Path(folder))
        yield from transformations(space, Path(folder))


def inserts(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """One more entry in a cache of 10,000: a row of the file, against the whole dictionary pickled again."""
    keys, prompts = numbered(ENTRIES + ROUNDS * INSERTS), random_prompts(space, 16, 64)
    obvious = {key: prompts[n % 16].vectors.clone() for n, key in enumerate(keys[:ENTRIES])}
    file = folder / "obvious.pickle"

    def write_obvious(number: int) -> None:
        obvious[keys[ENTRIES + number]] = prompts[number % 16].vectors.clone()
        file.write_bytes(pickle.dumps(obvious))

    pairs = []
    with EmbeddingCache(folder / "inserts.sqlite") as kept:
        kept.put_many((key, prompts[n % 16]) for n, key in enumerate(keys[:ENTRIES]))
        for number in range(ROUNDS):
            other = seconds(lambda n=number: write_obvious(n))
            added = keys[ENTRIES + number * INSERTS :][:INSERTS]
            own = seconds(lambda added=added: [kept.put(key, prompts[0]) for key in added]) / INSERTS
            pairs.append((own, other))
    file.unlink()
    own, other = medians(pairs)
    yield Measurement(
        f"inserts a second beside {ENTRIES:,} entries of 64 x {space.hidden_size}",
        inverse_ratio(pairs),
        "at least 100",
        f"{1e3 * own:.2f} ms, each in a transaction of its own, against {1e3 * other:,.0f} ms for a pickled "
        "dictionary written anew",
    )


def reads(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """Entries read together, checksums included, against copying the same bytes in memory."""
    for rows in (64, 512):
        prompts = random_prompts(space, 64 * 64 * 4 // rows, rows)
        size = sum(prompt.vectors.nbytes for prompt in prompts) / 1e9
        pairs = read_and_copied(prompts, folder / f"reads-{rows}.sqlite")
        own, copied = medians(pairs)
        yield Measurement(
            f"reading {READ_BATCH_SIZE} entries of {rows} x {space.hidden_size} together, GB/s",
            ratio([(size, read) for read, _ in pairs]),
            "at least 1 GB/s",
            f"{size / own:.2f} GB/s, every byte checked, against {size / copied:.2f} GB/s of copies into new memory; "
            f"{1e3 * size:,.0f} MB, the file in the page cache",
        )


def read_and_copied(prompts: Sequence[PromptEmbeds], path: Path) -> list[tuple[float, float]]:
    """Seconds of reading all prompts from a cache and of copying them, in turn."""
    keys = numbered(len(prompts))
    with EmbeddingCache(path) as kept:
        kept.put_many(zip(keys, prompts, strict=True))
        read_all(kept, keys)  # the file in the page cache
        return [
            (seconds(lambda: read_all(kept, keys)), seconds(lambda: [p.vectors.clone() for p in prompts]))
            for _ in range(2 * ROUNDS)
        ]


def batches(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """`embed_many` with a cache that has nothing and one that has all, against no cache."""
    texts = plain_texts(1024)
    rounds = []
    for number in range(ROUNDS):
        with EmbeddingCache(folder / f"batches-{number}.sqlite") as kept:
            plain = seconds(lambda: drain(space.embed_many(texts)))
            cold = seconds(lambda kept=kept: drain(space.embed_many(texts, cache=kept)))
            warm = seconds(lambda kept=kept: drain(space.embed_many(texts, cache=kept)))
        rounds.append((plain, cold, warm))
    for name, place in (("an empty", 1), ("a full", 2)):
        pairs = [(each[place], each[0]) for each in rounds]
        own, other = medians(pairs)
        yield Measurement(
            f"embed_many with {name} cache, time to tokenise and index",
            ratio(pairs),
            "none: a cache is for transformed prompts",
            f"{1e6 * own / len(texts):.0f} us a text against {1e6 * other / len(texts):.0f} us: the table is "
            "memory-mapped, and token ids are needed either way",
        )


def transformations(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """Compression by the model's surprisal of each token, computed, against reading its result from a cache."""
    prompts = list(space.embed_many(plain_texts(8 * ROUNDS)))
    step = Recipe.of("compress", {"ratio": 4, "information": "surprisal", "model": space.fingerprint})
    engine = TransformersEngine(space)

    def compressed(prompt: PromptEmbeds) -> PromptEmbeds:
        return compress(prompt, ratio=4, information="surprisal", engine=engine)

    pairs = []
    with EmbeddingCache(folder / "transformations.sqlite") as kept:
        for number in range(ROUNDS):
            # Prompts that are new in each round: the engine caches the surprisals of earlier ones.
            new = prompts[number::ROUNDS]
            computed = seconds(lambda new=new: drain(map(compressed, new)))
            drain(kept.transformed(new, step, compressed))
            pairs.append((seconds(lambda new=new: drain(kept.transformed(new, step, compressed))), computed))
    own, other = medians(pairs)
    yield Measurement(
        "compression by surprisal computed, time to reading it from a cache",
        inverse_ratio(pairs),
        "at least 10",
        f"{1e3 * own / 8:.2f} ms a prompt from the cache against {1e3 * other / 8:,.0f} ms with the model",
    )


def read_all(kept: EmbeddingCache, keys: Sequence[bytes]) -> list[PromptEmbeds | None]:
    """Every entry, batch by batch."""
    batches = [keys[start : start + READ_BATCH_SIZE] for start in range(0, len(keys), READ_BATCH_SIZE)]
    return [prompt for batch in batches for prompt in kept.get_many(batch)]


def random_prompts(space: EmbeddingSpace, count: int, rows: int) -> list[PromptEmbeds]:
    """Prompts of random tokens, in bfloat16."""
    ids = random_ids(space.vocab_size, count, rows, seed=0, lowest=0)
    return [prompt_of(space, row, torch.bfloat16) for row in ids]


def numbered(count: int) -> list[bytes]:
    """Different keys."""
    recipe, dtype = Recipe.of("ids", {}), torch.bfloat16
    return [
        cache_key(space="", template=None, token_ids=[n], recipe=recipe, dtype=dtype) for n in range(count)
    ]


def drain(prompts: Iterator[PromptEmbeds]) -> None:
    """Take every prompt and keep none."""
    for _ in prompts:
        pass
