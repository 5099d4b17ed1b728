"""Units: the rows of a text in pieces that are kept or dropped whole, and what parts two of them."""

import pytest
import regex
from hypothesis import given
from hypothesis import strategies as st

from embedspace.compression.text_units import Units, is_separator, is_unspaced, needs_separator
from embedspace.space import RowText

WORDS = regex.compile(r"[\p{L}\p{M}\p{Nd}_]+")
NUMBERS = regex.compile(r"\d+(?:[.,:/\-]\d+)*")

# Without control characters, some of which SmolLM2's vocabulary lacks.
unicode_text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cn", "Co", "Cc"]), min_size=1, max_size=40
)
short_text = st.text("aZ09é京ก .,:;-'/\\_|()[]\"\n&@#%…", max_size=5)


def units_of(space, text):
    return Units.of(RowText.of(space, space.tokenize(text)))


@given(unicode_text)
def test_the_units_are_the_text_and_its_rows_without_gaps(smollm2, text):
    units = units_of(smollm2, text)
    assert "".join(units.texts) == units.text == text
    assert units.rows[0] == 0
    assert units.rows[-1] == len(smollm2.tokenize(text))
    assert min(units.sizes) >= 1
    assert len(units) == len(units.sizes) == len(units.is_word)


@given(unicode_text)
def test_no_unit_ends_inside_of_a_character_with_its_marks(smollm2, text):
    clusters, place = {0}, 0
    for cluster in regex.findall(r"\X", text):
        place += len(cluster)
        clusters.add(place)
    place = 0
    for own in units_of(smollm2, text).texts:
        place += len(own)
        assert place in clusters


@given(st.lists(st.integers(0, 49_000), min_size=1, max_size=20))
def test_tokens_that_are_no_text_have_units_too(smollm2, ids):
    text = RowText.of(smollm2, ids)
    units = Units.of(text)
    assert units.rows[-1] == len(ids)
    assert units.text == text.text


@pytest.mark.parametrize(
    "whole",
    [
        "don't", "O'Neill-Smith", "e-mail", "state-of-the-art", "x86_64", "COVID-19", "example.org", "U.S", "R&D",
        "2009", "19.99", "1,250", "1.250,50", "10:30", "10:30-12:00", "2009-05-12", "12/05/24", "v1.2.3", "1'250'000",
        "$19.99", "€1.250,50", "£3", "15%", "-2", "±5", "≤7", "~5kg", "#12", "§5", "20°C", "1 250 000", "1\u202f250",
        "4111 1111 1111 1111", "DE89 3704 0044 0532 0130 00", "+49 (30) 123-4567", "030 1234 5678", "(212) 555-0100",
        "https://a.example/b?c=1&d=2#e", "me.too@x-y.example.org", "/usr/share/doc/a_b-2.txt", "\\games\\old\\x.txt",
        "Fe³⁺", "SO4^2-", "7.2(b)", "NW1 6XE", "R$ 430,15", "torch==2.1.0+cu118", "!=", "<>", "!found", "at least 2",
        "more than 2", "7 August 2024", "August 7, 2024", "7. Mai", "3 de abril", "0.2 units/kg", "5 million",
        "3 months",
        "Mu\u0308ller", "राजधानी", "می‌خواهم", "٢٢", "三千五百", "2009年", "👩‍👩‍👧‍👦", "🇩🇪", "✌🏽",
    ],
)  # fmt: skip
def test_a_word_number_or_address_is_in_one_unit(smollm2, whole):
    units = units_of(smollm2, f"see ( {whole} ) there")
    assert sum(whole in own for own in units.texts) == 1, units.texts


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("Bus 5, 17", ("Bus", "5", ",", "17")),
        ("one two", ("one", "two")),
        ("yes; no", ("yes", ";", "no")),
        ("f(3)", ("f", "(", "3", ")")),
        ("भारत की राजधानी", ("भारत", "की", "राजधानी")),
        ("a|b", ("a", "|", "b")),
        ("See https://a.example/b, now", ("See", "https://a.example/b", ",", "now")),
    ],
)
def test_neighbours_are_units_of_their_own(smollm2, text, parts):
    assert tuple(own.strip() for own in units_of(smollm2, text).texts if own.strip()) == parts


def test_scripts_without_spaces_are_parted_into_small_pieces(smollm2):
    for text, most in (("北京是中国的首都和最大的城市", 4), ("กรุงเทพมหานครเป็นเมืองหลวงของประเทศไทย", 12)):
        units = units_of(smollm2, text)
        assert len(units) > 2
        assert max(len(regex.findall(r"\X", own)) for own in units.texts) <= most
    assert is_unspaced("京")
    assert is_unspaced("ก")
    assert not is_unspaced("é")
    assert not is_unspaced("भ")


