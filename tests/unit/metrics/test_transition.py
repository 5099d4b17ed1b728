"""Where a curve turns, and how suddenly."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace.metrics import STRAIGHT_WIDTH, Transition

STEPS = [step / 20 for step in range(21)]


def test_a_straight_line_has_the_width_and_slope_that_it_is_compared_with():
    turn = Transition.of({t: 3 - 2 * (1 - t) for t in STEPS})
    assert turn.width == pytest.approx(STRAIGHT_WIDTH)
    assert turn.slope == pytest.approx(1)
    assert turn.middle == pytest.approx(0.5)


@pytest.mark.parametrize("at", [0.225, 0.475, 0.825])
def test_a_step_is_found_where_it_is_and_as_narrow_as_the_grid(at):
    turn = Transition.of({t: float(t > at) for t in STEPS})
    assert turn.middle == pytest.approx(at)
    assert turn.width == pytest.approx(0.8 * 0.05)
    assert turn.slope > 4


def test_units_shift_and_scale_of_the_measure_do_not_matter():
    curve = {t: t**3 for t in STEPS}
    moved = Transition.of({10 * t - 4: 7 * value - 5 for t, value in curve.items()})
    plain = Transition.of(curve)
    assert moved.middle == pytest.approx(plain.middle)
    assert moved.slope == pytest.approx(plain.slope)


@given(st.lists(st.floats(-5, 5), min_size=3, max_size=12))
def test_any_curve_that_ends_higher_has_its_positions_in_order_and_on_the_axis(between):
    values = [-1.0, *between, 1.0]
    turn = Transition.of({float(position): value for position, value in enumerate(values)})
    assert 0 <= turn.begin <= turn.middle <= turn.end <= 1
    assert turn.slope >= 0


def test_a_curve_that_ends_where_it_began_has_no_turn():
    assert Transition.of({0.0: 1.0, 0.25: 2.0, 0.5: 3.0, 0.75: 2.0, 1.0: 1.0}) is None


@pytest.mark.parametrize("positions", [1, 2, 4])
def test_fewer_than_four_steps_are_refused(positions):
    with pytest.raises(ValueError, match=f"at least 5 positions of a curve, got {positions}"):
        Transition.of({float(position): float(position) for position in range(positions)})
