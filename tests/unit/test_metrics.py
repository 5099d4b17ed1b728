"""Numbers of reports, against computations of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace.metrics import (
    Measure,
    SentenceSimilarity,
    common_prefix,
    log_odds,
    mean_interval,
    share_interval,
)
from embedspace.records import Score

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


@given(VALUES)
def test_the_interval_of_a_mean_holds_the_mean_and_is_the_same_every_time(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval.estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert interval.low <= interval.estimate + 1e-9
    assert interval.high >= interval.estimate - 1e-9
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert interval == mean_interval(values)


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=(200, 25))
    covered = sum(not mean_interval(sample, resamples=300).excludes(1.0) for sample in draws)
    assert 176 <= covered <= 199


def test_the_interval_of_a_share_is_wilsons() -> None:
    z, n = 1.959963984540054, 10
    interval = share_interval(10, n)
    assert interval.estimate == 1
    assert interval.low == pytest.approx(n / (n + z * z))
    assert interval.high == pytest.approx(1)


@pytest.mark.parametrize("call", [lambda: mean_interval([]), lambda: share_interval(0, 0)])
def test_nothing_has_no_mean(call) -> None:
    with pytest.raises(ValueError, match="got none"):
        call()


def test_log_odds_compare_the_summed_probabilities() -> None:
    probabilities = {"a": 0.2, "b": 0.1, "c": 0.05}
    scores = {name: Score(math.log(probability), 1) for name, probability in probabilities.items()}
    assert log_odds(scores, ["a", "b"], ["c"]) == pytest.approx(math.log(0.3 / 0.05))
    far = {"a": Score(-2000.0, 1), "b": Score(-2001.0, 1)}
    assert log_odds(far, ["a"], ["b"]) == pytest.approx(1.0)


@given(st.lists(st.integers(0, 2)), st.lists(st.integers(0, 2)))
def test_a_common_prefix_is_the_longest_one(a: list[int], b: list[int]) -> None:
    shared = common_prefix(a, b)
    assert a[:shared] == b[:shared]
    assert shared == min(len(a), len(b)) or a[shared] != b[shared]


def test_a_measure_compares_the_items_that_both_conditions_have() -> None:
    measure = Measure.of(
        [
            (("x", 0.0), 1, 1.0),
            (("x", 0.0), 2, 5.0),
            (("x", 1.0), 2, 6.0),
            (("x", 1.0), 2, 8.0),
            (("x", 1.0), 3, 9.0),
        ]
    )
    change = measure.change(("x", 0.0), ("x", 1.0))
    assert change is not None
    assert (change.estimate, change.items) == (2.0, 1)
    assert measure.mean(("y", 0.0)) is None
    assert measure.change(("x", 0.0), ("y", 0.0)) is None
    assert list(measure.curve({1.0: ("x", 1.0), 0.0: ("x", 0.0), 2.0: ("y", 0.0)})) == [0.0, 1.0]
    assert not Measure({})


def test_sentences_of_one_meaning_are_alike() -> None:
    encoder = SentenceSimilarity()
    near, far, same, empty = encoder.cosines(
        ["The cat sleeps.", "The cat sleeps.", "The cat sleeps.", "The cat sleeps."],
        ["A cat is asleep.", "Interest rates rose again.", "The cat sleeps.", " "],
    )
    assert near > 0.7 > 0.3 > far
    assert same == pytest.approx(1, abs=1e-5)
    assert empty == 0
    assert encoder.cosines([], []) == []
