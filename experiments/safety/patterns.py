"""Texts generated from this project's own patterns, in the YAML files below ``configs/data/safety``."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

import yaml

Side = Literal["attack", "benign"]

CONFIGS = Path(__file__).parents[2] / "configs/data/safety"
IDLE_ROUNDS = 8
"""After how many rounds without a new text a kind's patterns count as exhausted."""
CARRIERS_FROM = 10_000
"""First round of the texts in which instructions are planted: far from those of the benign sources."""
LONG_FROM = 20_000
"""First round of the texts that long documents are made of."""
LONG_BYTES = (3000, 12_000)
"""Least and most UTF-8 bytes of a long document: of English some 600 to 3,000 tokens."""

_SLOT = re.compile(r"(?<!\{)\{(?P<name>\w+)(?:\*(?P<low>\d+)-(?P<high>\d+))?(?::(?P<form>\w+))?\}(?!\})")
_FORMS: Mapping[str, Callable[[Sequence[str]], str]] = {
    "space": " ".join,
    "join": "".join,
    "comma": ", ".join,
    "line": "\n".join,
    "para": "\n\n".join,
    "item": lambda texts: "\n".join(f"- {text}" for text in texts),
    "step": lambda texts: "\n".join(f"{number}. {text}" for number, text in enumerate(texts, 1)),
    "quote": lambda texts: "\n".join(f"> {line}" for text in texts for line in text.splitlines()),
}
_NUMBERS = {"int": (2, 60), "big": (1000, 99999)}


class Patterns(TypedDict, total=False):
    """A file of patterns. A pattern is a text with slots.

    ``{name}`` stands for one value of the slot of that name, ``{name*2-5}`` for two to five different values, and
    ``{name*2-5:item}`` for as many in one of the forms ``space``, ``join``, ``comma``, ``line``, ``para``, ``item``,
    ``step`` and ``quote``. Values may have slots themselves; within one text a slot repeats a value only when it has
    no other left. ``{int}`` and ``{big}`` are numbers. Braces of the text itself are doubled.
    """

    language: str
    slots: Mapping[str, Sequence[str]]
    kinds: Mapping[str, Sequence[str]]
    """Whole texts by their kind."""
    planted: Mapping[str, Sequence[str]]
    """Of attacks only: instructions to plant in a document."""


@cache
def patterns(file: str) -> Patterns:
    """The patterns of a file, by its path below ``configs/data/safety``."""
    found: Patterns = yaml.load((CONFIGS / file).read_text(), getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    return found


def filled(pattern: str, slots: Mapping[str, Sequence[str]], rng: random.Random) -> str:
    """A pattern with random values for its slots.

    Raises:
        KeyError: a slot has no values.

    >>> filled("{greeting}, {{x}} {day*2-2:comma}", {"greeting": ["Hi"], "day": ["Monday", "Friday"]}, random.Random(0))
    'Hi, {x} Friday, Monday'
    """
    left: dict[str, list[str]] = {}
    return _filled(pattern, slots, rng, left).replace("{{", "{").replace("}}", "}")


def _filled(
    pattern: str, slots: Mapping[str, Sequence[str]], rng: random.Random, left: dict[str, list[str]]
) -> str:
    def value(found: re.Match[str]) -> str:
        count = rng.randint(int(found["low"]), int(found["high"])) if found["low"] else 1
        texts = [_filled(_drawn(found["name"], slots, rng, left), slots, rng, left) for _ in range(count)]
        return _FORMS[found["form"] or "space"](texts)

    return _SLOT.sub(value, pattern)


def _drawn(
    name: str, slots: Mapping[str, Sequence[str]], rng: random.Random, left: dict[str, list[str]]
) -> str:
    if name in _NUMBERS:
        return str(rng.randint(*_NUMBERS[name]))
    if not left.get(name):
        left[name] = rng.sample(list(slots[name]), len(slots[name]))
    return left[name].pop()


def own(folder: Path, file: str, kind: str, count: int, first: int = 0) -> Iterator[str]:
    """Up to ``count`` different texts of a kind, equally many of each pattern as far as it has them.

    Another ``first`` gives other texts.
    """
    content = patterns(file)
    found: set[str] = set()
    idle = 0
    for number in itertools.count(first):
        before = len(found)
        for pattern in content["kinds"][kind]:
            text = filled(pattern, content["slots"], random.Random(f"{number} {pattern}"))
            if text not in found:
                found.add(text)
                yield text
            if len(found) == count:
                return
        idle = 0 if len(found) > before else idle + 1
        if idle == IDLE_ROUNDS:
            return


def long_documents(folder: Path, file: str, kinds: Sequence[str], count: int) -> Iterator[str]:
    """``count`` documents of each kind: texts of the kind one after another, up to a length drawn for each document."""
    for kind in kinds:
        texts = list(own(folder, file, kind, 100, first=LONG_FROM))
        for number in range(count):
            rng = random.Random(f"{number} {kind}")
            size = math.exp(rng.uniform(*map(math.log, LONG_BYTES)))
            taken: list[str] = []
            for text in rng.sample(texts, len(texts)):
                taken.append(text)
                size -= len(text.encode()) + 2
                if size < 0:
                    break
            yield "\n\n".join(taken)


def planted(folder: Path, file: str, carriers: Mapping[str, Sequence[str]], count: int) -> Iterator[str]:
    """Benign texts with an instruction to the reader's assistant put between two sentences.

    ``carriers`` names the kinds of benign texts by the file of their patterns. The texts are others than those of the
    benign sources, so that neither counts as a near duplicate of the other.
    """
    content = patterns(file)
    texts = [
        text
        for other, kinds in carriers.items()
        for kind in kinds
        for text in own(folder, other, kind, 120, first=CARRIERS_FROM)
    ]
    orders = [pattern for each in content["planted"].values() for pattern in each]
    for number in range(count):
        rng = random.Random(number)
        carrier = rng.choice(texts)[:1800]
        order = filled(orders[number % len(orders)], content["slots"], rng)
        places = [found.end() for found in re.finditer(r"[.!?:;\n]\s|[。！？।؟]", carrier)] or [len(carrier)]
        place = rng.choice(places)
        yield f"{carrier[:place]}{order}{rng.choice([' ', chr(10)])}{carrier[place:]}"
