"""What is measured of compressed passages: inventions, right answers, intervals over clusters, verdicts."""

from __future__ import annotations

import unicodedata

import pytest

from embedspace.metrics import Measure, ratio_interval
from experiments.compression.metrics import WHOLE, WITHOUT, Measured, contains, inventions
from experiments.compression.overview import Goal, Overview, rivalries

BUS = "Bus lines 5, 17, 23, 101 and 210 stop here."
JSON = '{"id": 1042, "qty": 7, "price": 19.99, "tax": 3}'
HINDI = "भारत की राजधानी नई दिल्ली है"
GERMAN = unicodedata.normalize("NFD", "Müller mochte größere Bäume.")
CHINESE = "去云台的列车8点20分从三号站台出发。票价19.50元。"
THAI = "กรุงเทพมหานครเป็นเมืองหลวง ของประเทศไทย"


@pytest.mark.parametrize(
    ("output", "passage", "expected"),
    [
        ("Bus lines 5 1723", BUS, ["1723"]),
        ("Bus lines 5, 17 101", BUS, []),
        (
            "Room1230Room148Room",
            "Room 12: 30 seats\nRoom 14: 8 seats",
            ["Room1230Room148Room", "1230", "148"],
        ),
        ("id1042719.99", JSON, ["id1042719", "1042719.99"]),
        ('"price": 19.99', JSON, []),
        ("price 19", JSON, ["19"]),
        ("19.993", "The price is 19.99, the tax 3.", ["19.993", "993"]),
        ("1,250.50", "It costs 1,250.50 today.", []),
        ("at 10:3", "at 10:30 sharp", ["10:3", "3"]),
        ("on 2024-05", "on 2024-05-01", ["2024-05"]),
        ("don", "I don't know", []),
        ("Muller größere", GERMAN, ["Muller"]),
        (unicodedata.normalize("NFC", "Müller Bäume"), GERMAN, []),
        ("भरत दिल्ली", HINDI, ["भरत"]),
        ("भारत दिल्ली", HINDI, []),
        ("列车8点20分", CHINESE, []),
        ("列车20分", CHINESE, ["列车20分"]),
        ("列车8点2", CHINESE, ["2"]),
        ("19.5元", CHINESE, ["19.5", "5元"]),
        ("票价 19.50", CHINESE, []),
        ("เมืองหลวง", THAI, []),
        ("เมืองไทย", THAI, ["เมืองไทย"]),
        ("Bus \ufffd lines", BUS, ["\ufffd"]),
        ("a \ufffd", "a \ufffd b", []),
        ("", BUS, []),
    ],
)
def test_words_and_numbers_that_the_passage_does_not_have_are_found(
    output: str, passage: str, expected: list[str]
) -> None:
    assert inventions(output, passage) == expected


@pytest.mark.parametrize("passage", [BUS, JSON, HINDI, GERMAN, CHINESE, THAI])
def test_a_passage_invents_nothing_of_itself_and_neither_does_a_beginning_at_a_space(passage: str) -> None:
    assert inventions(passage, passage) == []
    assert inventions(passage.rsplit(" ", 1)[0], passage) == []


@pytest.mark.parametrize(
    ("answer", "strings", "expected"),
    [
        (" 8:30 on weekdays", ["8:30"], True),
        ("It opens at 18:30.", ["8:30"], False),
        ("Ask TOVE  Marsh!", ["Tove Marsh"], True),
        ("$12.50.", ["$12.50"], True),
        ("112", ["12"], False),
        ("12", ["12", "30"], False),
        ("票价19.50元。", ["19.50元"], True),
        ("गाँव में 275 परिवार", ["275"], True),
    ],
)
def test_an_answer_is_right_if_it_has_every_string_whole(
    answer: str, strings: list[str], expected: bool
) -> None:
    assert contains(answer, strings) is expected


def test_an_interval_over_clusters_is_wider_than_one_over_items_that_are_alike_within_them() -> None:
    values = [float(number % 10 >= 5) for number in range(50) for _ in range(4)]
    wide = ratio_interval(values, None, [number for number in range(50) for _ in range(4)])
    narrow = ratio_interval(values, None, list(range(200)))
    assert wide.estimate == narrow.estimate == 0.5
    assert wide.items == 50
    assert wide.high - wide.low > 1.7 * (narrow.high - narrow.low)


