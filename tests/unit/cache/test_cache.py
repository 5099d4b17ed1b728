"""The persistent cache: never a wrong prompt, whatever happens to the file, the disk or the processes."""

import argparse
import contextlib
import itertools
import os
import pickle
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import EmbeddingCache, EmbeddingSpace, PromptEmbeds, Recipe
from embedspace.cache.database import CacheConnection
from embedspace.cli import main
from embedspace.cli.cache import size_in_bytes
from embedspace.prompt import cache_key, transformed_key
from experiments.reliability.cache import killed_writers
from experiments.reliability.cache_writers import key_of, prompt_of, same, started
from tests.cache_reader import write_and_read
from tests.checkpoints import make_tiny_checkpoint

ROOT = Path(__file__).parents[3]

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
PARTS = st.tuples(
    TEXTS,
    st.none() | TEXTS,
    st.lists(st.integers(0, 3), max_size=4).map(tuple),
    st.recursive(
        st.builds(lambda name, text: Recipe.of(name, {"text": text}), TEXTS, TEXTS | st.integers(0, 3)),
        lambda inner: st.builds(
            lambda name, parts: Recipe.of(name, {}, *parts), TEXTS, st.lists(inner, max_size=2)
        ),
        max_leaves=3,
    ),
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.integers(1, 12),
)


def key_from(parts):
    names = ("space", "template", "token_ids", "recipe", "dtype", "version")
    return cache_key(**dict(zip(names, parts, strict=True)))


@given(PARTS, PARTS)
def test_keys_are_equal_exactly_where_every_part_is(a, b):
    assert (key_from(a) == key_from(b)) == (repr(a) == repr(b))


@given(TEXTS, TEXTS, st.lists(st.integers(0, 9), max_size=6), st.data())
def test_moving_the_border_between_two_parts_changes_the_key(space, template, ids, data):
    whole, cut = space + template, data.draw(st.integers(0, len(space) + len(template)))
    moved = (whole[:cut], whole[cut:])
    recipe = Recipe.of("embed", {"text": "x"})
    one, other = (key_from((*pair, ids, recipe, torch.float32, 1)) for pair in ((space, template), moved))
    assert (one == other) == ((space, template) == moved)


@pytest.mark.parametrize("part", range(6))
def test_a_change_of_any_part_of_the_key_misses(tmp_path, part):
    recipe = Recipe.of("embed", {"text": "a text"})
    parts = ["space", None, (1, 2), recipe, torch.float32, 1]
    changed = ["spacE", "", (12,), Recipe.of("to", {}, recipe), torch.float16, 2]
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.put(key_from(parts), prompt_of(1))
        assert same(cache.get(key_from(parts)), prompt_of(1))
        assert cache.get(key_from([*parts[:part], changed[part], *parts[part + 1 :]])) is None


@pytest.mark.parametrize("change", ["vectors", "content", "space", "recipe", "dtype", "step"])
def test_a_transformation_is_kept_under_the_bytes_of_what_went_in(change):
    prompt, step = prompt_of(3), Recipe.of("compress", {"ratio": 2})
    fields = {name: getattr(prompt, name) for name in ("vectors", "content", "space", "recipe")}
    if change == "vectors":
        fields["vectors"] = fields["vectors"].clone()
        fields["vectors"][-1, -1] += 1
    elif change == "dtype":
        fields["vectors"] = fields["vectors"].float()
    elif change == "content":
        fields["content"] = ~fields["content"]
    elif change in fields:
        fields[change] = {"space": "other", "recipe": Recipe.of("other", {})}[change]
    other = Recipe.of("compress", {"ratio": 3}) if change == "step" else step
    assert transformed_key(prompt, step) == transformed_key(prompt_of(3), step)
    assert transformed_key(prompt, step) != transformed_key(PromptEmbeds(**fields), other)


