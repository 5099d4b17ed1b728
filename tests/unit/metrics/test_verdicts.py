"""What a comparison may be called: statistics, not impressions."""

import numpy as np
import pytest

from embedspace.metrics import compare_strength

NONE = [0.0] * 24


def drawn(mean, spread, items=24, seed=0):
    values = np.random.default_rng(seed).normal(0, 1, items)
    return list(mean + spread * (values - values.mean()) / values.std(ddof=1))


@pytest.mark.parametrize(
    ("difference", "spread", "kind"),
    [
        (0.0, 0.3, "as strong"),
        (-0.3, 0.3, "as strong"),
        (-0.6, 0.3, "weaker"),
        (0.6, 0.3, "stronger"),
        (0.35, 1.2, "not weaker"),
        (0.0, 3.0, "undecided"),
    ],
)
def test_the_verdict_follows_from_the_difference_and_its_spread(difference, spread, kind):
    reference = drawn(5.0, 1.0, seed=1)
    own = [value + change for value, change in zip(reference, drawn(difference, spread), strict=True)]
    verdict = compare_strength(own, reference, NONE, margin=0.5)
    assert verdict.kind == kind
    assert verdict.established == (kind in ("stronger", "as strong", "not weaker"))


def test_an_interval_that_includes_zero_is_no_proof_of_equal_strength():
    reference = drawn(5.0, 1.0, seed=1)
    own = [value + change for value, change in zip(reference, drawn(0.0, 3.0), strict=True)]
    verdict = compare_strength(own, reference, NONE, margin=0.5)
    assert verdict.difference.low < 0 < verdict.difference.high
    assert verdict.items_needed is not None
    assert verdict.items_needed > 24
    assert f"about {verdict.items_needed} would" in verdict.text("the vector", "the instruction")


def test_as_many_items_as_are_asked_for_do_tell_in_most_draws():
    margin, spread = 0.5, 1.0
    reference = drawn(5.0, 1.0, 12, seed=1)
    own = [value + change for value, change in zip(reference, drawn(0.0, spread, 12), strict=True)]
    count = compare_strength(own, reference, [0.0] * 12, margin=margin).items_needed
    assert count is not None
    told = 0
    for seed in range(100):
        changes = np.random.default_rng(seed).normal(0, spread, count)
        verdict = compare_strength(list(5 + changes), [5.0] * count, [0.0] * count, margin=margin)
        told += verdict.kind in ("as strong", "stronger")
    assert 70 <= told <= 95


def test_a_treatment_without_an_effect_of_its_own_is_called_so_however_near_the_reference_is():
    verdict = compare_strength(drawn(0.0, 0.3), drawn(0.05, 0.3, seed=2), NONE, margin=0.5)
    assert verdict.kind == "no effect"
    assert "cannot be told from no change at all on 24 items" in verdict.text("the vector", "the instruction")


@pytest.mark.parametrize(("strength", "within"), [(5.0, False), (0.2, True)])
def test_where_no_change_at_all_is_within_the_margin_too_the_text_says_so(strength, within):
    reference = drawn(strength, 0.1, seed=1)
    own = [value + change for value, change in zip(reference, drawn(0.0, 0.1), strict=True)]
    verdict = compare_strength(own, reference, NONE, margin=0.5)
    assert verdict.kind == "as strong"
    assert verdict.untreated_within == within
    assert ("and so is no change at all" in verdict.text("the vector", "the instruction")) == within


def test_under_ten_items_nothing_is_said():
    verdict = compare_strength([5.0] * 4, [5.0] * 4, [0.0] * 4, margin=0.5)
    assert verdict.kind == "undecided"
    assert verdict.text("a", "b").startswith("4 items cannot tell whether a is as strong as b")


def test_values_that_do_not_vary_decide_by_themselves():
    assert compare_strength([5.0] * 12, [5.0] * 12, [0.0] * 12, margin=0.5).kind == "as strong"
    assert compare_strength([4.0] * 12, [5.0] * 12, [0.0] * 12, margin=0.5).kind == "weaker"


@pytest.mark.parametrize(
    ("lists", "margin", "words"),
    [
        (([1.0], [1.0, 2.0], [1.0]), 0.5, "same items"),
        (([], [], []), 0.5, "same items"),
        (([1.0],) * 3, 0.0, "margin"),
    ],
)
def test_comparisons_of_unlike_lists_or_without_a_margin_are_refused(lists, margin, words):
    with pytest.raises(ValueError, match=words):
        compare_strength(*lists, margin=margin)
