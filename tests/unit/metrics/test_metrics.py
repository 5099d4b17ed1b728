"""Numbers of reports, against computations of their own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace.metrics import (
    MIN_ITEMS,
    Measure,
    Score,
    SentenceSimilarity,
    StyleJudge,
    common_prefix,
    kept_share,
    log_odds,
    mean_interval,
    share_interval,
)

VALUES = st.lists(st.floats(-100, 100), min_size=1, max_size=30)


@given(VALUES)
def test_the_interval_of_a_mean_holds_the_mean_and_is_the_same_every_time(values: list[float]) -> None:
    interval = mean_interval(values)
    assert interval.estimate == pytest.approx(np.mean(values), abs=1e-9)
    assert interval == mean_interval(values)
    if interval.known:
        assert interval.low <= interval.estimate + 1e-9
        assert interval.high >= interval.estimate - 1e-9
        assert min(values) - 1e-9 <= interval.low < interval.high <= max(values) + 1e-9
    else:
        assert len(values) < MIN_ITEMS or max(values) - min(values) < 1e-9


@given(VALUES, st.floats(-100, 100))
def test_few_or_equal_values_have_no_interval_and_no_comparison_with_one_is_true(values, bound) -> None:
    few = mean_interval(values[: MIN_ITEMS - 1])
    equal = mean_interval(values[:1] * MIN_ITEMS)
    for interval in (few, equal):
        assert not interval.known
        assert not interval.clear
        assert not any([interval.low <= bound, interval.low > bound, interval.high >= bound])
    assert few.values == tuple(sorted(values[: MIN_ITEMS - 1]))
    assert f"{equal:.1f}" == f"{equal.estimate:.1f} (n = {MIN_ITEMS}, all equal)"


def test_the_interval_of_a_mean_covers_the_truth_about_as_often_as_it_says() -> None:
    draws = np.random.default_rng(0).normal(1.0, 2.0, size=(200, 25))
    intervals = [mean_interval(sample, resamples=300) for sample in draws]
    covered = sum(interval.low <= 1.0 <= interval.high for interval in intervals)
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


def three_conditions(kept: list[float], times: int = 1) -> Measure:
    sides = {("none",): [0.0, -1.0, 2.0], ("kept",): kept, ("full",): [4.0, 1.0, 4.0]}
    return Measure.of(
        (name, item, value) for name, values in sides.items() for item, value in enumerate(values * times)
    )


def test_the_share_kept_is_the_ratio_of_mean_gains() -> None:
    share = kept_share(three_conditions([2.0, 0.0, 3.0]), ("kept",), nothing=("none",), everything=("full",))
    assert share is not None
    assert share.estimate == pytest.approx((2 + 1 + 1) / (4 + 2 + 2))
    assert share.items == 3
    assert not share.known
    more = kept_share(
        three_conditions([3.0, 0.0, 2.5], times=4), ("kept",), nothing=("none",), everything=("full",)
    )
    assert more is not None
    assert more.low < more.estimate < more.high


@pytest.mark.parametrize(
    ("kept", "share"), [([4.0, 1.0, 4.0], 1.0), ([0.0, -1.0, 2.0], 0.0), ([-4.0, -3.0, 0.0], -1.0)]
)
def test_all_nothing_and_less_than_nothing_are_1_0_and_below_0(kept: list[float], share: float) -> None:
    found = kept_share(three_conditions(kept), ("kept",), nothing=("none",), everything=("full",))
    assert found is not None
    assert found.estimate == pytest.approx(share)


def test_an_effect_is_that_of_paired_differences() -> None:
    from scipy.stats import wilcoxon

    before, after = [1.0, 2.0, 3.0, 4.0, 5.0, 6.0], [2.5, 2.0, 5.0, 4.5, 7.0, 5.5]
    measure = Measure.of(
        ((name,), item, value)
        for name, values in (("a", before), ("b", after))
        for item, value in enumerate(values)
    )
    changes = np.subtract(after, before)
    effect = measure.effect(("a",), ("b",))
    assert effect is not None
    assert effect.size == pytest.approx(changes.mean() / changes.std(ddof=1))
    assert effect.p_value == pytest.approx(wilcoxon(changes).pvalue)
    assert measure.effect(("a",), ("absent",)) is None


def test_a_judge_tells_texts_that_it_was_not_trained_on() -> None:
    pairs = [
        ("The meal was delicious.", "The meal was disgusting."),
        ("What a lovely day!", "What an awful day!"),
        ("I am so happy with it.", "I am so angry about it."),
        ("They did a brilliant job.", "They did a miserable job."),
    ]
    judge = StyleJudge.trained(SentenceSimilarity(), pairs)
    good, bad = judge.log_odds(["A wonderful film, I loved it.", "A terrible film, I hated it."])
    assert good > 0 > bad


def test_a_judge_of_one_pair_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two pairs"):
        StyleJudge.trained(SentenceSimilarity(), [("yes", "no")])
