"""The cache's benchmarks measure what they say, on a small scale."""

import pytest

from experiments.benchmarks import cache as benchmark_cache
from experiments.benchmarks.workloads import plain_texts


@pytest.fixture
def small(monkeypatch):
    for name, value in (("ENTRIES", 20), ("ROUNDS", 2), ("INSERTS", 2)):
        monkeypatch.setattr(benchmark_cache, name, value)


@pytest.mark.parametrize("part", ["inserts", "reads", "batches"])
def test_every_part_measures_both_sides(small, part, smollm2, tmp_path):
    measured = list(getattr(benchmark_cache, part)(smollm2, tmp_path))
    assert measured
    assert all(row.ratio.estimate > 0 and row.aim and " against " in row.detail for row in measured)


def test_what_is_read_is_what_was_written(smollm2, tmp_path):
    from embedspace import EmbeddingCache

    prompts = benchmark_cache.random_prompts(smollm2, 70, 3)
    keys = benchmark_cache.numbered(70)
    assert len(set(keys)) == 70
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.put_many(zip(keys, prompts, strict=True))
        found = benchmark_cache.read_all(cache, keys)
    assert all((a.vectors == b.vectors).all() for a, b in zip(found, prompts, strict=True))


def test_the_texts_differ_and_have_about_sixty_tokens(smollm2):
    texts = plain_texts(5)
    assert len(set(texts)) == 5
    assert all(50 <= len(smollm2.tokenize(text)) <= 80 for text in texts)
