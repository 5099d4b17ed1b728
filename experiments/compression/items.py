"""Items: a text, a question about it and the right answer; and arbitrary choices that are the same on every machine."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Literal, NotRequired, TypedDict, TypeVar

Split = Literal["development", "test"]
"""``development`` is for choosing methods and settings, ``test`` for nothing but reports."""

Choice = TypeVar("Choice")


class Item(TypedDict):
    """A text, a question about it, and the right answer."""

    text: str
    question: str
    answer: str
    beginning: NotRequired[str]
    """First words of the model's answer, given to it."""
    task: NotRequired[str]
    """Kind of text or question; each kind has a section of the report."""
    cluster: NotRequired[str]
    """Name of the document, pattern or record that the item was made from; items of one are not independent."""
    strings: NotRequired[Sequence[str]]
    """What an answer must contain to be right; none where no wording is the right one."""


def task_of(item: Item) -> str:
    """Kind of text or question."""
    return item.get("task", "questions")


def cluster_of(item: Item) -> str:
    """What the item was made from; by default its text, which several questions may share."""
    return item.get("cluster", item["text"])


def number_of(text: str) -> int:
    """A number that depends on every character of a text.

    >>> number_of("embedspace") % 7 == number_of("embedspace") % 7
    True
    """
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])


def picked(choices: Sequence[Choice], name: str) -> Choice:
    """One of the choices, decided by a name."""
    return choices[number_of(name) % len(choices)]


def shuffled(choices: Iterable[Choice], name: str) -> list[Choice]:
    """The choices in an order decided by a name and their representations."""
    return sorted(choices, key=lambda choice: number_of(f"{name}/{choice!r}"))


def alternating(*sources: Iterable[Item]) -> Iterator[Item]:
    """The first item of each source, then the second of each, and so on."""
    return (item for item in chain.from_iterable(zip_longest(*sources)) if item is not None)
