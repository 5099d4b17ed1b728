"""Passages hold the answers that are asked for, and the search finds what a full comparison finds."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from experiments.compression.passages import EXPLANATIONS, FACTS, knowledge, search

SPLITS = ("development", "test")


@pytest.fixture(scope="module", params=SPLITS)
def known(request):
    return knowledge(request.param, facts=60, explanations=20)


def test_every_answer_stands_in_the_passages_that_are_named_for_it(known):
    assert {question["task"] for question in known.questions} == {FACTS, EXPLANATIONS}
    for question in known.questions:
        assert question["passages"]
        for passage in question["passages"]:
            assert question["beginning"] + question["answer"] in known.passages[passage]


def test_a_fact_is_a_number_that_its_question_does_not_give_away(known):
    for question in known.questions:
        if question["task"] == FACTS:
            assert any(character.isdigit() for character in question["answer"])
            assert question["question"].endswith(f'{question["beginning"]} ..."')


def test_the_splits_ask_about_different_pages():
    development, test = ({q["question"] for q in knowledge(split, 60, 20).questions} for split in SPLITS)
    assert not development & test


def test_passages_keep_to_their_length_where_their_statements_do():
    wide, narrow = (
        knowledge("test", 0, 0, characters=400, pages=40),
        knowledge("test", 0, 0, characters=60, pages=40),
    )
    assert len(narrow.passages) > 1.5 * len(wide.passages)
    assert set(" ".join(narrow.passages).split()) == set(" ".join(wide.passages).split())


def test_more_questions_than_there_are_and_no_pages_are_refused():
    with pytest.raises(
        ValueError, match=r"has \d+ questions of the kind 'explanations', 9999 were asked for"
    ):
        knowledge("test", 0, 9999)
    with pytest.raises(ValueError, match="at least 1, got 200 and 0"):
        knowledge("test", 1, 1, pages=0)


@given(st.integers(1, 6), st.integers(1, 12), st.data())
def test_the_search_is_exact(queries, passages, data):
    count = data.draw(st.integers(1, passages))
    generator = torch.Generator().manual_seed(queries * 100 + passages)
    asked, known = (
        torch.randn(number, 5, generator=generator, dtype=torch.float64) for number in (queries, passages)
    )
    found = search(asked, known, count)
    for query, numbers in zip(asked, found.tolist(), strict=True):
        ranked = sorted(range(passages), key=lambda number: -float(query @ known[number]))
        assert numbers == ranked[:count]


@pytest.mark.parametrize("count", [0, 4])
def test_no_passages_and_more_than_there_are_are_refused(count):
    with pytest.raises(ValueError, match="there are 3"):
        search(torch.ones(1, 2), torch.ones(3, 2), count)