@given(
    st.integers(1, 40),
    st.integers(1, 40),
    st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16]),
    st.integers(0, 2**32),
)
def test_a_prompt_comes_back_bit_for_bit_and_in_memory_of_its_own(tmp_path, rows, hidden, dtype, seed):
    generator = torch.Generator().manual_seed(seed)
    # A view, with NaN and infinity and both zeros in it.
    vectors = torch.randn(2 * rows, hidden, generator=generator).to(dtype)[::2]
    vectors[0, 0], vectors[-1, -1] = float("nan"), -0.0
    content = torch.rand(rows, generator=generator) > 0.5
    prompt = PromptEmbeds(
        vectors, content, "space é", Recipe.of("embed", {"text": "🙂\x00", "x": 0.1, "n": None})
    )
    key = key_of(seed)
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        assert cache.put(key, prompt)
        found = cache.get(key)
        assert found.vectors.dtype == dtype
        assert torch.equal(
            found.vectors.contiguous().view(torch.uint8), vectors.contiguous().view(torch.uint8)
        )
        assert torch.equal(found.content, content)
        assert (found.space, found.recipe) == (prompt.space, prompt.recipe)
        found.vectors.zero_()
        again = cache.get(key)
        assert torch.equal(
            again.vectors.contiguous().view(torch.uint8), vectors.contiguous().view(torch.uint8)
        )


def test_many_are_answered_in_the_order_of_the_keys_with_repeats_and_gaps(tmp_path):
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        assert cache.put_many((key_of(n), prompt_of(n)) for n in range(150)) == 150
        asked = [149, 7, 1000, 7, *range(100)]
        for number, found in zip(asked, cache.get_many([key_of(n) for n in asked]), strict=True):
            assert (found is None) if number == 1000 else same(found, prompt_of(number))
        assert cache.get_many([]) == []
        counts = cache.stats()
        assert (counts.entries, counts.hits, counts.misses, counts.damaged) == (150, 103, 1, 0)
        assert cache.put(key_of(7), prompt_of(8))
        assert same(cache.get(key_of(7)), prompt_of(8))
        assert cache.stats().entries == 150


def test_entries_outlive_the_process_and_other_spaces_are_never_mixed_up(tmp_path, smollm2):
    tiny = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "tiny"))
    chat = [{"role": "user", "content": "What is the capital of France?"}]
    items = ["one text", chat, "another", "one text", "What is the capital of France?"]
    for _ in range(2):
        with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
            for space in (smollm2, tiny):
                plain = list(space.embed_many(items))
                kept = list(space.embed_many(items, cache=cache, batch_size=2))
                assert all(same(a, b) for a, b in zip(kept, plain, strict=True))
            counts = cache.stats()
    assert (counts.entries, counts.hits) == (8, 10)


def test_embed_many_with_a_cache_streams_and_keeps_what_it_has_given(tmp_path, smollm2):
    texts = (f"text {number}" for number in itertools.count())
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        next(smollm2.embed_many(texts, batch_size=3, cache=cache)).vectors.zero_()
        assert next(texts) == "text 3"
        assert same(next(smollm2.embed_many(["text 0"], cache=cache)), smollm2.embed("text 0"))
        assert cache.stats().hits == 1
    with pytest.raises(ValueError, match="closed"):
        next(smollm2.embed_many(["text 0"], cache=cache))


def test_a_transformation_is_computed_once(tmp_path):
    calls = []

    def doubled(prompt):
        calls.append(prompt)
        return prompt.with_content(2 * prompt.content_vectors, Recipe.of("double", {}, prompt.recipe))

    prompts = [prompt_of(number) for number in (5, 6, 7, 5)]
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        for _ in range(2):
            made = list(cache.transformed(prompts, Recipe.of("double", {}), doubled, batch_size=3))
            assert all(same(a, doubled(b)) for a, b in zip(made, prompts, strict=True))
    assert len(calls) == 3 + 2 * 4