def test_a_line_break_of_two_characters_is_not_parted(smollm2):
    assert not any(own == "\r" or own.startswith("\n") for own in units_of(smollm2, "a\r\nb\r\nc").texts)


@given(unicode_text, st.data())
def test_a_part_has_the_texts_of_its_units_and_rows_from_zero(smollm2, text, data):
    units = units_of(smollm2, text)
    first = data.draw(st.integers(0, len(units) - 1))
    last = data.draw(st.integers(first + 1, len(units)))
    part = units.part(first, last)
    assert part.texts == units.texts[first:last]
    assert part.rows[0] == 0
    assert part.sizes == units.sizes[first:last]


def test_words_are_told_from_signs(smollm2):
    units = units_of(smollm2, "It costs $19.99, not 20 €!")
    words = [own.strip() for own, word in zip(units.texts, units.is_word, strict=True) if word]
    assert words[:4] == ["It", "costs", "$19.99", "not"]
    assert "," not in words
    assert "!" not in words


@given(short_text, short_text)
def test_texts_that_need_no_separator_have_the_same_words_and_numbers_side_by_side(before, after):
    if not needs_separator(before, after):
        for pattern in (WORDS, NUMBERS):
            assert pattern.findall(before + after) == pattern.findall(before) + pattern.findall(after)


@given(short_text, short_text, short_text)
def test_a_separator_parts_whatever_stands_beside_it(before, separator, after):
    if is_separator(separator):
        assert not needs_separator(before, separator)
        assert not needs_separator(separator, after)
        joined = before + separator + after
        assert WORDS.findall(joined) == WORDS.findall(before) + WORDS.findall(after)


@pytest.mark.parametrize(
    ("before", "after"),
    [("12", "30"), ("seats", "12"), ("5,", "17"), ("10:", "30"), ("-", "2"), ("$", "5"), ("5", "%"), ("a", "'s"),
     ("x", "\u0308"), ("int", "[3"), ("3.9;", "NET"), ("(x)", "2"), ('no="', "2"), ("no", '"2')],
)  # fmt: skip
def test_what_would_read_as_one_needs_a_separator(before, after):
    assert needs_separator(before, after)


@pytest.mark.parametrize(
    ("before", "after"), [("12", ")"), ("(", "12"), ("12", " 30"), ("12\n", "30"), ("12", "!"), ("「", "京")]
)
def test_brackets_and_signs_stay_with_what_they_open_and_close(before, after):
    assert not needs_separator(before, after)


def test_space_bars_and_signs_of_scripts_without_spaces_are_separators_and_all_other_signs_are_not():
    assert all(map(is_separator, (" ", "\n", "\n\n", "|", " | ", "。", "，", "؛")))
    assert not any(map(is_separator, ("", ".", ",", "-", "/", "a", "$", " 5", ", ", "(", ";", "!", '"')))


@pytest.mark.parametrize(
    ("text", "whole"),
    [
        ("MAC 00:1A:2B:3C:4D:5E is up", "00:1A:2B:3C:4D:5E"),
        ("see fe80:0:0:0:1a:2b:3c:4d now", "fe80:0:0:0:1a:2b:3c:4d"),
        ("call +44 (0)20 7946-0958 now", "+44 (0)20 7946-0958"),
        ('"caf\\u00e9" is read', "caf\\u00e9"),
        ("where x^2 is", "x^2"),
        ("at most 10^-3 of it", "10^-3"),
        ("is ± 0.05 off", "± 0.05"),
        ("a bridge 27 m wide", "27 m"),
        ("about 5 % more", "5 %"),
        ("costs 12,50 € today", "12,50 €"),
        ("at 9:30 pm sharp", "9:30 pm"),
        ("die Donau\u00addampf\u00adschiff\u00adfahrt", "Donau\u00addampf\u00adschiff\u00adfahrt"),
        ("one sp\u2060ace here", "sp\u2060ace"),
    ],
)
def test_identifiers_signs_units_and_words_with_hidden_characters_are_whole(smollm2, text, whole):
    assert any(whole in own for own in units_of(smollm2, text).texts)


def test_a_burmese_syllable_keeps_the_consonant_that_closes_it(smollm2):
    for own in units_of(smollm2, "တနင်္လာနေ့ ဖွင့်သည် ၅၀၀ ကျပ် မိနစ်").texts:
        assert not regex.match(r"\p{L}\p{M}*\u103a", own.strip())


@pytest.mark.parametrize("sign", ["\u066b", "\u066c", "\uff0e", "\uff1a"])
def test_the_signs_inside_numbers_of_other_scripts_join_numbers(sign):
    assert needs_separator(f"5{sign}", "7")


@pytest.mark.parametrize("whole", ["12：30", "３．５元", "5：1"])
def test_a_number_with_full_width_signs_is_in_one_unit(smollm2, whole):
    assert any(whole in own for own in units_of(smollm2, f"地点 {whole}，在").texts)
