"""Questions about the packaged knowledge base: right answers, and splits that share no product."""

from __future__ import annotations

import pytest

from experiments.compression.items import Split
from experiments.compression.knowledge_base import items

SPLITS: tuple[Split, ...] = ("development", "test")


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_of_recall_stands_in_the_text_behind_its_beginning(split: Split) -> None:
    for item in items(split, recall=60, words=60, gist=0):
        assert item["beginning"] + item["answer"] in " ".join(item["text"].split()) or (
            item["beginning"] + item["answer"].strip() in item["text"]
        )
        is_number = any(character.isdigit() for character in item["answer"])
        assert is_number == (item["task"] == "recall")


def test_the_splits_share_no_text() -> None:
    development, test = ({item["text"] for item in items(split, 100, 100, 100)} for split in SPLITS)
    assert not development & test


def test_the_same_questions_come_each_time_and_fewer_are_the_first_of_more() -> None:
    assert items("test", 20, 20, 20) == items("test", 20, 20, 20)
    assert items("test", 5, 0, 0) == items("test", 20, 0, 0)[:5]


def test_more_questions_than_documents_are_refused_with_the_number_there_is() -> None:
    with pytest.raises(ValueError, match=r"has \d+ questions of gist, 9999 were asked for"):
        items("test", 0, 0, 9999)
