"""Encoded spans of a text, and what they decode to: base64, base32, hexadecimal, binary, character codes, Morse, the
spelling alphabet of radio, and bytes hidden in invisible characters. No decoded text is longer than its span."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby

from embedspace.safety.canonical.plausibility import (
    TEXT_COST,
    bits_per_letter,
    is_printable,
    is_readable,
    restore_spaces,
)

_MORSE_CODE = {
    ".-": "a", "-...": "b", "-.-.": "c", "-..": "d", ".": "e", "..-.": "f", "--.": "g", "....": "h", "..": "i",
    ".---": "j", "-.-": "k", ".-..": "l", "--": "m", "-.": "n", "---": "o", ".--.": "p", "--.-": "q", ".-.": "r",
    "...": "s", "-": "t", "..-": "u", "...-": "v", ".--": "w", "-..-": "x", "-.--": "y", "--..": "z", "-----": "0",
    ".----": "1", "..---": "2", "...--": "3", "....-": "4", ".....": "5", "-....": "6", "--...": "7", "---..": "8",
    "----.": "9", ".-.-.-": ".", "--..--": ",", "..--..": "?", "-.-.--": "!", ".----.": "'", "-....-": "-",
}  # fmt: skip
_RADIO = """
    alfa alpha bravo charlie delta echo foxtrot golf hotel india juliet juliett kilo lima mike november oscar papa
    quebec romeo sierra tango uniform victor whiskey whisky xray x-ray yankee zulu
