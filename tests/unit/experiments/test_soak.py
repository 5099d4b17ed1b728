"""The soak counts what it has to, and its page says what was counted and where."""

from __future__ import annotations

import mmap
import os
import random
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from embedspace import EmbeddingCache
from experiments.benchmarks.scaling import halves_of_the_cores, on_cores
from experiments.benchmarks.workloads import random_ids
from experiments.reliability import cache as soak_cache
from experiments.reliability import experiment as soak
from experiments.reliability.cache import DAMAGES, ENTRIES, KilledWriter, cache_rows, kill_row, outcomes
from experiments.reliability.cache_writers import key_of, prompt_of
from experiments.reliability.experiment import Soak
from experiments.reliability.faults import fault_rows
from experiments.reliability.kills import killed
from experiments.reliability.memory import flat
from experiments.reliability.rows import Counts, Row, compared

EXPECTED = {"a": "1", "b": "2", "c": "3"}


@pytest.mark.parametrize(
    ("found", "counts"),
    [
        ([("a", "1"), ("b", "2"), ("c", "3")], Counts(3, 0, 0, 0)),
        ([("a", "1"), ("c", "3")], Counts(2, 1, 0, 0)),
        ([("a", "1"), ("b", "2"), ("b", "2"), ("c", "3")], Counts(3, 0, 1, 0)),
        ([("a", "1"), ("b", "1"), ("c", "3")], Counts(2, 0, 0, 1)),
        ([("a", "1"), ("b", "2"), ("c", "3"), ("d", "4")], Counts(3, 0, 0, 1)),
    ],
)
def test_what_is_lost_duplicated_or_wrong_is_counted(found: list[tuple[str, str]], counts: Counts) -> None:
    assert compared(found, EXPECTED) == counts
    assert counts.clean == (len(found) == 3 and dict(found) == EXPECTED)


def small(page: Path) -> Soak:
    return Soak("a-model", 20, 1, 1, 2, 1, 1, 100, 10, 30, str(page), ["faults", "memory"])


def test_the_page_says_what_was_counted_and_where(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        soak, "fault_rows", lambda *_: [Row("20 prompts", "20 right", "429 3", True, "each once")]
    )
    monkeypatch.setattr(
        soak, "memory_rows", lambda *_: [Row("100 texts", "+1 MB", "in detail", True, "each once")]
    )
    page = tmp_path / "page.md"
    said = small(page).run(tmp_path / "out")
    assert str(page) in said
    for word in ("20 right", "+1 MB", "make soak` (faults, memory)", "a-model", "torch 2.", "GiB"):
        assert word in page.read_text()
    assert (tmp_path / "out" / "counts.jsonl").read_text().count("\n") == 2


def test_a_claim_that_does_not_hold_is_an_error_after_the_page_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        soak, "fault_rows", lambda *_: [Row("20 prompts", "19 right, 1 lost", "", False, "each once")]
    )
    monkeypatch.setattr(soak, "memory_rows", lambda *_: [])
    with pytest.raises(ValueError, match="1 claims do not hold: 20 prompts"):
        small(tmp_path / "page.md").run(tmp_path)
    assert "**no**" in (tmp_path / "page.md").read_text()


def test_faults_are_made_and_every_prompt_is_there_once(tmp_path: Path) -> None:
    (row,) = fault_rows(tmp_path, prompts=30, faults=1)
    assert row.counted == "30 right, 0 lost, 0 duplicated, 0 wrong"
    assert row.holds


def test_a_process_that_ends_by_itself_was_not_killed(tmp_path: Path) -> None:
    rng = random.Random(0)
    assert not killed([sys.executable, "-c", "pass"], tmp_path, 1, rng)
    assert killed([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0, rng)


def test_a_cache_survives_its_writers_kills_and_damage_of_its_file(tmp_path: Path) -> None:
    kills, damage = cache_rows(tmp_path / "cache", kills=3, damaged=9)
    assert kills.what == "3 SIGKILLs of writers of a cache"
    assert "0 lost, 0 wrong" in kills.counted
    assert "missed, 0 wrong" in damage.counted
    assert kills.holds
    assert damage.holds


@pytest.mark.parametrize(
    ("written", "reported", "counted"),
    [
        ({1: 1, 2: 2}, [1], "2 right, 0 lost, 0 wrong"),
        ({1: 1}, [1, 2], "1 right, 1 lost, 0 wrong"),
        ({1: 1, 2: 3}, [1], "1 right, 0 lost, 1 wrong"),
        ({1: 1, 2: 2, 9: 9}, [1], "2 right, 0 lost, 1 wrong"),
    ],
)
def test_what_killed_writers_lost_or_left_wrong_is_counted(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: dict[int, int],
    reported: list[int],
    counted: str,
) -> None:
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.put_many((key_of(key), prompt_of(number)) for key, number in written.items())
    monkeypatch.setattr(soak_cache, "killed_writers", lambda *_: [KilledWriter(True, reported, [1, 2])])
    row = kill_row(tmp_path / "cache.sqlite", 1)
    assert row.counted == counted
    assert row.holds == ("0 lost, 0 wrong" in counted)


def test_what_a_damaged_cache_answers_is_counted(tmp_path: Path) -> None:
    path, foreign = tmp_path / "cache.sqlite", tmp_path / "foreign.sqlite"
    with EmbeddingCache(path) as cache:
        cache.put_many((key_of(number), prompt_of(number)) for number in range(ENTRIES - 1))
        cache.put(key_of(7), prompt_of(8))
    with closing(sqlite3.connect(foreign)) as database:
        database.execute("CREATE TABLE precious (x)")
    assert outcomes(path) == Counter(right=ENTRIES - 2, missed=1, wrong=1)
    assert outcomes(foreign) == Counter(refused=1)
    assert outcomes(Path("/dev/null/cache.sqlite")) == {"another error": 1}


@pytest.mark.parametrize("kind", DAMAGES)
def test_each_damage_changes_one_place_of_the_file(kind: str) -> None:
    whole = bytes([1]) * 5 * 32768
    for seed in range(20):
        damaged = DAMAGES[kind](whole, random.Random(seed))
        changed = sum(a != b for a, b in zip(whole, damaged, strict=False))
        expected = {
            "byte flipped": (len(whole), 1),
            "end cut off": (len(damaged), 0),
            "page zeroed": (len(whole), 32768),
        }
        assert (len(damaged), changed) == expected[kind]
        assert damaged != whole


def test_memory_that_grows_with_the_stream_is_not_flat() -> None:
    kept: list[mmap.mmap] = []

    def leaking() -> Iterator[None]:
        for _ in range(5000):
            # Pages of its own: what other tests gave back to the allocator would hide the growth of a list.
            kept.append(mmap.mmap(-1, 20_000))
            kept[-1].write(b"1" * 20_000)
            yield

    assert not flat("leaking", leaking(), 5000, 30).holds
    for pages in kept:
        pages.close()
    assert flat("steady", iter(range(5000)), 5000, 30).holds


def test_scaling_gives_each_server_its_own_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5, 2, 3})
    assert halves_of_the_cores() == ([2], [3, 5])
    with on_cores([3, 5]):
        assert os.environ["VLLM_CPU_OMP_THREADS_BIND"] == "3,5"
    assert "VLLM_CPU_OMP_THREADS_BIND" not in os.environ
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {4})
    with pytest.raises(ValueError, match="at least 2 cores"):
        halves_of_the_cores()
    assert random_ids(200, 2, 8, seed=0) != random_ids(200, 2, 8, seed=1)
