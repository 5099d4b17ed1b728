"""Detectors by source, against scikit-learn and against draws with a known truth."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from embedspace.metrics import SourceScores, auroc, macro_average, recall_difference


def drawn(sources, texts, shift, seed):
    rng = np.random.default_rng(seed)
    return {f"s{number}": rng.normal(shift, 1, texts).round(1) for number in range(sources)}


def test_the_ranking_is_scikit_learns_with_ties():
    attacks, benign = drawn(1, 200, 1.0, 0)["s0"], drawn(1, 300, 0.0, 1)["s0"]
    labels = [1] * len(attacks) + [0] * len(benign)
    assert auroc(attacks, benign) == pytest.approx(roc_auc_score(labels, [*attacks, *benign]))


@pytest.mark.parametrize("rate", [0.0, 0.01, 0.05, 0.25])
def test_recall_is_that_of_the_highest_point_of_the_curve_at_the_rate(rate):
    attacks, benign = drawn(1, 200, 1.0, 0)["s0"], drawn(1, 300, 0.0, 1)["s0"]
    found, recalled, _ = roc_curve([1] * 200 + [0] * 300, [*attacks, *benign], drop_intermediate=False)
    scores = SourceScores({"a": attacks}, {"b": benign})
    assert scores.recall(rate) == pytest.approx(recalled[found <= rate + 1e-9].max())
    assert (benign > scores.threshold(rate)).mean() <= rate + 1e-9


def test_no_source_counts_for_more_because_it_has_more_texts():
    attacks = {"large": [1.0] * 99, "small": [-2.0]}
    benign = {"large": [-1.0] * 98 + [2.0, 2.0], "small": [-1.0]}
    assert SourceScores(attacks, benign).recall(0.01) == 0.5
    assert SourceScores(attacks, {**benign, "small": [2.0]}).recall(0.01) == 0
    assert macro_average([1.0] * 99 + [0.0], ["large"] * 99 + ["small"]).estimate == 0.5


def test_of_few_sources_the_differences_on_each_are_kept_in_place_of_an_interval():
    benign = drawn(3, 100, 0.0, 1)
    own, other = (SourceScores(drawn(5, 20, shift, 2), benign) for shift in (2.0, 1.0))
    difference = recall_difference(own, other, 0.05)
    assert not difference.known
    assert not difference.clear
    assert len(difference.values) == 5
    assert difference.estimate == pytest.approx(own.recall(0.05) - other.recall(0.05))


def test_many_texts_of_few_sources_do_not_make_a_macro_average_certain():
    average = macro_average([1.0] * 300 + [0.0] * 300, ["a"] * 300 + ["b"] * 300)
    assert (average.items, average.known) == (2, False)


def detectors(rng, sources, more):
    """Two detectors: the first is better by ``more`` on average, and on each source by more or less than that."""
    hard, better = rng.normal(1.5, 0.7, sources), rng.normal(more, 0.5, sources)
    attacks = [rng.normal(hard[s], 1, 15) for s in range(sources)]
    benign = {f"b{s}": rng.normal(0, 1, 60) for s in range(12)}
    own = {f"a{s}": attacks[s] + better[s] for s in range(sources)}
    return SourceScores(own, benign), SourceScores({f"a{s}": attacks[s] for s in range(sources)}, benign)


def test_the_interval_of_a_recall_difference_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth = recall_of_difference(np.random.default_rng(1))
    intervals = [recall_difference(*detectors(rng, 20, 0.5), 0.05, resamples=300) for _ in range(200)]
    covered = sum(interval.low <= truth <= interval.high for interval in intervals)
    assert 174 <= covered <= 199


def recall_of_difference(rng):
    own, other = detectors(rng, 4000, 0.5)
    benign = {"b": rng.normal(0, 1, 200_000)}
    return SourceScores(own.attacks, benign).recall(0.05) - SourceScores(other.attacks, benign).recall(0.05)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: SourceScores({}, {"b": [1.0]}), "at least one source"),
        (lambda: SourceScores({"a": []}, {"b": [1.0]}), "each of them scores"),
        (lambda: SourceScores({"a": [1.0]}, {"b": [1.0]}).recall(1.0), "rate is"),
        (lambda: macro_average([1.0], []), "a source for each value"),
        (lambda: auroc([], [1.0]), "both classes"),
        (
            lambda: recall_difference(
                SourceScores({"a": [1.0]}, {"b": [1.0]}), SourceScores({"c": [1.0]}, {"b": [1.0]}), 0.01
            ),
            "attacks differ",
        ),
    ],
)
def test_what_cannot_be_compared_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