def test_the_file_stays_within_its_bound_and_what_was_used_last_stays(tmp_path):
    path, bound = tmp_path / "cache.sqlite", 3 * 2**20
    with EmbeddingCache(path, bound) as cache:
        cache.put(key_of(0), prompt_of(0))
        for number in range(1, 600):
            assert cache.put(key_of(number), prompt_of(number))
            assert cache.get(key_of(0)) is not None
            assert path.stat().st_size <= bound
        cache.put_many((key_of(n), prompt_of(n)) for n in range(600, 1200))
        counts = cache.stats()
        assert path.stat().st_size <= bound
        assert 0.4 * bound < counts.value_bytes < bound
        assert cache.get(key_of(1199)) is not None
        assert cache.get(key_of(1)) is None
        assert cache.verify().sound
        large = PromptEmbeds(
            torch.zeros(bound // 256, 64), torch.ones(bound // 256).bool(), "a space", Recipe("x")
        )
        assert not cache.put(key_of(9999), large)
        assert cache.stats().entries == counts.entries
    with EmbeddingCache(path, 2**20) as cache:
        cache.put(key_of(0), prompt_of(0))
        cache.prune()
        assert path.stat().st_size <= 2**20
        assert cache.get(key_of(0)) is not None


def test_prune_gives_room_back_to_the_disk(tmp_path):
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.put_many((key_of(n), prompt_of(n)) for n in range(300))
        before = cache.stats()
        pruned = cache.prune(2 * 2**20)
        after = cache.stats()
        assert after.file_bytes == before.file_bytes - pruned.freed_bytes
        assert after.file_bytes <= 2 * 2**20
        assert after.entries == 300 - pruned.evicted > 10
        assert same(cache.get(key_of(299)), prompt_of(299))


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_they_reported_and_damage_nothing(tmp_path):
    path = tmp_path / "cache.sqlite"
    writers = list(killed_writers(path, 60, random.Random(0)))
    assert all(writer.killed for writer in writers)
    reported = {number for writer in writers for number in writer.reported}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with EmbeddingCache(path) as cache:
            assert len(reported) > 200
            assert all(same(cache.get(key_of(number)), prompt_of(number)) for number in reported)
            candidates = [kill * 10000 + number for kill in range(60) for number in range(1000)]
            there = [
                (number, found)
                for number, found in zip(
                    candidates, cache.get_many(list(map(key_of, candidates))), strict=True
                )
                if found is not None
            ]
            assert len(there) == cache.stats().entries >= len(reported)
            assert all(same(found, prompt_of(number)) for number, found in there)
            assert cache.verify().sound


def run_together(path, spaces, max_bytes):
    """Processes that write and read one cache at once; none of them may read a wrong prompt."""
    workers = []
    for space in spaces:
        workers.append(started(write_and_read, str(path), space, list(range(120)), max_bytes))
    for worker, receive in workers:
        wrong, right = receive.recv()
        assert wrong == 0
        assert right > 0
        worker.join()


def test_processes_with_different_spaces_write_and_read_one_small_cache_at_once(tmp_path):
    path, bound = tmp_path / "cache.sqlite", 2**20
    run_together(path, ["one space", "another", "one space", "another"], bound)
    assert path.stat().st_size <= bound
    with EmbeddingCache(path) as cache:
        assert cache.verify().sound


def test_threads_share_one_cache(tmp_path):
    wrong = []

    def work(seed):
        order = random.Random(seed)
        for number in order.sample(range(80), 80):
            cache.put(key_of(number), prompt_of(number))
            asked = [order.randrange(80) for _ in range(5)]
            for each, found in zip(asked, cache.get_many([key_of(n) for n in asked]), strict=True):
                if found is not None and not same(found, prompt_of(each)):
                    wrong.append(each)

    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not wrong
        assert cache.stats().entries == 80
        assert cache.verify().sound


def test_a_cache_crosses_a_fork_and_a_pickle(tmp_path):
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        cache.put(key_of(1), prompt_of(1))
        child = os.fork()
        if child == 0:
            right = same(cache.get(key_of(1)), prompt_of(1)) and cache.put(key_of(2), prompt_of(2))
            cache.close()
            os._exit(0 if right else 1)
        assert cache.put(key_of(3), prompt_of(3))
        assert os.waitpid(child, 0)[1] == 0
        assert all(same(cache.get(key_of(n)), prompt_of(n)) for n in (1, 2, 3))
        with pickle.loads(pickle.dumps(cache)) as other:
            assert same(other.get(key_of(2)), prompt_of(2))
            assert other.max_bytes == cache.max_bytes


def test_what_a_forked_child_keeps_outlives_its_parents_closing(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    cache.put(key_of(1), prompt_of(1))
    closed, tell_closed = os.pipe()
    child = os.fork()
    if child == 0:
        os.read(closed, 1)
        kept = cache.put(key_of(2), prompt_of(2))
        os.kill(os.getpid(), signal.SIGKILL if kept else signal.SIGTERM)
    cache.close()
    os.write(tell_closed, b".")
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    os.close(closed)
    os.close(tell_closed)
    with EmbeddingCache(cache.path) as again:
        assert all(same(again.get(key_of(n)), prompt_of(n)) for n in (1, 2))


NUMBERS = range(40)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    path = tmp_path_factory.mktemp("filled") / "cache.sqlite"
    with EmbeddingCache(path) as cache:
        cache.put_many((key_of(n), prompt_of(n)) for n in NUMBERS)
    return path


def use(path):
    """Read everything from a cache and go on writing; nothing may come back wrong.

    Returns:
        How many entries came back, and one for the last that was written, or -1 where the file was refused.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            cache = EmbeddingCache(path)
        except ValueError as error:
            said = str(error)
        else:
            with cache:
                return read_and_write(cache)
    assert re.search("another program|newer format", said)
    return -1


def read_and_write(cache):
    found = cache.get_many([key_of(n) for n in NUMBERS])
    assert all(same(each, prompt_of(n)) for n, each in zip(NUMBERS, found, strict=True) if each is not None)
    for number in range(1000, 1003):
        cache.put(key_of(number), prompt_of(number))
        again = cache.get(key_of(number))
        assert again is None or same(again, prompt_of(number))
    return sum(each is not None for each in found) + (again is not None)


@given(st.data())
def test_a_wrong_byte_anywhere_in_the_file_costs_entries_and_never_gives_a_wrong_one(tmp_path, filled, data):
    size = filled.stat().st_size
    path = tmp_path / "copy.sqlite"
    for leftover in tmp_path.glob("copy.sqlite*"):
        leftover.unlink()
    whole = bytearray(filled.read_bytes())
    # Headers and tables are few bytes among the values, and worth more tries than these.
    places = st.one_of(
        st.integers(0, size - 1),
        st.integers(0, 300),
        st.integers(0, size // 32768 - 1).map(lambda page: page * 32768 + page % 40),
    )
    for place in data.draw(st.lists(places, min_size=1, max_size=5)):
        whole[place] ^= data.draw(st.integers(1, 255))
    path.write_bytes(whole)
    use(path)


@given(st.floats(0, 1))
def test_a_file_that_was_cut_short_is_set_aside_or_read_as_far_as_it_is_whole(tmp_path, filled, share):
    path = tmp_path / "copy.sqlite"
    for leftover in tmp_path.glob("copy.sqlite*"):
        leftover.unlink()
    whole = filled.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert use(path) > 0


def test_a_wrong_byte_in_a_value_is_a_miss_found_by_verify_and_dropped_by_prune(tmp_path, filled, capsys):
    path = tmp_path / "cache.sqlite"
    whole = bytearray(filled.read_bytes())
    place = whole.index(prompt_of(17).vectors.view(torch.uint8).numpy().tobytes()[:512]) + 100
    whole[place] ^= 4
    path.write_bytes(whole)
    assert main(["cache", str(path), "verify"]) == 1
    assert "40 entries, 1 damaged" in capsys.readouterr().out
    assert main(["cache", str(path), "prune"]) == 0
    assert "1 damaged and 0 old" in capsys.readouterr().out
    assert main(["cache", str(path), "verify"]) == 0
    path.write_bytes(whole)
    with EmbeddingCache(path) as cache:
        found = cache.get_many([key_of(n) for n in NUMBERS])
        assert [n for n, each in zip(NUMBERS, found, strict=True) if each is None] == [17]
        assert cache.stats().damaged == 1
        assert cache.verify().sound
        assert cache.put(key_of(17), prompt_of(17))
        assert same(cache.get(key_of(17)), prompt_of(17))


def test_a_value_found_under_another_entrys_key_is_a_miss(tmp_path, filled):
    path = tmp_path / "cache.sqlite"
    shutil.copy(filled, path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        rows = database.execute("SELECT id, checksum FROM entries WHERE key = ?", (key_of(3),)).fetchone()
        database.execute("UPDATE entries SET id = ?, checksum = ? WHERE key = ?", (*rows, key_of(4)))
    with EmbeddingCache(path) as cache:
        assert same(cache.get(key_of(3)), prompt_of(3))
        assert cache.get(key_of(4)) is None
        cache.prune()
        assert cache.verify().sound
    with contextlib.closing(sqlite3.connect(path)) as database:
        entries, values = (
            database.execute(f"SELECT id FROM {table} ORDER BY id").fetchall()
            for table in ("entries", "vals")
        )
    assert entries == values
    assert len(entries) < len(NUMBERS)


@pytest.mark.parametrize(
    "content", [b"not a database at all, " * 3000, b"\x00" * 70000, b"SQLite format 3\x00" + b"\xff" * 9000]
)
def test_a_file_that_is_no_database_is_set_aside_whole_with_a_warning(tmp_path, content):
    path = tmp_path / "cache.sqlite"
    path.write_bytes(content)
    with pytest.warns(RuntimeWarning, match=r"cannot be read.*set aside as cache.sqlite.damaged-1"):
        cache = EmbeddingCache(path)
    with cache:
        assert cache.put(key_of(1), prompt_of(1))
        assert same(cache.get(key_of(1)), prompt_of(1))
        assert not cache.verify().sound
    assert (tmp_path / "cache.sqlite.damaged-1").read_bytes() == content


def test_processes_that_find_the_file_damaged_together_set_it_aside_once(tmp_path):
    path, garbage = tmp_path / "cache.sqlite", b"not a database at all, " * 3000
    path.write_bytes(garbage)
    run_together(path, ["one space"] * 4, 8 * 2**20)
    assert [file.read_bytes() for file in tmp_path.glob("*.damaged-*")] == [garbage]
    with EmbeddingCache(path) as cache:
        assert cache.stats().entries == 120
        assert cache.verify().sound


def test_one_that_meets_the_damage_late_leaves_the_fresh_file_alone(tmp_path, filled):
    path = tmp_path / "cache.sqlite"
    shutil.copy(filled, path)
    early, late = CacheConnection(path), CacheConnection(path)
    with pytest.warns(RuntimeWarning, match="it was broken"):
        early.quarantine("it was broken")
    early.get()
    late.quarantine("it was broken")
    assert [file.name for file in tmp_path.glob("*.damaged-?")] == ["cache.sqlite.damaged-1"]
    early.close()
    late.close()


def test_a_file_that_breaks_while_it_is_in_use_is_set_aside_and_the_run_goes_on(tmp_path, filled):
    path = tmp_path / "cache.sqlite"
    shutil.copy(filled, path)
    with EmbeddingCache(path) as cache:
        whole = path.read_bytes()
        path.write_bytes(whole[:32768] + b"\x99" * (len(whole) - 32768))
        with pytest.warns(RuntimeWarning, match="set aside"):
            assert cache.get_many([key_of(n) for n in NUMBERS]) == [None] * len(NUMBERS)
        assert cache.put(key_of(1), prompt_of(1))
        assert same(cache.get(key_of(1)), prompt_of(1))


def test_a_file_that_was_deleted_in_use_is_begun_anew(tmp_path):
    path = tmp_path / "cache.sqlite"
    with EmbeddingCache(path) as cache, EmbeddingCache(path) as other:
        cache.put(key_of(1), prompt_of(1))
        for file in tmp_path.iterdir():
            file.unlink()
        assert cache.get(key_of(1)) is None
        assert cache.put(key_of(2), prompt_of(2))
        assert same(other.get(key_of(2)), prompt_of(2))


def test_another_programs_database_and_a_newer_format_are_refused_untouched(tmp_path, filled):
    foreign, newer = tmp_path / "foreign.sqlite", tmp_path / "newer.sqlite"
    with contextlib.closing(sqlite3.connect(foreign)) as database, database:
        database.execute("CREATE TABLE precious (x)")
    shutil.copy(filled, newer)
    with contextlib.closing(sqlite3.connect(newer)) as database, database:
        database.execute("PRAGMA user_version = 99")
    for path, words in ((foreign, "another program"), (newer, "newer format 99.*update embedspace")):
        before = path.read_bytes()
        with pytest.raises(ValueError, match=words):
            EmbeddingCache(path)
        assert path.read_bytes() == before


def test_an_older_format_is_set_aside(tmp_path, filled):
    path = tmp_path / "cache.sqlite"
    shutil.copy(filled, path)
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("PRAGMA user_version = 0")
    with pytest.warns(RuntimeWarning, match="older format 0"), EmbeddingCache(path) as cache:
        assert cache.stats().entries == 0


def test_a_folder_is_refused_with_a_path_that_would_do(tmp_path):
    with pytest.raises(ValueError, match=r"is a folder; name a file in it, such as .*embeddings.sqlite"):
        EmbeddingCache(tmp_path)


@pytest.mark.parametrize(
    "path", ["/proc/embedspace/cache.sqlite", "/proc/self/cache.sqlite", "/dev/null/cache.sqlite"]
)
def test_a_place_where_nothing_can_be_written_is_a_clear_error(path):
    with pytest.raises(OSError, match=f"the cache {path} cannot be opened.*choose a path"):
        EmbeddingCache(path)


USE = """
import warnings
from embedspace import EmbeddingCache
from experiments.reliability.cache_writers import *
def fill(cache, numbers):
    return [number for number in numbers if cache.put(key_of(number), prompt_of(number))]
def check(path, kept):
    with EmbeddingCache(path) as cache:
        assert all(same(cache.get(key_of(number)), prompt_of(number)) for number in kept)
        assert cache.verify().sound
"""

FULL = """
with EmbeddingCache(path) as cache, warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    kept = fill(cache, range(200))
    assert 5 < len(kept) < 195, len(kept)
    assert all(same(cache.get(key_of(number)), prompt_of(number)) for number in kept)
    texts = [str(each.message) for each in caught]
    assert 1 <= len(texts) <= 2 and "going on without it" in texts[0], texts
check(path, kept)
"""


def in_a_process(code, *wrapped):
    done = subprocess.run(
        [*wrapped, sys.executable, "-c", USE + code], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_a_file_that_may_not_grow_ends_the_keeping_and_not_the_run(tmp_path):
    in_a_process(
        f"import resource; path = {str(tmp_path / 'cache.sqlite')!r}\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, resource.RLIM_INFINITY))\n" + FULL
    )


def in_a_namespace(commands):
    """A command line that runs what follows it where only it sees the mounts that it makes."""
    wrapped = ["unshare", "--mount", "sh", "-c", f'{commands} && exec "$@"', "sh"]
    if subprocess.run([*wrapped, "true"], capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    return wrapped


def test_a_full_disk_ends_the_keeping_and_not_the_run(tmp_path):
    small = in_a_namespace(f"mount -t tmpfs -o size=2m tmpfs {tmp_path}")
    in_a_process(f"path = {str(tmp_path / 'cache.sqlite')!r}" + FULL, *small)


def test_a_read_only_folder_is_a_clear_error(tmp_path, filled):
    shutil.copy(filled, tmp_path / "cache.sqlite")
    frozen = in_a_namespace(f"mount --bind {tmp_path} {tmp_path} && mount -o remount,ro,bind {tmp_path}")
    code = """
for name in ("cache.sqlite", "new.sqlite"):
    try:
        EmbeddingCache(f"{folder}/{name}")
    except OSError as error:
        assert "Read-only file system" in str(error) and "choose a path" in str(error), error
    else:
        raise AssertionError
"""
    in_a_process(f"folder = {str(tmp_path)!r}" + code, *frozen)


@pytest.mark.parametrize(
    ("use_it", "error", "words"),
    [
        (lambda cache: cache.get("text"), TypeError, "made by cache_key and is bytes, got a str"),
        (lambda cache: cache.get(b"short"), ValueError, "has 32 bytes, got 5"),
        (lambda cache: cache.put(b"short", prompt_of(1)), ValueError, "has 32 bytes, got 5"),
        (lambda cache: cache.put(key_of(1), EIGHT_BITS), TypeError, "got torch.float8_e4m3fn; cast"),
        (lambda cache: cache.prune(-1), ValueError, "0 or more, got -1"),
        (lambda cache: EmbeddingCache(cache.path, 1000), ValueError, "at least 1048576, got 1000"),
    ],
)
def test_wrong_use_is_an_error_that_names_the_value(tmp_path, use_it, error, words):
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache, pytest.raises(error, match=words):
        use_it(cache)


EIGHT_BITS = PromptEmbeds(torch.zeros(1, 2).to(torch.float8_e4m3fn), torch.ones(1).bool(), "x", Recipe("x"))


def test_a_closed_cache_says_so(tmp_path):
    cache = EmbeddingCache(tmp_path / "cache.sqlite")
    cache.close()
    cache.close()
    for call in (
        lambda: cache.get(key_of(1)),
        lambda: cache.put(key_of(1), prompt_of(1)),
        cache.stats,
        cache.verify,
        cache.prune,
    ):
        with pytest.raises(ValueError, match="is closed"):
            call()


def test_the_command_line_counts_checks_and_prunes(tmp_path, filled, capsys):
    path = tmp_path / "cache.sqlite"
    shutil.copy(filled, path)
    assert main(["cache", str(path), "stats"]) == 0
    assert "40 entries" in capsys.readouterr().out
    assert main(["cache", str(path), "prune", "--max-size", "0.5M"]) == 0
    assert path.stat().st_size <= 2**19
    assert main(["cache", str(path), "stats", "--max-size", "1M"]) == 2
    assert main(["cache", str(tmp_path / "none.sqlite"), "stats"]) == 2
    assert "there is no cache" in capsys.readouterr().err
    path.write_bytes(path.read_bytes()[:40000])
    with pytest.warns(RuntimeWarning, match="set aside"):
        assert main(["cache", str(path), "verify"]) == 1


@pytest.mark.parametrize(("text", "size"), [("12", 12), ("1K", 1024), ("1.5M", 3 * 2**19), ("2G", 2**31)])
def test_sizes_are_read_in_powers_of_1024(text, size):
    assert size_in_bytes(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1X", "inf", "1 M"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="is no size"):
        size_in_bytes(text)
