"""Texts of tokens, to the byte, on three real tokenizers."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace.space import RowText, token_texts
from embedspace.space.token_texts import token_bytes

# Without U+2581, SentencePiece's sign for the space, and control characters: SmolLM2's vocabulary lacks some.
unicode_text = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs", "Cc", "Cn"], exclude_characters="\u2581"),
    min_size=1,
    max_size=40,
)
MIXED = "भारत Mu\u0308ller 北京 鬱 👩‍👩‍👧‍👦 <|im_start|> 12\t\n  x\r\n<0x41> ümläut — กรุงเทพ  "


@pytest.fixture(params=["smollm2", "qwen", "gemma"])
def space(request):
    return request.getfixturevalue(request.param)


def as_read(space, text):
    """Qwen's tokenizer composes letters and marks."""
    return unicodedata.normalize("NFC", text) if space.name.startswith("qwen") else text


def test_a_text_s_tokens_are_its_bytes(space):
    assert b"".join(token_bytes(space, space.tokenize(MIXED))) == as_read(space, MIXED).encode()


@given(st.data())
def test_any_text_s_tokens_are_its_bytes(smollm2, qwen, gemma, data):
    text = data.draw(unicode_text)
    space = data.draw(st.sampled_from([smollm2, qwen, gemma]))
    ids = space.tokenize(text)
    assert b"".join(token_bytes(space, ids)) == as_read(space, text).encode()
    assert len(token_texts(space, ids)) == len(ids)


@given(unicode_text)
def test_the_text_of_rows_is_the_text(smollm2, text):
    found = RowText.of(smollm2, smollm2.tokenize(text))
    assert found.text == text
    assert found.starts[-1] == len(text)
    assert found.row_bytes[-1] == len(text.encode())


def test_a_character_of_several_tokens_begins_in_its_first(smollm2):
    ids = smollm2.tokenize("a鬱b")
    found = RowText.of(smollm2, ids)
    assert len(ids) > 3
    assert found.starts == (0, 1, *[-1] * (len(ids) - 3), 2, 3)
    assert found.rows(1, 2) == slice(1, len(ids) - 1)
    assert "\ufffd" in token_texts(smollm2, ids)[1]


@given(unicode_text, st.data())
def test_rows_are_those_that_hold_any_byte_of_the_characters(smollm2, text, data):
    start = data.draw(st.integers(0, len(text) - 1))
    stop = data.draw(st.integers(start + 1, len(text)))
    ids = smollm2.tokenize(text)
    first, last = len(text[:start].encode()), len(text[:stop].encode())
    expected, place = [], 0
    for row, piece in enumerate(token_bytes(smollm2, ids)):
        if place < last and place + len(piece) > first:
            expected.append(row)
        place += len(piece)
    rows = RowText.of(smollm2, ids).rows(start, stop)
    assert list(range(rows.start, rows.stop)) == expected


@given(st.lists(st.integers(0, 49_151), min_size=1, max_size=20))
def test_tokens_in_any_order_keep_every_byte(smollm2, ids):
    found = RowText.of(smollm2, ids)
    assert found.text.encode(errors="surrogateescape") == b"".join(token_bytes(smollm2, ids))
    assert len(found.starts) == len(ids) + 1
    assert found.starts[-1] == len(found.text)


def test_half_a_character_stands_as_bytes_that_are_not_lost(smollm2):
    ids = smollm2.tokenize("鬱")[:-1]
    found = RowText.of(smollm2, ids)
    assert found.text.encode(errors="surrogateescape") == "鬱".encode()[: len(found.text)]
    assert not found.text.isprintable()


def test_a_word_has_the_space_before_it(smollm2, qwen):
    for space in (smollm2, qwen):
        assert token_texts(space, space.tokenize("Bread is good"))[-1] == " good"


def test_no_tokens_are_no_text(smollm2):
    assert token_bytes(smollm2, []) == []
    empty = RowText.of(smollm2, [])
    assert (empty.text, empty.starts) == ("", (0,))
