"""Sentences for the evidence: none that training saw, none that is no sentence."""

import pytest

from embedspace.projector.datamodule import split_of
from embedspace.projector.sources import Sentence
from experiments.projector.sentences import held_out


def source(kind, *texts):
    return [Sentence(text, kind, f"{kind} {number}") for number, text in enumerate(texts)]


ANIMALS = [
    "ant",
    "bear",
    "cat",
    "dog",
    "eel",
    "fox",
    "goat",
    "hare",
    "ibis",
    "jay",
    "kite",
    "lynx",
    "mole",
    "newt",
    "owl",
]
MANY = source("definitions", *(f"an animal that is much like the {animal}" for animal in ANIMALS))
RULES = source(
    "rules",
    "Every transfer takes a whole day.",
    "## Limits of transfers",
    "- Confirm the name of the recipient.",
    "Then [MASK] went home again.",
    "Why does it take so long?",
)


def test_of_trained_sources_the_asked_split_alone_is_taken(smollm2):
    for split in ("train", "validation", "test"):
        own = {sentence.text for sentence in MANY if split_of(sentence) == split}
        if own:
            assert set(held_out([MANY], smollm2, len(own), split)) == own


def test_of_other_sources_whole_sentences_alone_are_taken(smollm2):
    found = held_out([RULES], smollm2, 2)
    assert sorted(found) == ["Every transfer takes a whole day.", "Why does it take so long?"]


def test_sources_take_turns_and_fewer_are_the_first_of_more(smollm2):
    other = source("news", "The mayor opened a bridge today.", "Nobody was hurt in the fire.")
    both = held_out([RULES, other], smollm2, 4)
    assert [text in {sentence.text for sentence in other} for text in both] == [False, True, False, True]
    assert held_out([RULES, other], smollm2, 2) == both[:2]


def test_more_than_there_are_is_refused_with_the_number_there_is(smollm2):
    with pytest.raises(ValueError, match="9 sentences were asked for, the sources have 2 that are fit"):
        held_out([RULES], smollm2, 9)
