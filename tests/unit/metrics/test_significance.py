"""P-values against scipy, and the error rates that they promise against simulations with a known truth."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ttest_1samp, ttest_rel

from embedspace.metrics import compare_strengths, equivalence_p, holm, non_inferiority_p, superiority_p

ERROR = 0.05


def samples(mean, items, draws=2000, seed=0):
    return np.random.default_rng(seed).normal(mean, 1.0, (draws, items))


def test_superiority_is_the_paired_one_sided_t_test():
    own, other = samples(0.3, 30)[0], samples(0.0, 30, seed=1)[0]
    expected = ttest_rel(own, other, alternative="greater").pvalue
    assert superiority_p(own - other) == pytest.approx(expected)
    assert superiority_p(own, 0.2) == pytest.approx(ttest_1samp(own, 0.2, alternative="greater").pvalue)


def test_equivalence_is_the_worse_of_two_one_sided_tests():
    values = samples(0.1, 40)[0]
    low = ttest_1samp(values, -0.5, alternative="greater").pvalue
    high = ttest_1samp(values, 0.5, alternative="less").pvalue
    assert equivalence_p(values, 0.5) == pytest.approx(max(low, high))
    assert non_inferiority_p(values, 0.5) == pytest.approx(low)


@pytest.mark.parametrize(
    ("test", "truth"),
    [
        (superiority_p, 0.0),
        (lambda values: non_inferiority_p(values, 0.5), -0.5),
        (lambda values: equivalence_p(values, 0.5), 0.5),
        (lambda values: equivalence_p(values, 0.5), -0.5),
    ],
)
def test_at_the_edge_of_what_is_claimed_a_claim_is_made_in_one_case_of_twenty(test, truth):
    claimed = np.mean([test(values) < ERROR for values in samples(truth, 40)])
    assert 0.035 < claimed < 0.065


def test_equal_differences_decide_by_themselves():
    assert superiority_p([0.2] * 12) == 0
    assert superiority_p([0.0] * 12) == 1
    assert equivalence_p([0.2] * 12, 0.5) == 0
    assert equivalence_p([0.6] * 12, 0.5) == 1


@given(st.lists(st.floats(0, 1), max_size=6))
def test_holm_is_the_closed_test_of_bonferroni(p_values):
    adjusted = holm(p_values)
    for place, p_value in enumerate(p_values):
        others = [other for number, other in enumerate(p_values) if number != place]
        families = [
            (p_value, *chosen) for count in range(len(others) + 1) for chosen in combinations(others, count)
        ]
        closed = max(min(1.0, len(family) * min(family)) for family in families)
        assert adjusted[place] == pytest.approx(closed)


def test_of_six_differences_that_do_not_exist_holm_finds_any_in_one_family_of_twenty():
    tests = np.array([superiority_p(values) for values in samples(0.0, 20, draws=6000)]).reshape(-1, 6)
    assert 0.03 < np.mean([min(holm(family)) < ERROR for family in tests]) < 0.065
    assert np.mean(tests.min(axis=1) < ERROR) > 0.2


def test_a_larger_family_never_makes_a_verdict_bolder():
    reference = [4.0, 5.0, 4.5, 5.5] * 6
    better = [value + 0.1 + 0.25 * (-1) ** place for place, value in enumerate(reference)]
    alone = compare_strengths([(better, reference, [0.0] * 24)], margin=0.5)[0]
    among = compare_strengths([(better, reference, [0.0] * 24)] + [(reference[::-1], reference, [0.0] * 24)] * 5,
                              margin=0.5)[0]  # fmt: skip
    assert (alone.kind, among.kind) == ("stronger", "as strong")


def test_comparisons_of_few_items_are_not_in_the_family():
    reference = [4.0, 5.0, 4.5, 5.5] * 6
    better = [value + 0.1 + 0.25 * (-1) ** place for place, value in enumerate(reference)]
    family = [(better, reference, [0.0] * 24)] + [([1.0] * 4, [1.0] * 4, [0.0] * 4)] * 9
    assert [verdict.kind for verdict in compare_strengths(family, margin=0.5)] == ["stronger"] + [
        "undecided"
    ] * 9


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: superiority_p([1.0]), "two differences"),
        (lambda: non_inferiority_p([1.0, 2.0], 0.0), "margin"),
        (lambda: equivalence_p([1.0, 2.0], float("nan")), "margin"),
        (lambda: holm([1.2]), "between 0 and 1"),
    ],
)
def test_what_cannot_be_tested_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
