"""Benchmarks of the persistent cache: against a pickled dictionary, memory copies, and no cache at all."""

from __future__ import annotations

import pickle
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace.metrics import mean_interval
from experiments.benchmarks.experiment import Measurement

if TYPE_CHECKING:
    from embedspace import EmbeddingCache, EmbeddingSpace, PromptEmbeds

ENTRIES = 10_000
ROUNDS = 5
INSERTS = 64
"""Of the cache in a round; the pickled dictionary, which takes seconds, is written once in a round."""
READ_TOGETHER = 64


def cache(model: str = "smollm2-135m-instruct") -> Iterator[Measurement]:
    """Inserts, reads, `embed_many` and a transformation that asks the model."""
    from embedspace import EmbeddingSpace

    space = EmbeddingSpace.from_pretrained(model)
    with tempfile.TemporaryDirectory() as folder:
        yield from inserts(space, Path(folder))
        yield from reads(space, Path(folder))
        yield from batches(space, Path(folder))
        yield from transformations(space, Path(folder))


def inserts(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """One more entry beside 10,000: a row of the file, against the whole dictionary pickled again."""
    from embedspace import EmbeddingCache

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
    yield Measurement(
        f"inserts a second beside {ENTRIES:,} entries of 64 x {space.hidden_size}",
        mean_interval([other / own for own, other in pairs]),
        "at least 100",
        f"{1e3 * statistics.median(own for own, _ in pairs):.2f} ms, each in a transaction of its own, against "
        f"{1e3 * statistics.median(other for _, other in pairs):,.0f} ms for a pickled dictionary written anew",
    )


def reads(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """Entries read together, checksums included, against copying the same bytes in memory."""
    for rows in (64, 512):
        prompts = random_prompts(space, 64 * 64 * 4 // rows, rows)
        size = sum(prompt.vectors.nbytes for prompt in prompts) / 1e9
        pairs = read_and_copied(prompts, folder / f"reads-{rows}.sqlite")
        yield Measurement(
            f"reading {READ_TOGETHER} entries of {rows} x {space.hidden_size} together, GB/s",
            mean_interval([size / own for own, _ in pairs]),
            "at least 1 GB/s",
            f"{size / statistics.median(own for own, _ in pairs):.2f} GB/s, every byte checked, against "
            f"{size / statistics.median(copied for _, copied in pairs):.2f} GB/s of copies into new memory; "
            f"{1e3 * size:,.0f} MB, the file in the page cache",
        )


def read_and_copied(prompts: Sequence[PromptEmbeds], path: Path) -> list[tuple[float, float]]:
    """Seconds of reading all prompts from a cache and of copying them, in turn."""
    from embedspace import EmbeddingCache

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
    from embedspace import EmbeddingCache

    texts = plain_texts(1024)
    rounds = []
    for number in range(ROUNDS):
        with EmbeddingCache(folder / f"batches-{number}.sqlite") as kept:
            plain = seconds(lambda: drain(space.embed_many(texts)))
            cold = seconds(lambda kept=kept: drain(space.embed_many(texts, cache=kept)))
            warm = seconds(lambda kept=kept: drain(space.embed_many(texts, cache=kept)))
        rounds.append((plain, cold, warm))
    plain = statistics.median(each[0] for each in rounds)
    for name, place in (("empty", 1), ("full", 2)):
        yield Measurement(
            f"embed_many with {'an' if name == 'empty' else 'a'} {name} cache, time to tokenise and index",
            mean_interval([each[place] / each[0] for each in rounds]),
            "none: a cache is for transformed prompts",
            f"{1e6 * statistics.median(each[place] for each in rounds) / len(texts):.0f} us a text against "
            f"{1e6 * plain / len(texts):.0f} us: the table is memory-mapped, and token ids are needed either way",
        )


def transformations(space: EmbeddingSpace, folder: Path) -> Iterator[Measurement]:
    """Compression that asks the model how surprising each token is, computed against read from a cache."""
    from embedspace import EmbeddingCache, Recipe, compress
    from embedspace.engines import TransformersEngine

    prompts = list(space.embed_many(plain_texts(8 * ROUNDS)))
    step = Recipe.of("compress", {"ratio": 4, "information": "surprisal", "model": space.fingerprint})
    engine = TransformersEngine(space)

    def compressed(prompt: PromptEmbeds) -> PromptEmbeds:
        return compress(prompt, ratio=4, information="surprisal", engine=engine)

    pairs = []
    with EmbeddingCache(folder / "transformations.sqlite") as kept:
        for number in range(ROUNDS):
            # Prompts that are new in each round: the engine's answers about earlier ones are remembered.
            new = prompts[number::ROUNDS]
            computed = seconds(lambda new=new: drain(map(compressed, new)))
            drain(kept.transformed(new, step, compressed))
            pairs.append((seconds(lambda new=new: drain(kept.transformed(new, step, compressed))), computed))
    yield Measurement(
        "compression by surprisal computed, time to reading it from a cache",
        mean_interval([other / own for own, other in pairs]),
        "at least 10",
        f"{1e3 * statistics.median(own for own, _ in pairs) / 8:.2f} ms a prompt from the cache against "
        f"{1e3 * statistics.median(other for _, other in pairs) / 8:,.0f} ms with the model",
    )


def read_all(kept: EmbeddingCache, keys: Sequence[bytes]) -> list[PromptEmbeds | None]:
    """Every entry, some at a time."""
    together = [keys[start : start + READ_TOGETHER] for start in range(0, len(keys), READ_TOGETHER)]
    return [prompt for some in together for prompt in kept.get_many(some)]


def random_prompts(space: EmbeddingSpace, count: int, rows: int) -> list[PromptEmbeds]:
    """Prompts of random tokens, in bfloat16."""
    import torch

    from embedspace import PromptEmbeds, Recipe

    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(space.vocab_size, (count, rows), generator=generator).tolist()
    return [
        PromptEmbeds(
            space.lookup(row).bfloat16(),
            torch.ones(rows).bool(),
            space.fingerprint,
            Recipe.of("ids", {"number": n}),
        )
        for n, row in enumerate(ids)
    ]


def numbered(count: int) -> list[bytes]:
    """So many keys."""
    import torch

    from embedspace import Recipe
    from embedspace.prompt import cache_key

    recipe, dtype = Recipe.of("ids", {}), torch.bfloat16
    return [
        cache_key(space="", template=None, token_ids=[n], recipe=recipe, dtype=dtype) for n in range(count)
    ]


def plain_texts(count: int) -> list[str]:
    """Texts of about 60 tokens, no two alike."""
    sentence = "The harbour of the old town was full of boats when the ship of number {} came home from sea. "
    return ["".join(sentence.format(3 * n + part) for part in range(3)) for n in range(count)]


def drain(prompts: Iterator[PromptEmbeds]) -> None:
    """Take every prompt and keep none."""
    for _ in prompts:
        pass


def seconds(call: Callable[[], object]) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