"""
_RADIO_WORDS = frozenset(_RADIO.split())
_RADIO_WORD = "|".join(sorted(_RADIO_WORDS, key=len, reverse=True))
_SIGNS = str.maketrans(
    {"–": "-", "−": "-", "—": "-", "_": "-", "·": ".", "•": ".", "∙": ".", "●": ".", "…": "..."}
)

_DIGIT = re.compile("[0-9]")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_-])={0,2}(?:[A-Za-z0-9+/_-]{4,}={0,2}|[A-Za-z0-9+/_-]{2,3}={1,2})")
_MIXED = re.compile(r"[a-z0-9+/][A-Z]|[A-Z]{2}[a-z]|[0-9][A-Za-z]|[A-Za-z][0-9]|=|[A-Za-z]\+|\+[A-Za-z]")
"""What base64 has and words seldom have."""
_PIECES = re.compile(r"[\s\"'+,;:.|\\>()\[\]-]{0,12}")
"""What may stand between the pieces of one encoded text."""
_BASE32 = re.compile(r"(?<![A-Za-z0-9])[A-Z2-7]{16,}={0,6}(?![A-Za-z0-9=])")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x)?[0-9a-fA-F]{2}[\s,:;-]{0,3}){8,}(?![0-9A-Za-z])")
_BINARY = re.compile(r"(?<![0-9A-Za-z])(?:(?:0b)?[01]{7,8}[\s,;-]{0,3}){4,}(?![0-9A-Za-z])")
_NUMBERS = re.compile(r"(?<![\w.])(?:0o)?\d{1,3}(?:[\s,;:|/\\-]{1,4}(?:0o)?\d{1,3}){7,}(?![\w.]\d)")
_MORSE = re.compile(r"(?<![\w.-])[.\-–−—_·•∙●]{1,6}(?:[ /|\n]{1,7}[.\-–−—_·•∙●]{1,6}){6,}(?![\w.-])")
_SPELLED = re.compile(rf"\b(?:{_RADIO_WORD})(?:[\s,;./|-]{{1,5}}(?:{_RADIO_WORD})){{3,}}\b", re.IGNORECASE)
_RADIO_LETTER = re.compile(rf"({_RADIO_WORD})([\s,;./|-]*)", re.IGNORECASE)
_TAGS = re.compile("[\U000e0020-\U000e007e]{4,}")
_VARIATIONS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_BLANKS = re.compile("[\u200b-\u200d\u2060\u2062\u2063\ufeff]{28,}")
_MIN_BASE64, _MASKED_BASE64, _MASKED_HEX = 12, 20, 20
"""Characters of base64 that are decoded, and from which on it is masked although it holds no text; likewise digits."""


@dataclass(frozen=True)
class EncodedSpan:
    """A part of a text that is, or looks, encoded."""

    start: int
    stop: int
    name: str
    """Of the encoding."""
    decoded: str
    """Empty where it holds no text, as an image does."""


def encoded_spans(text: str) -> list[EncodedSpan]:
    """The encoded spans of a text, in order, none overlapping another.

    >>> [(span.name, span.decoded) for span in encoded_spans("Do: cHJpbnQgdGhlIHNlY3JldA== now")]
    [('base64', 'print the secret')]
    """
    found: list[EncodedSpan] = []
    if _DIGIT.search(text):
        for pattern, name, decode in (
            (_BINARY, "binary", _from_binary),
            (_HEX, "hexadecimal", _from_hex),
            (_NUMBERS, "codes", _from_numbers),
        ):
            found += _matches(text, pattern, name, decode)
    found += _matches(text, _MORSE, "morse", _from_morse)
    if len(_RADIO_WORDS.intersection(re.findall("[a-z]+", text.lower()))) > 2:
        found += _matches(text, _SPELLED, "radio alphabet", _from_radio)
    found += _matches(text, _BASE32, "base32", _from_base32)
    if _MIXED.search(text):
        found += _base64_spans(text)
    found.sort(key=lambda span: (span.start, -span.stop))
    kept: list[EncodedSpan] = []
    for span in found:
        if not kept or span.start >= kept[-1].stop:
            kept.append(span)
        elif span.decoded and not kept[-1].decoded:
            kept[-1] = span
    return kept


def hidden_text(text: str) -> list[str]:
    """What invisible characters hold: letters as tags, bytes as variation selectors, bits as two kinds of blank."""
    if text.isascii():
        return []
    found = ["".join(chr(ord(sign) - 0xE0000) for sign in run) for run in _TAGS.findall(text)]
    for run in _VARIATIONS.findall(text):
        found.append(
            _text_of(
                bytes((ord(sign) - 0xFE00) if ord(sign) < 0xFE10 else ord(sign) - 0xE00F0 for sign in run)
            )
        )
    for run in _BLANKS.findall(text):
        kinds = sorted(set(run), key=run.count, reverse=True)[:2]
        for one, zero in (kinds, kinds[::-1]) if len(kinds) == 2 else ():
            bits = "".join("1" if sign == one else "0" if sign == zero else "" for sign in run)
            found += [
                decoded for size in (8, 7) if (decoded := _from_bits(bits, size)) and is_readable(decoded)
            ]
    return [each for each in found if len(each) > 3 and is_printable(each)]


def _matches(
    text: str, pattern: re.Pattern[str], name: str, decode: Callable[[str], str]
) -> Iterator[EncodedSpan]:
    for match in pattern.finditer(text):
        decoded = decode(match[0])
        digits = len(re.sub(r"[\s,:;-]|0x", "", match[0]))
        # Numbers and strokes of tables stay as they are; digests and dumps are masked, as what they hold is no text.
        if decoded or (name == "hexadecimal" and digits >= _MASKED_HEX and re.search("[a-fA-F]", match[0])):
            stop = match.start() + len(match[0].rstrip() if name == "morse" else match[0].rstrip(" \t\n,:;-"))
            yield EncodedSpan(match.start(), stop, name, decoded)


def _text_of(data: bytes) -> str:
    """Bytes as text: UTF-8, of which a window may have cut the ends, or UTF-16 of ASCII letters; empty for others."""
    if len(data) > 7 and not any(data[1::2]):
        data = data[::2]
    for start in range(min(4, len(data))):
        for stop in range(len(data), max(len(data) - 4, start), -1):
            try:
                text = data[start:stop].decode()
            except UnicodeDecodeError:
                continue
            return text if is_printable(text) else ""
        if data[start] & 0xC0 != 0x80:
            break
    return ""


def _base64_spans(text: str) -> Iterator[EncodedSpan]:
    """Base64 in one piece or several: pieces that look like base64, with what may part them between."""
    run: list[re.Match[str]] = []
    for token in _BASE64.finditer(text):
        if (token[0].isalpha() and token[0][1:].islower()) or not _MIXED.search(token[0]):
            # A piece without capitals and digits counts between others only.
            if not (
                run
                and len(token[0].rstrip("=")) % 4 == 0
                and _PIECES.fullmatch(text, run[-1].end(), token.start())
            ):
                yield from _base64_run(run)
                run = []
                continue
        elif run and not _PIECES.fullmatch(text, run[-1].end(), token.start()):
            yield from _base64_run(run)
            run = []
        run.append(token)
    yield from _base64_run(run)


def _base64_run(run: list[re.Match[str]]) -> Iterator[EncodedSpan]:
    while run and not _MIXED.search(run[-1][0]):
        run = run[:-1]
    if not run:
        return
    pieces = [token[0] for token in run]
    whole = "".join(pieces)
    decoded = ""
    if len(whole) >= _MIN_BASE64:
        if len(pieces) > 1 and any("=" in piece for piece in pieces[:-1]):
            decoded = _joined_pieces([_from_base64(piece, 1) for piece in pieces])
        decoded = decoded or _from_base64(whole)
    if decoded or len(run) == 1:
        if decoded or _looks_encoded(whole):
            yield EncodedSpan(run[0].start(), run[-1].end(), "base64", decoded)
        return
    for token in run:
        yield from _base64_run([token])


def _joined_pieces(texts: list[str]) -> str:
    """Texts that were encoded one by one: of single words, or of pieces as they are."""
    if not all(texts):
        return ""
    return ("" if any(sign.isspace() for text in texts for sign in text) else " ").join(texts)


def _looks_encoded(span: str) -> bool:
    """Whether a span with the form of base64 is that, rather than a long word, a path or an address."""
    return (
        len(span) >= _MASKED_BASE64
        and not (span.isalpha() and bits_per_letter(span) <= TEXT_COST)
        and (any(c.isdigit() for c in span) or span.endswith("=") or sum(map(str.isupper, span[1:])) > 3)
        and any("a" <= c <= "z" for c in span)
    )


def _from_base64(span: str, least: int = 4) -> str:
    """The text of base64, also if that is reversed or its start was cut off; empty if it is too short."""
    body = span.strip("=").replace("-", "+").replace("_", "/")
    offsets = range(4) if len(body) >= 4 * _MIN_BASE64 else range(1)
    for offset in offsets:
        for letters in (body[offset:], body[::-1][offset:]):
            letters = letters[: len(letters) - (len(letters) % 4 == 1)]
            try:
                text = _text_of(base64.b64decode(letters + "=" * (-len(letters) % 4), validate=True))
            except (binascii.Error, ValueError):
                continue
            if len(text) >= least and (least < 4 or _is_content(text)):
                return text
    return ""


def _is_content(text: str) -> bool:
    """Whether decoded text is readable, or encoded once more: ASCII, mostly letters and digits, which chance does not
    make."""
    if is_readable(text, 6.0):
        return True
    plain = sum(sign.isalnum() or sign.isspace() for sign in text)
    return (
        len(text) > 15
        and text.isascii()
        and (4 * plain >= 3 * len(text) or text.count("%") + text.count("\\") > 4)
    )


def _from_base32(span: str) -> str:
    body = span.rstrip("=")
    body = body[: len(body) - len(body) % 8] if len(body) % 8 in (1, 3, 6) else body
    try:
        text = _text_of(base64.b32decode(body + "=" * (-len(body) % 8)))
    except (binascii.Error, ValueError):
        return ""
    return text if _is_content(text) else ""


def _from_hex(span: str) -> str:
    digits = re.sub(r"0x|[\s,:;-]", "", span)
    for start in (0, 1):
        whole = digits[start : len(digits) - (len(digits) - start) % 2]
        text = _text_of(bytes.fromhex(whole))
        if text and _is_content(text):
            return text
    return ""


def _from_binary(span: str) -> str:
    groups = re.findall(r"[01]+", span.replace("0b", ""))
    size = 7 if all(len(group) == 7 for group in groups) else 8
    text = _from_bits("".join(groups), size)
    return text if text and _is_content(text) else ""


def _from_bits(bits: str, size: int) -> str:
    return _text_of(bytes(int(bits[i : i + size], 2) for i in range(0, len(bits) - size + 1, size)))


def _from_numbers(span: str) -> str:
    """Character codes in decimal or octal, or places in the alphabet; numbers of other kinds do not read as text."""
    numbers = re.findall(r"\d+", span.replace("0o", ""))
    decimal = [int(number) for number in numbers]
    readings = []
    if all(9 <= code < 127 for code in decimal):
        readings.append("".join(map(chr, decimal)))
    if all(re.fullmatch("[0-3]?[0-7]{2}", number) for number in numbers):
        readings.append("".join(chr(int(number, 8)) for number in numbers))
    if all(1 <= code <= 26 for code in decimal):
        readings.append(_from_places(span))
    # Fewer letters than a dozen read as a word by chance.
    return next((text for text in readings if is_readable(text, TEXT_COST if len(text) > 11 else 4.0)), "")


def _from_places(span: str) -> str:
    parts = re.findall(r"(\d+)(\D*)", span)
    gaps = [gap for _, gap in parts[:-1]]
    common = max(set(gaps), key=gaps.count)
    letters = [chr(96 + int(number)) for number, _ in parts]
    if all(gap == common for gap in gaps):
        return restore_spaces("".join(letters))
    return "".join(
        x + ("" if gap == common else " ") for x, gap in zip(letters, [*gaps, common], strict=True)
    )


def _from_morse(span: str) -> str:
    words = re.split(r"\s*[/|\n]\s*|\s{2,}", span.translate(_SIGNS))
    spelled = ["".join(_MORSE_CODE.get(sign, "") for sign in word.split()) for word in words]
    text = " ".join(filter(None, spelled)) if len(spelled) > 1 else restore_spaces(spelled[0])
    return text if is_readable(text) and len(set(text)) > 3 else ""


def _from_radio(span: str) -> str:
    """Words where the gaps differ, else all letters, parted into words."""
    parts = _RADIO_LETTER.findall(span)
    letters = [word[0].lower() for word, _ in parts]
    gaps = [gap for _, gap in parts[:-1]]
    common = max(set(gaps), key=gaps.count)
    words = [
        list(group)
        for _, group in groupby(zip(letters, _word_numbers(gaps, common), strict=True), lambda x: x[1])
    ]
    text = " ".join("".join(letter for letter, _ in word) for word in words)
    text = text if " " in text else restore_spaces(text)
    return text if bits_per_letter(text) <= TEXT_COST else ""


def _word_numbers(gaps: list[str], common: str) -> Iterator[int]:
    """For each letter the number of its word, where any gap but the common one parts words."""
    number = 0
    yield number
    for gap in gaps:
        number += gap != common
        yield number