def test_of_few_clusters_or_equal_ones_there_is_no_interval_and_of_unequal_lengths_no_estimate() -> None:
    few = ratio_interval([1.0, 3.0] * 9, [2.0, 2.0] * 9, [number // 2 for number in range(18)])
    assert (few.estimate, few.items, few.known) == (1.0, 9, False)
    equal = ratio_interval([0.5] * 20, None, range(20))
    assert (equal.estimate, equal.items, equal.known) == (0.5, 20, False)
    with pytest.raises(ValueError, match="got 2, 2 and 1"):
        ratio_interval([1.0, 3.0], None, ["a"])


def test_a_share_of_none_has_an_interval_in_which_each_cluster_counts_once() -> None:
    none = ratio_interval([0.0] * 60, None, [number // 3 for number in range(60)])
    assert (none.estimate, none.low, none.items) == (0.0, 0.0, 20)
    assert 0.15 < none.high < 0.17
    assert ratio_interval([1.0] * 20, None, range(20)).low == pytest.approx(1 - none.high)


def measured(clusters: int = 12, **gains: list[float]) -> Measured:
    """Likelihoods at a ratio of 2, of two items for each cluster, from 0 without the passage to 1 with it."""
    count = 2 * clusters
    gains = {name: own * (count // 6) for name, own in gains.items()}
    values = {WHOLE: [1.0] * count, WITHOUT: [0.0] * count}
    values |= {(name, 2.0): own for name, own in gains.items()}
    likelihood = Measure({place: dict(enumerate(own)) for place, own in values.items()})
    empty = Measure({})
    invented = Measure({("own", 2.0): dict(enumerate([0.0, 0.0, 1.0, 0.0, 0.0, 0.0] * (count // 6)))})
    return Measured(
        likelihood, empty, empty, invented, empty, {}, {item: f"c{item // 2}" for item in range(count)}
    )


def test_a_method_is_below_its_best_rival_only_if_the_interval_says_so_and_as_good_only_within_the_margin() -> (
    None
):
    found = measured(own=[0.5, 0.5, 0.4, 0.6, 0.5, 0.5], worse=[0.1] * 6, better=[0.9] * 6)
    found.likelihood.values["like", 2.0] = dict(enumerate([0.6, 0.6, 0.4, 0.4, 0.5, 0.5] * 4))

    def standing(margin: float, *others: str) -> tuple[str, str]:
        (rival,) = rivalries(found, {"own": others}, [2.0], margin)
        return rival.best, rival.standing

    assert standing(0.1, "worse", "like") == ("like", "as good")
    assert standing(0.001, "like") == ("like", "not told")
    assert standing(0.1, "worse", "better") == ("better", "below")
    assert standing(0.1, "worse") == ("worse", "above")
    assert list(rivalries(found, {"own": ["unknown"]}, [2.0], 0.1)) == []
    few = measured(9, own=[0.5] * 6, better=[0.9] * 6)
    assert list(rivalries(few, {"own": ["better"]}, [2.0], 0.1)) == []


def test_the_overview_says_where_a_method_is_below_its_rivals_and_which_goals_are_reached() -> None:
    kinds = {
        "code": measured(own=[0.5] * 6, other=[0.9] * 6),
        "gist": measured(own=[0.9] * 6, other=[0.2] * 6),
    }
    goals = [Goal("own", {2.0: 0.8})]
    section = Overview(kinds, ["own", "other"], [2.0], {"own": ["other"]}, 0.1, goals, []).section()
    assert section.finding == (
        "Own is above the best of its rivals in 1 of 2 comparisons, as good within 0.1 nats a token in 0, not told "
        "from it in 0, and below it in 1: code (2x other). 1 of 2 goals are reached."
    )
    assert section.verdict == (
        "Kinds of text on which a method is clearly below the best of its rivals at some ratio: own on 1 of 2; 1 of 2 "
        "goals are reached."
    )
    assert section.figures[0].caption.startswith("What the method “own” keeps at a compression ratio of 2")
    shares, reached, invented = section.tables
    assert [row[1].estimate for row in shares.rows] == pytest.approx([0.5, 0.9])
    assert [row[-1] for row in reached.rows] == ["missed", "reached"]
    assert invented.rows[0][1].estimate == pytest.approx(1 / 6)
