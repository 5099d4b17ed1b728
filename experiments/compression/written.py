"""Passages written for this project: documents with values to choose from, in files under ``texts``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TypedDict

import yaml

from experiments.compression.items import Item, Split, picked

_FOLDER = Path(__file__).parent / "texts"
_VALUES = re.compile(r"\{(\w+):([^{}]+)\}")
"""``{name:one|other}``: a value of that name is one of these."""
_NAME = re.compile(r"\{(\w+)\}")


class Document(TypedDict):
    """A text with values to choose from, and what is asked about it."""

    text: str
    ask: Sequence[Sequence[str]]
    """Question, beginning of the answer, and the answer; ``{name}`` stands for the value of that name."""


def written(split: Split, kind: str, *, joined: bool = False) -> Iterator[Item]:
    """Items from the documents of one kind, without end: question after question, each with values of its own.

    All documents have a turn before the first has its second.

    Args:
        split: folder that the documents lie in; documents, words and patterns of the two have nothing in common.
        kind: name of the file.
        joined: whether every other round joins the document to another one of the file, before or after it.
    """
    documents = _documents(split, kind)
    names = list(documents)
    turn = 0
    while True:
        for position, name in enumerate(names):
            item = _item(documents[name], split, kind, name, turn)
            if joined and turn % 2:
                other = names[(position + turn) % len(names)]
                beside = (
                    _filled(documents[other], f"{kind}/{name}/{other}/{turn}")[0] if other != name else ""
                )
                texts = (item["text"], beside) if turn % 4 == 1 else (beside, item["text"])
                item["text"] = "\n\n".join(text for text in texts if text)
            yield item
        turn += 1


@cache
def _documents(split: Split, kind: str) -> dict[str, Document]:
    found: dict[str, Document] = yaml.safe_load(
        (_FOLDER / split / f"{kind}.yaml").read_text(encoding="utf-8")
    )
    return found


def _item(document: Document, split: Split, kind: str, name: str, turn: int) -> Item:
    text, values = _filled(document, f"{kind}/{name}/{turn}")
    questions = document["ask"]
    question, beginning, answer = (
        _NAME.sub(lambda match: values[match[1]], part) for part in questions[turn % len(questions)]
    )
    space = "" if kind == "chinese" else " "
    return Item(
        text=text,
        question=question,
        beginning=beginning,
        answer=f"{space}{answer}",
        task=kind,
        cluster=f"{split} {kind}/{name}",
        strings=[answer],
    )


def _filled(document: Document, seed: str) -> tuple[str, dict[str, str]]:
    """The text with a value for each name, and the values."""
    values: dict[str, str] = {}

    def value(match: re.Match[str]) -> str:
        values[match[1]] = picked(match[2].split("|"), f"{seed}/{match[1]}")
        return values[match[1]]

    text = _VALUES.sub(value, document["text"])
    return _NAME.sub(lambda match: values[match[1]], text).strip(), values
