"""A cache whose writers are killed and whose file is damaged: is every entry that it returns the one that was put?"""

from __future__ import annotations

import contextlib
import itertools
import random
import re
import shutil
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from embedspace._util.progress import progress
from experiments.reliability.rows import Row, listed

ENTRIES = 40
"""In the file that is damaged."""

Outcome = Literal["right", "missed", "wrong", "refused", "another error"]


def cache_rows(folder: Path, kills: int, damaged: int) -> Iterator[Row]:
    """Writers of a cache, killed one after another; and copies of a cache's file, damaged at one place each."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    yield kill_row(folder / "written.sqlite", kills)
    yield damage_row(folder / "whole.sqlite", damaged)


@dataclass(frozen=True)
class KilledWriter:
    """What a writer's process did until it ended."""

    killed: bool
    """False where it ended before it could be killed."""
    reported: list[int]
    """Prompts that it reported as stored."""
    begun: list[int]
    """Those, and the ones that it may have been writing when it was killed."""


def killed_writers(path: Path, kills: int, rng: random.Random) -> Iterator[KilledWriter]:
    """Start that many writers of one cache, one after another, and kill each at a random moment."""
    from experiments.reliability.cache_writers import numbers_together, started, write_until_killed

    for kill in range(kills):
        first, reports = kill * 1000, []
        process, receive = started(write_until_killed, str(path), first)
        # From before the file is open to deep in the writing.
        waited = rng.randrange(12)
        try:
            with contextlib.suppress(EOFError):
                for _ in range(waited):
                    reports.append(receive.recv())
                time.sleep(rng.uniform(0, 0.01 if waited else 0.1))
                process.kill()
                while True:
                    reports.append(receive.recv())
        finally:
            process.kill()
            process.join()
        groups = map(numbers_together, range(first, first + len(reports) + 1))
        reported = [number for report in reports for number in report]
        yield KilledWriter(process.exitcode == -9, reported, [number for group in groups for number in group])


def kill_row(path: Path, kills: int) -> Row:
    """Kill writers, and compare the file with what they were to write."""
    from embedspace import EmbeddingCache
    from experiments.reliability.cache_writers import key_of, prompt_of, same

    writers: list[KilledWriter] = []
    with progress("killed writers", kills) as advance:
        for writer in killed_writers(path, kills, random.Random(0)):
            writers.append(writer)
            advance()
    right = lost = 0
    with EmbeddingCache(path) as cache:
        entries = cache.stats().entries
        for writer in writers:
            kept = cache.get_many([key_of(number) for number in writer.begun])
            for number, found in zip(writer.begun, kept, strict=True):
                right += same(found, prompt_of(number))
                lost += found is None and number in writer.reported
        sound = cache.verify().sound
    killed = sum(writer.killed for writer in writers)
    reported = sum(len(writer.reported) for writer in writers)
    return Row(
        f"{killed} SIGKILLs of writers of a cache",
        # An entry that no writer began is as wrong as one that differs in a bit from what was put.
        f"{right:,} right, {lost} lost, {entries - right} wrong",
        f"{entries:,} entries, {reported:,} of which a writer had reported as stored before it was killed; the file is "
        + ("sound" if sound else "damaged"),
        right == entries and not lost and sound and killed == kills and reported > 0,
        "no entry lost that was reported as stored, none wrong",
    )


def damage_row(path: Path, damaged: int) -> Row:
    """Fill a cache, damage copies of its file, and read every entry of each."""
    from embedspace import EmbeddingCache
    from experiments.reliability.cache_writers import key_of, prompt_of

    with EmbeddingCache(path) as cache:
        cache.put_many((key_of(number), prompt_of(number)) for number in range(ENTRIES))
    whole, rng = path.read_bytes(), random.Random(0)
    counts: Counter[Outcome] = Counter()
    made: Counter[str] = Counter()
    incomplete: Counter[str] = Counter()
    with progress("damaged files", damaged) as advance:
        for kind in itertools.islice(itertools.cycle(DAMAGES), damaged):
            copy = path.with_name("damaged") / "cache.sqlite"
            shutil.rmtree(copy.parent, ignore_errors=True)
            copy.parent.mkdir()
            copy.write_bytes(DAMAGES[kind](whole, rng))
            found = outcomes(copy)
            counts += found
            made[kind] += 1
            incomplete[kind] += found != Counter(right=ENTRIES)
            advance()
    return Row(
        f"{damaged} damaged files of a cache, of {ENTRIES} entries each",
        f"{counts['right']:,} right, {counts['missed']:,} missed, {counts['wrong']} wrong",
        f"{counts['refused']} files refused at opening with a clear error, {counts['another error']} with another "
        f"error. Made: {listed(made)}; of these, not every entry came back: {listed(incomplete)}",
        not (counts["wrong"] or counts["another error"]),
        "no wrong entry and no unclear error; entries may be missed",
    )


def outcomes(path: Path) -> Counter[Outcome]:
    """What a cache returns for each entry; one count for the whole file where it cannot be read at all."""
    from embedspace import EmbeddingCache
    from experiments.reliability.cache_writers import key_of, prompt_of, same

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        try:
            with EmbeddingCache(path) as cache:
                found = cache.get_many([key_of(number) for number in range(ENTRIES)])
        except Exception as error:  # whatever it is, it is counted
            clear = isinstance(error, ValueError) and re.search("another program|newer format", str(error))
            return Counter({"refused" if clear else "another error": 1})
    return Counter(
        "missed" if each is None else "right" if same(each, prompt_of(number)) else "wrong"
        for number, each in enumerate(found)
    )


def flipped(whole: bytes, rng: random.Random) -> bytes:
    """One wrong byte. Headers and tables, few bytes among the values, are hit two times of three."""
    from embedspace.cache import PAGE_BYTES

    page = rng.randrange(len(whole) // PAGE_BYTES) * PAGE_BYTES
    place = rng.choice([rng.randrange(len(whole)), rng.randrange(300), page + rng.randrange(40)])
    return whole[:place] + bytes([whole[place] ^ rng.randrange(1, 256)]) + whole[place + 1 :]


def cut(whole: bytes, rng: random.Random) -> bytes:
    """The end is missing, every other time from the beginning of a page on."""
    from embedspace.cache import PAGE_BYTES

    place = rng.randrange(len(whole))
    return whole[: rng.choice([place, place // PAGE_BYTES * PAGE_BYTES])]


def zeroed(whole: bytes, rng: random.Random) -> bytes:
    """One page is zeros."""
    from embedspace.cache import PAGE_BYTES

    place = rng.randrange(len(whole) // PAGE_BYTES) * PAGE_BYTES
    return whole[:place] + bytes(PAGE_BYTES) + whole[place + PAGE_BYTES :]


DAMAGES: Mapping[str, Callable[[bytes, random.Random], bytes]] = {
    "byte flipped": flipped,
    "end cut off": cut,
    "page zeroed": zeroed,
}
