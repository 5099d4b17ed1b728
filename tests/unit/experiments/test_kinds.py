"""Texts by kind: right answers, one place for each, the same items every time, and splits with nothing in common."""

from __future__ import annotations

import pytest

from experiments.compression.items import Split, cluster_of
from experiments.compression.kinds import KINDS, items

SPLITS: tuple[Split, ...] = ("development", "test")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("split", SPLITS)
def test_the_passage_says_the_answer_once_and_the_question_does_not(split: Split, kind: str) -> None:
    for item in items(split, {"development": 24, "test": 100}[split], [kind]):
        for string in item.get("strings", []):
            assert item["answer"].strip() == string
            assert item["text"].count(string) == 1
            assert string not in item["question"]
        assert item.get("strings") or kind == "gist"


@pytest.mark.parametrize("kind", KINDS)
def test_fewer_items_are_the_first_of_more_and_of_different_clusters(kind: str) -> None:
    found = items("development", 12, [kind])
    assert found[:5] == items("development", 5, [kind])
    assert len({cluster_of(item) for item in found[:5]}) == 5


@pytest.mark.parametrize("kind", KINDS)
def test_the_splits_share_no_text_and_no_cluster(kind: str) -> None:
    development, test = items("development", 24, [kind]), items("test", 100, [kind])
    assert not {item["text"] for item in development} & {item["text"] for item in test}
    assert {cluster_of(item) for item in test}.isdisjoint(map(cluster_of, development))
    assert len({(item["text"], item["question"]) for item in test}) == 100


@pytest.mark.parametrize(
    ("change", "message"),
    [({"kinds": ["poems"]}, "'poems' is no kind"), ({"per_kind": 0}, "per_kind is 0"),
     ({"skipped": -1}, "skipped is -1"),
     ({"skipped": 10**5, "kinds": ["gist"]}, "has 0 items of the kind 'gist' after the first 100000, 1 were asked for"),
     ({"per_kind": 10**6, "kinds": ["gist"]}, r"has \d+ items of the kind 'gist', 1000000 were asked for")],
)  # fmt: skip
def test_what_there_is_not_is_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        items(**{"split": "development", "per_kind": 1, "kinds": None, **change})  # type: ignore[arg-type]


def test_items_that_were_asked_before_can_be_left_out() -> None:
    kinds = ["German", "code"]
    first, rest = items("development", 3, kinds), items("development", 2, kinds, skipped=3)
    whole = items("development", 5, kinds)
    assert [*first[:3], *rest[:2], *first[3:], *rest[2:]] == whole
