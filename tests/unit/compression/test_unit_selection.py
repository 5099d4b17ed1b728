"""Selection of units: never more rows than allowed, and no two units that read as one."""

import itertools
import re

from hypothesis import given
from hypothesis import strategies as st

from embedspace.compression.text_units import Units, is_separator, needs_separator
from embedspace.compression.unit_selection import INSERTED, INSERTED_BREAK, UnitSelection

pieces = st.tuples(
    st.sampled_from(
        [
            "a",
            "5",
            " b",
            " 17",
            "500",
            " 250",
            "京",
            ",",
            ".",
            " ",
            "\n",
            "(",
            "|",
            ". ",
            " (",
            "x's",
            "-",
            "\ufffd",
        ]
    ),
    st.integers(1, 3),
)
edges = st.sampled_from([" ", "\n", "x", "5", ",", ")"])


@st.composite
def selections(draw, separator_size=1):
    drawn = draw(st.lists(pieces, min_size=1, max_size=12))
    rows = (0, *itertools.accumulate(size for _, size in drawn))
    units = Units(rows, tuple(text for text, _ in drawn))
    start, length = draw(st.integers(0, len(units) - 1)), draw(st.integers(2, 3))
    span = range(start, min(start + length, len(units)))
    return UnitSelection(units, draw(edges), draw(edges), separator_size, dict.fromkeys(span, span))


def filled(selection, order, length):
    made = UnitSelection(
        selection.units, selection.before, selection.after, selection.separator_size, selection.together
    )
    made.add_in_order(order, length)
    return made


@given(selections(), st.data())
def test_the_size_is_the_number_of_rows_and_never_above_the_limit(selection, data):
    order = data.draw(st.permutations(range(len(selection.units))))
    length = data.draw(st.integers(0, selection.units.rows[-1] + 3))
    selection.add_in_order(order, length)
    assert len(selection.rows()) == selection.size <= length


@given(selections(), st.data())
def test_a_longer_separator_takes_its_rows(selection, data):
    size = data.draw(st.integers(2, 4))
    order = data.draw(st.permutations(range(len(selection.units))))
    length = data.draw(st.integers(0, selection.units.rows[-1] + 3))
    made = UnitSelection(selection.units, selection.before, selection.after, size)
    made.add_in_order(order, length)
    rows = made.rows()
    assert len(rows) + (size - 1) * sum(row < 0 for row in rows) <= made.size <= length


@given(selections(), st.data())
def test_the_size_does_not_depend_on_the_order_in_which_units_are_added(selection, data):
    count = len(selection.units)
    chosen = data.draw(st.lists(st.integers(0, count - 1), unique=True, min_size=1))
    first, second = filled(selection, [], 0), filled(selection, [], 0)
    for unit in chosen:
        expected = first.size + first.cost(unit)
        first.add(unit)
        assert first.size == expected
    for unit in data.draw(st.permutations(chosen)):
        second.add(unit)
    assert first.kept == second.kept == sorted(chosen)
    assert first.size == second.size
    assert first.rows() == second.rows()


@given(selections(), st.data())
def test_rows_are_in_order_whole_units_and_separators_that_stood_between_them(selection, data):
    selection.add_in_order(
        data.draw(st.permutations(range(len(selection.units)))), data.draw(st.integers(1, 20))
    )
    rows, units = selection.rows(), selection.units
    own = [row for row in rows if row >= 0]
    assert own == sorted(set(own))
    kept = {row for unit in selection.kept for row in range(units.rows[unit], units.rows[unit + 1])}
    assert kept <= set(own)
    for row in set(own) - kept:
        unit = units.rows.index(row)
        assert units.sizes[unit] == 1
        assert is_separator(units.texts[unit])


@given(selections(), st.data())
def test_no_two_kept_units_are_joined_that_did_not_stand_side_by_side(selection, data):
    selection.add_in_order(
        data.draw(st.permutations(range(len(selection.units)))), data.draw(st.integers(1, 20))
    )
    units, rows = selection.units, selection.rows()
    if not rows:
        return
    owner = {row: unit for unit in range(len(units)) for row in range(units.rows[unit], units.rows[unit + 1])}
    # What is read: the unit of each row, or an inserted space, between what stands before and after.
    read = [(-1, selection.before)]
    for row in rows:
        unit = owner.get(row)
        if unit is None:
            read.append((None, "\n" if row == INSERTED_BREAK else " "))
        elif read[-1][0] != unit:
            read.append((unit, units.texts[unit]))
    read.append((len(units), selection.after))
    for (left, before), (right, after) in itertools.pairwise(read):
        stood = left is not None and right is not None and right == left + 1
        assert stood or not needs_separator(before, after)


@given(selections(), st.data())
def test_what_is_kept_once_is_not_kept_twice(selection, data):
    order = data.draw(st.lists(st.integers(0, len(selection.units) - 1), min_size=1))
    selection.add_in_order(order, 100)
    size, kept = selection.size, list(selection.kept)
    selection.add_in_order(order, 100)
    whole = {each for unit in order for each in selection.together.get(unit, (unit,))}
    assert (selection.size, selection.kept) == (size, kept) == (selection.size, sorted(whole))


def test_a_unit_that_does_not_fit_makes_room_for_the_next_that_does():
    selection = UnitSelection(Units((0, 5, 6, 8), ("Donaudampf", " ", "it")))
    selection.add_in_order([0, 2], 3)
    assert selection.kept == [2]


def test_a_line_break_is_preferred_to_a_space_and_a_space_to_a_sign():
    units = Units((0, 1, 2, 3, 4, 5), ("12", ";", " ", "\n", "30"))
    selection = UnitSelection(units)
    selection.add_in_order([0, 4], 3)
    assert selection.rows() == [0, 3, 4]
    selection = UnitSelection(Units((0, 1, 2, 3, 4), ("12", ";", " ", "30")))
    selection.add_in_order([0, 3], 3)
    assert selection.rows() == [0, 2, 3]
    selection = UnitSelection(Units((0, 1, 2, 3), ("12", "x", "30")))
    selection.add_in_order([0, 2], 3)
    assert selection.rows() == [0, INSERTED, 2]


@given(selections(), st.data())
def test_digits_that_stood_apart_never_read_as_one_number(selection, data):
    selection.add_in_order(
        data.draw(st.permutations(range(len(selection.units)))), data.draw(st.integers(1, 20))
    )
    units = selection.units
    owner = {row: unit for unit in range(len(units)) for row in range(units.rows[unit], units.rows[unit + 1])}
    pieces = [
        (owner[row], units.texts[owner[row]]) if row >= 0 else (None, " \n"[-row - 1])
        for row in selection.rows()
    ]
    pieces = [piece for piece, _ in itertools.groupby(pieces)]
    read = "".join(text for _, text in pieces)
    for found in re.finditer(r"(?<!\d)\d{1,3} +\d{3}(?!\d)", read):
        assert found[0] in units.text, (read, units.text)
