"""Which records of a run a page lists, and how each is shown: with its question, recipe and tags."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import TypeVar

from embedspace.prompt import Recipe
from embedspace.runs import Record

MAX_RECORDS = 2000
"""Records that a page lists one by one; the record file holds all."""
MAX_CHARACTERS = 4_000_000
"""Of all listed records together."""
MAX_TEXT, MAX_RECIPE = 2000, 600
"""Characters of one record's text and recipe."""
MAX_FAILURES = 100
"""Errors that a page lists one by one."""

T = TypeVar("T")
Place = tuple[str, int]
"""Key of a case and number of a completion."""

_ENDS = {"stop": "complete", "length": "cut at the limit", "scored": "likelihoods only", "error": "error"}


@dataclass(frozen=True)
class ListedRecord:
    """One record as a page shows it."""

    index: int
    """Place in the record file, from 0: what ``embedspace replay --index`` takes."""
    record: Record
    question: str

    @property
    def text(self) -> str:
        """The answer, cut where it is very long."""
        return cut(self.record.text, MAX_TEXT)

    @property
    def recipe(self) -> str:
        """How the prompt was made, cut where it is very long."""
        return cut(str(self.record.recipe), MAX_RECIPE)

    @property
    def end(self) -> str:
        """Why the answer ended, in words."""
        return _ENDS.get(self.record.finish_reason, self.record.finish_reason)

    @property
    def tags(self) -> str:
        """The tags as JSON, for the page's filters."""
        return json.dumps({name: _written(value) for name, value in self.record.tags.items()})

    @property
    def named_tags(self) -> str:
        """The tags, to be read."""
        return ", ".join(
            f"{name.replace('_', ' ')} {_written(value)}" for name, value in self.record.tags.items()
        )

    @property
    def characters(self) -> int:
        """About how much room it takes on a page."""
        return len(self.text) + len(self.recipe) + len(self.question) + 2 * len(self.tags) + 400


@dataclass(frozen=True)
class ListedRecords:
    """What a page says of a run's records."""

    listed: Sequence[ListedRecord]
    failures: Sequence[Record]
    """The first ones."""
    total: int
    failed: int

    @classmethod
    def of(cls, records: Iterable[Record], wanted: Mapping[Place, str]) -> ListedRecords:
        """Those that are wanted, and then the first ones, within the bounds of a page.

        Args:
            records: of the run, in order, errors included.
            wanted: records that the page links to -> the question that it shows with them.
        """
        linked: list[ListedRecord] = []
        others: list[ListedRecord] = []
        failures: list[Record] = []
        total = failed = 0
        for index, record in enumerate(records):
            total += 1
            if record.error is not None:
                failed += 1
                if len(failures) < MAX_FAILURES:
                    failures.append(record)
            question = wanted.get((record.key, record.choice))
            own = others if question is None else linked
            if len(own) < MAX_RECORDS:
                own.append(
                    ListedRecord(index, record, question_of(record.recipe) if question is None else question)
                )
        listed = within_bounds(chain(linked, others), lambda each: each.characters)
        return cls(sorted(listed, key=lambda each: each.index), failures, total, failed)

    @property
    def places(self) -> dict[Place, int]:
        """Where the listed records stand in the record file."""
        return {(each.record.key, each.record.choice): each.index for each in self.listed}


def question_of(recipe: Recipe) -> str:
    """The text that a prompt was made of: a question, a sentence, or both ends of a path; empty for bare token ids.

    >>> moved = Recipe.of("style", {"alpha": 0.8}, Recipe.of("embed", {"text": "Hello"}))
    >>> halfway = Recipe.of("interpolate", {"t": 0.5}, moved, Recipe.of("embed", {"text": "Bye"}))
    >>> question_of(moved), question_of(halfway)
    ('Hello', 'Hello → Bye')
    """
    given = dict(recipe.parameters)
    if isinstance(messages := given.get("messages"), str):
        return _last_user_text(messages)
    if isinstance(text := given.get("text"), str):
        return text
    found = dict.fromkeys(filter(None, map(question_of, recipe.inputs)))
    ends = list(found)[:2] if recipe.operation in ("interpolate", "blend", "zero_padded") else list(found)[:1]
    return " → ".join(ends)


def cut(text: str, limit: int) -> str:
    """The beginning of a long text, and how much is left out.

    >>> cut("x" * 1500, 3)
    'xxx… (1,497 more characters)'
    """
    return text if len(text) <= limit else f"{text[:limit]}… ({len(text) - limit:,} more characters)"


def _last_user_text(messages: str) -> str:
    try:
        turns = json.loads(messages)
        texts = [turn["content"] for turn in turns if turn.get("role") == "user"]
    except (ValueError, TypeError, KeyError, AttributeError):
        return ""
    return texts[-1] if texts and isinstance(texts[-1], str) else ""


def within_bounds(rows: Iterable[T], characters: Callable[[T], int]) -> Iterator[T]:
    """The first rows of a table of records, as many as a page has room for."""
    left = MAX_CHARACTERS
    for row in islice(rows, MAX_RECORDS):
        left -= characters(row)
        if left < 0:
            return
        yield row


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
