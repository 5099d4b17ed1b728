"""A view is a value, and its address gives it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace.playground.view import LIMITS, View

TEXT = st.text(st.characters(exclude_characters="\r", exclude_categories=["Cs"]), max_size=40)


@given(
    st.builds(
        View,
        system=TEXT,
        user=TEXT.filter(str.strip),
        second=TEXT,
        question=TEXT,
        keep=TEXT,
        alpha=st.floats(-3, 3),
        t=st.floats(0, 1),
        ratio=st.floats(1, 16),
        noise=st.floats(0, 2),
        seed=st.integers(0, 2**31 - 1),
        max_tokens=st.integers(1, LIMITS.new_tokens),
    )
)
def test_an_address_gives_its_view_back(view):
    import urllib.parse

    assert View.parse(dict(urllib.parse.parse_qsl(view.query, keep_blank_values=True))) == view


def test_the_default_view_has_an_empty_address():
    assert View().query == ""
    assert View().moves == []


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"user": "x" * (LIMITS.text_characters + 1)}, "at most 4,000"),
        ({"user": " \n "}, "user message is empty"),
        ({"alpha": "3.5"}, "between -3 and 3"),
        ({"alpha": "nan"}, "between -3 and 3"),
        ({"alpha": "inf"}, "between -3 and 3"),
        ({"t": "1e9999"}, "between 0 and 1"),
        ({"ratio": "0.5"}, "between 1 and 16"),
        ({"noise": "much"}, "must be a number"),
        ({"seed": "1.5"}, "whole number"),
        ({"seed": "9" * 5000}, "whole number"),
        ({"seed": "-1"}, "between 0 and"),
        ({"max_tokens": "100000"}, "between 1 and 256"),
        ({"colour": "red"}, "no setting 'colour'"),
    ],
)
def test_a_setting_out_of_range_is_named_with_what_is_allowed(values, said):
    with pytest.raises(ValueError, match=said):
        View.parse(values)


def test_line_breaks_of_a_form_are_line_breaks():
    assert View.parse({"user": "a\r\nb\rc"}).user == "a\nb\nc"


def test_a_manipulation_that_changes_nothing_is_none():
    assert View(second="Why?", t=0.0, ratio=1.0).moves == []
    assert View(style="formal", alpha=0.0).moves == []
    assert View(second="Why?", t=1.0, ratio=2.0, noise=0.1).moves == ["compression", "interpolation", "noise"]
