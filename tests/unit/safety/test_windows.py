"""Windows: an attack inside a long text counts, costly layers read few windows, and each length has its threshold."""

import base64
import math
from collections import Counter

import numpy as np
import pytest

from embedspace import SafetyFilter
from embedspace.safety import Reading
from embedspace.safety.calibration import thresholds_by_length
from embedspace.safety.filter import COSTLY_WINDOWS
from embedspace.safety.reading import PIECE, text_pieces
from embedspace.safety.training import windows_to_learn
from tests.unit.safety.texts import ATTACK, BENIGN, SAFE, UNSAFE

FILLER = " ".join(BENIGN) * 3


@pytest.fixture(scope="module")
def guard(smollm2):
    layers = ["structural", "manifold", "pooled", "ngrams"]
    return SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=layers).calibrate(BENIGN, 0.05)


def test_a_code_longer_than_a_window_is_read_whole(smollm2):
    code = base64.b64encode(ATTACK.encode()).decode()
    reading = Reading.of(smollm2, f"{FILLER} {code} {FILLER}")
    assert len(smollm2.tokenize(code)) > reading.window
    assert any(ATTACK.lower()[:60] in text for _, text in reading.canonical)
    assert all(len(text) <= 2 * PIECE or number >= 0 for number, text in reading.canonical)


def test_a_window_may_be_longer_than_a_stretch(smollm2):
    code = base64.b64encode(ATTACK.encode()).decode()
    reading = Reading.of(smollm2, f"{' '.join(BENIGN) * 12} {code}", window=800)
    assert len(smollm2.tokenize(reading.text)) > 800
    assert any(ATTACK.lower()[:60] in text for _, text in reading.canonical)


def test_letters_one_by_one_are_read_as_words(smollm2):
    reading = Reading.of(smollm2, " ".join(ATTACK))
    assert any(" ".join(ATTACK.lower().split()[:4]) in text for _, text in reading.canonical)


def test_pieces_of_a_text_overlap_and_hold_every_word():
    words = [f"word{number}" for number in range(200)]
    pieces = text_pieces(" ".join(words))
    assert set(" ".join(pieces).split()) == set(words)
    assert all(len(piece) <= PIECE for piece in pieces)
    found = Counter(word for piece in pieces for word in piece.split())
    assert found["word100"] == 2
    assert text_pieces("") == []
    assert text_pieces("x" * 1000) == ["x" * 2 * PIECE]


def test_a_narrowed_reading_has_the_texts_of_its_windows(smollm2):
    reading = Reading.of(smollm2, FILLER)
    narrow = reading.narrowed([1, 3])
    assert narrow.windows == [reading.windows[1], reading.windows[3]]
    assert narrow.window_texts == [reading.window_texts[1], reading.window_texts[3]]
    assert {number for number, _ in narrow.canonical} == {0, 1}
    own = [text for number, text in reading.canonical if number == 3]
    assert [text for number, text in narrow.canonical if number == 1] == own


def test_a_costly_layer_reads_the_windows_that_the_others_suspect(guard, smollm2):
    seen = []

    def classify(texts):
        seen.append(list(texts))
        return [0.1] * len(texts)

    judged = guard.with_classifier("mine", classify).calibrate(BENIGN, 0.05)
    seen.clear()
    judged.score(f"{FILLER} {ATTACK} {FILLER}")
    [texts] = seen
    assert len(texts) == COSTLY_WINDOWS
    assert any(" ".join(ATTACK.split()[:3]) in text for text in texts)


def test_a_classifier_with_a_window_of_its_own_reads_the_whole_prompt_in_such_windows(guard, smollm2):
    seen = []

    def classify(texts):
        seen.append(list(texts))
        return [float(ATTACK in text) for text in texts]

    judged = guard.with_classifier("mine", classify, window=64).calibrate(BENIGN, 0.05)
    seen.clear()
    text = f"{FILLER} {ATTACK} {FILLER}"
    assert judged.score(text) == 1.0
    [texts] = seen
    assert all(len(smollm2.tokenize(each)) <= 66 for each in texts)
    assert text.startswith(texts[0])
    assert text.endswith(texts[-1])
    with pytest.raises(ValueError, match="at least 1 row"):
        guard.with_classifier("other", classify, window=0)


def test_only_the_windows_of_an_attack_are_learnt_as_attacks(smollm2):
    rng = np.random.default_rng(0)
    benign = [" ".join(rng.choice(BENIGN, 12).tolist()) for _ in range(60)]
    hidden = []
    for number in range(40):
        around = " ".join(rng.choice(BENIGN, 6).tolist())
        hidden.append(f"{around} {UNSAFE[number % len(UNSAFE)]} {around}")
    safe, unsafe = ([Reading.of(smollm2, text) for text in side] for side in (benign, hidden))
    _, attacking = windows_to_learn(safe, unsafe)
    kept = sum(len(reading.windows) for reading in attacking)
    assert all(reading.windows for reading in attacking)
    assert kept < 0.6 * sum(len(reading.windows) for reading in unsafe)


def test_each_class_of_lengths_has_the_rate_that_was_asked_for():
    rng = np.random.default_rng(0)

    def draw(count):
        rows = rng.choice([4, 30, 200, 2000], count)
        # Long prompts have more windows, and the highest of many is higher.
        return [float(rng.normal(size=max(1, n // 12)).max()) / 10 + 0.3 for n in rows], rows.tolist()

    _, found = thresholds_by_length(*draw(8000), rate=0.02)
    scores, rows = draw(8000)
    for low, high in ((0, 8), (8, 64), (64, 512), (512, 10_000)):
        own = [
            score > found.threshold(length)
            for score, length in zip(scores, rows, strict=True)
            if low < length <= high
        ]
        assert 0.01 < np.mean(own) < 0.03
    thresholds = [each.threshold for each in found.classes]
    assert thresholds == sorted(thresholds)


def test_a_class_with_too_few_prompts_joins_the_longer_ones():
    scores = [number / 1000 for number in range(300)]
    highest, found = thresholds_by_length(scores, [5] * 3 + [40] * 280 + [100] * 17, rate=0.05)
    assert found.classes == ()
    assert found.threshold(5) is None
    assert highest == sorted(scores)[math.ceil(301 * 0.95) - 1]


def test_text_and_chat_have_the_same_threshold_and_score(smollm2, guard):
    many = [f"{text} {number}" for number in range(5) for text in BENIGN] + ["Hello.", "Yes please."] * 20
    judged = guard.calibrate(many, 0.05)
    assert judged.calibration.classes
    for text in (BENIGN[0], "Hello.", ATTACK):
        chat = smollm2.embed_chat([{"role": "user", "content": text}])
        assert judged.check(chat).threshold == judged.check(text).threshold
        assert judged.score(chat) == pytest.approx(judged.score(text), abs=1e-6)
