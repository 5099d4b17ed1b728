"""Texts by kind, each kind with items for development and sealed items for the test."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import islice
from typing import Literal

from experiments.compression.functions import CODE, functions
from experiments.compression.items import Item, Split, alternating
from experiments.compression.knowledge_base import lines
from experiments.compression.prose import prose
from experiments.compression.records import RECORDS, records
from experiments.compression.titles import GIST, titles
from experiments.compression.written import written

NUMBERS, WORDS, CONDITIONS = "facts that are numbers", "facts that are words", "conditions and negations"
GERMAN, CHINESE, HINDI = "German", "Chinese", "Hindi"


def items(split: Split, per_kind: int, kinds: Sequence[str] | None = None, skipped: int = 0) -> list[Item]:
    """Items of each kind; within a kind, the two splits have no document, pattern, source or domain in common.

    Documents of the bank's knowledge base are for development only: reports were made on both of its halves before.

    Args:
        split: ``development`` for choosing, ``test`` for reports.
        per_kind: how many of each kind; the first ones are of different clusters.
        kinds: names of kinds; None for all of :data:`KINDS`.
        skipped: how many of each kind to leave out first, such as those that an earlier report was made on.

    Raises:
        ValueError: an unknown kind, no items asked for, inspect-evals is not installed, or fewer items than asked for.
    """
    chosen = list(KINDS) if kinds is None else list(kinds)
    if unknown := [kind for kind in chosen if kind not in KINDS]:
        raise ValueError(f"{unknown[0]!r} is no kind of text; the kinds are {', '.join(map(repr, KINDS))}")
    if per_kind < 1 or skipped < 0:
        raise ValueError(
            f"per_kind is {per_kind} and skipped is {skipped}; ask for at least 1 item, and skip 0 or more"
        )
    found: list[Item] = []
    for kind in chosen:
        own = list(islice(_sound(KINDS[kind](split)), skipped, skipped + per_kind))
        if len(own) < per_kind:
            after = f" after the first {skipped}" if skipped else ""
            raise ValueError(
                f"the split {split!r} has {len(own)} items of the kind {kind!r}{after}, {per_kind} were asked for"
            )
        found += [{**item, "task": kind} for item in own]
    return found


def _sound(made: Iterable[Item]) -> Iterator[Item]:
    """Each item once, where the passage says what is right in one place and the question does not."""
    seen: set[tuple[str, str]] = set()
    for item in made:
        right = item.get("strings", ())
        said_once = all(
            item["text"].count(string) == 1 and string not in item["question"] for string in right
        )
        if said_once and (key := (item["text"], item["question"])) not in seen:
            seen.add(key)
            yield item


def _facts(answers: Literal["numbers", "words"], split: Split) -> Iterator[Item]:
    """Two written passages, then one of real prose, and so on."""
    own = written(split, answers, joined=True)
    real = prose("english", answers) if split == "test" else lines(answers)
    return alternating(own, own, real)


def _chinese(split: Split) -> Iterator[Item]:
    own = written(split, "chinese")
    if split == "development":
        return own
    return alternating(own, own, alternating(prose("chinese", "numbers"), prose("chinese", "words")))


KINDS: dict[str, Callable[[Split], Iterator[Item]]] = {
    NUMBERS: partial(_facts, "numbers"),
    WORDS: partial(_facts, "words"),
    GIST: titles,
    CONDITIONS: lambda split: written(split, "conditions", joined=True),
    CODE: functions,
    RECORDS: records,
    GERMAN: lambda split: written(split, "german"),
    CHINESE: _chinese,
    HINDI: lambda split: written(split, "hindi"),
}
