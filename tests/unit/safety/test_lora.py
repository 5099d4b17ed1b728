"""The adapted sentence encoder learns to separate two classes, survives its file, and fails closed."""

import dataclasses
import sys

import pytest
import torch

from embedspace import SafetyFilter
from embedspace.encoders import load_sentence_encoder
from embedspace.safety import Reading
from embedspace.safety.layers.lora import AdaptedEncoder
from tests.unit.safety.texts import ATTACK, BENIGN, SAFE, UNSAFE

EPOCHS = 30


@pytest.fixture(scope="module")
def sides(smollm2):
    return [[Reading.of(smollm2, text) for text in side] for side in (SAFE, UNSAFE)]


@pytest.fixture(scope="module")
def adapted(sides):
    return AdaptedEncoder.fit(*sides, epochs=EPOCHS)


@pytest.fixture(scope="module")
def guard(smollm2, adapted):
    layers = SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=["structural", "manifold"]).layers
    return SafetyFilter(smollm2, (*layers, adapted), {"adapted": 1.0}).calibrate(BENIGN, 0.05)


def test_it_separates_its_training_texts_and_new_texts(adapted, sides, guard):
    safe, unsafe = ([finding.score for finding in adapted.scores(side)] for side in sides)
    assert max(safe) < min(unsafe)
    assert guard.score(ATTACK) > max(guard.score_many(BENIGN))


def test_the_encoder_that_others_use_stays_as_it_was(adapted):
    plain = load_sentence_encoder(adapted.encoder)
    before = plain.encode(BENIGN)
    adapted._classify(BENIGN)
    assert (plain.encode(BENIGN) == before).all()
    assert not any(parameter.requires_grad and "lora" in name for name, parameter in plain.named_parameters())
    updated = adapted._model.encode(BENIGN)
    assert abs(updated - before).max() > 1e-3


def test_the_same_seed_gives_the_same_updates(sides):
    first, second, other = (AdaptedEncoder.fit(*sides, epochs=1, seed=seed).updates for seed in (0, 0, 1))
    assert first.equal(second)
    assert not first.equal(other)


def test_it_survives_its_file_to_the_bit(guard, smollm2, tmp_path):
    guard.save(tmp_path)
    again = SafetyFilter.from_pretrained(tmp_path, smollm2)
    assert again.score_many([*BENIGN, ATTACK]) == guard.score_many([*BENIGN, ATTACK])


def test_updates_of_another_encoder_are_a_refusal_that_says_so(guard):
    cut = dataclasses.replace(guard.layers[-1], updates=torch.zeros(10))
    verdict = dataclasses.replace(guard, layers=(*guard.layers[:-1], cut)).check(BENIGN[0])
    assert not verdict.allowed
    assert "has 10 numbers of updates, all-minilm-l6-v2 needs 165888" in verdict.reason


def test_training_without_peft_says_what_to_install(sides, monkeypatch):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(ValueError, match=r"pip install 'embedspace\[train\]'"):
        AdaptedEncoder.fit(*sides)
