"""Benchmark of a corpus: texts a second to shards on disk, against the tokenizer alone, which no corpus can outrun."""

from __future__ import annotations

import json
import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from embedspace import EmbeddingSpace
from embedspace.corpus import CorpusSpec, Payload, make_corpus, open_source
from experiments.benchmarks.measurement import Measurement, medians, ratio, seconds
from experiments.benchmarks.workloads import vocabulary_words

TEXTS = 240_000
ROUNDS = 3


def corpus(model: str) -> Iterator[Measurement]:
    """Each form of a corpus, all cores, start of the processes included, against ``encode_batch_fast`` of all texts."""
    space = EmbeddingSpace.from_pretrained(model)
    texts = short_texts(space, TEXTS)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "texts.jsonl")
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        rounds = []
        for number in range(ROUNDS):
            limit = _tokenizer_alone(space, texts)
            token_ids = _made(model, path, Path(folder, f"ids-{number}"), "token_ids")
            embeddings = _made(model, path, Path(folder, f"rows-{number}"), "embeddings")
            rounds.append((limit, {"token ids": token_ids, "embeddings": embeddings}))
            for shard in Path(folder, f"rows-{number}").glob("shard-*"):
                shard.unlink()
    for what, (_, written) in rounds[0][1].items():
        pairs = [(built[what][0], alone) for alone, built in rounds]
        own, other = medians(pairs)
        size = written / TEXTS
        yield Measurement(
            f"corpus of {what}, texts a second to those of the tokenizer alone",
            ratio(pairs),
            "at least 0.5",
            f"{own:,.0f} against {other:,.0f} texts a second; {TEXTS:,} texts, {size:,.0f} bytes each on disk",
        )


def short_texts(space: EmbeddingSpace, count: int, seed: int = 0) -> list[str]:
    """Texts of 5 to 15 random words of the vocabulary."""
    rng, words = random.Random(seed), vocabulary_words(space)
    return [" ".join(rng.choices(words, k=rng.randint(5, 15))) for _ in range(count)]


def _tokenizer_alone(space: EmbeddingSpace, texts: Sequence[str]) -> float:
    def tokenize() -> None:
        for start in range(0, len(texts), 4096):
            space.tokenizer.encode_many(texts[start : start + 4096])

    return len(texts) / seconds(tokenize)


def _made(model: str, path: Path, folder: Path, what: Payload) -> tuple[float, int]:
    """Texts per second, from the opening of the source to the finished manifest, and bytes."""
    began = time.perf_counter()
    work = CorpusSpec(model, open_source(path, stride=2048), folder, what, shard_size=2048)
    made = make_corpus(work, processes=None)
    return made.texts / (time.perf_counter() - began), made.size
