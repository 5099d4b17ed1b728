"""Real prose: the passages that writers are given in the benchmark WritingBench, in English and Chinese.

The package inspect-evals ships it. A question asks how a sentence goes on; the answer is a number or a word of it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from typing import Literal

from experiments.compression.items import Item, number_of, picked
from experiments.compression.knowledge_base import packaged

Language = Literal["english", "chinese"]

_LINE = {"english": re.compile(r"[A-Z].*[a-z\d%)][.!?]"), "chinese": re.compile(r"[\u4e00-\u9fff].*[。！？]")}
"""A line of whole sentences."""
_SENTENCE_END = {
    "english": re.compile(r"(?<=[a-z\d%)][.!?])\s+(?=[A-Z])"),
    "chinese": re.compile(r"(?<=[。！？])(?=[\u4e00-\u9fff])"),
}
_CHARACTERS = {"english": range(320, 720), "chinese": range(70, 125)}
"""Length of a passage."""
_NUMBER = {
    "english": re.compile(r"[$€£]?\b\d[\d,]*(?:\.\d+)?(?:%|\b(?!-))"),
    "chinese": re.compile(r"(?<![\d.])\d[\d,.]+%?(?=[^\d.%])"),
}
_MIN_BEFORE = {"english": 20, "chinese": 6}
"""Characters of a sentence before what is asked for."""
_MAX_BEFORE = {"english": 90, "chinese": 24}
_WORD = {
    "english": re.compile(r"[A-Za-z]{6,}(?=[.!?]$)"),
    "chinese": re.compile(r"(?<=[的、，和与])[\u4e00-\u9fff]{2,6}(?=[。！？]$)"),
}
_QUESTION = {"english": 'How does the text go on after "{}"?', "chinese": "原文中“{}”后面是什么？"}


def prose(language: Language, answers: Literal["numbers", "words"]) -> Iterator[Item]:
    """One question for each writing request that has a passage for it; a request is a cluster.

    Of English, requests with an even number are asked for numbers and those with an odd number for words.
    """
    for request in sorted(_requests(language), key=lambda request: number_of(request[0])):
        name, text = request
        if language == "english" and (int(name) % 2 == 0) != (answers == "numbers"):
            continue
        item = next(
            (item for passage in _passages(text, language)
             if (item := _item(passage, name, language, answers)) is not None), None
        )  # fmt: skip
        if item is not None:
            yield item


@cache
def _requests(language: Language) -> tuple[tuple[str, str], ...]:
    lines = packaged("writingbench/benchmark_all.jsonl").read_text(encoding="utf-8").splitlines()
    found = [(str(entry["index"]), str(entry["query"])) for entry in map(json.loads, lines)]
    return tuple(entry for entry in found if _language_of(entry[1]) == language)


def _language_of(text: str) -> Language | None:
    share = len(re.findall(r"[\u4e00-\u9fff]", text)) / len(text)
    if share == 0:
        return "english"
    return "chinese" if share > 0.5 else None


def _passages(text: str, language: Language) -> Iterator[list[str]]:
    """Sentences that follow each other in lines of whole sentences, without the request's first ones."""
    passage: list[str] = []
    seen: set[str] = set()
    lines = [line.strip() for line in text.splitlines()]
    whole = [line for line in lines if _LINE[language].fullmatch(line)]
    for sentence in [part for line in whole for part in _SENTENCE_END[language].split(line)][3:]:
        if sentence in seen:
            continue
        seen.add(sentence)
        length = sum(map(len, [*passage, sentence]))
        if length >= _CHARACTERS[language].stop:
            if sum(map(len, passage)) in _CHARACTERS[language]:
                yield passage
            passage = []
        passage.append(sentence)


def _item(
    sentences: Sequence[str], name: str, language: Language, answers: Literal["numbers", "words"]
) -> Item | None:
    space = " " if language == "english" else ""
    text = space.join(sentences)
    found = []
    for sentence in sentences:
        pattern = (_NUMBER if answers == "numbers" else _WORD)[language]
        for match in pattern.finditer(sentence):
            before = sentence[: match.start()]
            apart = not space or before.endswith(space)
            if apart and len(before) >= _MIN_BEFORE[language] and text.count(match[0]) == 1:
                found.append((_end_of(before.strip(), language), match[0].rstrip(",.")))
    if not found or (answers == "numbers" and len(found) < 2):
        return None
    beginning, answer = picked(found, f"{name}/{answers}")
    return Item(
        text=text, question=_QUESTION[language].format(beginning), beginning=beginning, answer=f"{space}{answer}",
        cluster=f"writing request {name}", strings=[answer],
    )  # fmt: skip


def _end_of(text: str, language: Language) -> str:
    """The last words of a text."""
    cut = text[-_MAX_BEFORE[language] :]
    return cut.split(" ", 1)[1] if language == "english" and cut != text else cut
