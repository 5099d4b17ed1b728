"""Text as a classifier should see it: obfuscation undone, encoded spans masked, and their decoded texts beside it."""

from __future__ import annotations

import base64
import binascii
import codecs
import re
import unicodedata
from functools import partial

MAX_VIEWS = 6
"""Texts that one text is classified as, itself included: bounds the time that one prompt can take."""

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]"
)
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_BASE64 = re.compile(r"(?<![A-Za-z0-9+/=_-])[A-Za-z0-9+/_-]{20,}={0,2}")
_HEX = re.compile(r"(?<![0-9A-Za-z])(?:(?:0x|\\x)?[0-9a-fA-F]{2}[\s,:]?){10,}(?![0-9A-Za-z])")
_BINARY = re.compile(r"(?<![01])(?:[01]{8}\s?){5,}(?![01])")
_MORSE = re.compile(r"(?:[.\-–−·]{1,6}[ /|]+){6,}[.\-–−·]{1,6}")
_SPACED = re.compile(r"\b(?:\w[ ._\-*]){7,}\w\b")
_LEET = str.maketrans("013457@$!", "oieastasi")
_LOOKALIKES = str.maketrans(
    "аеорсухіјѕԁһӏвкмнтАЕОРСУХІЈЅВКМНТαοενρτυικ", "aeopcyxijsdhlbkmhtAEOPCYXIJSBKMHTaoevptuik"
)
_MORSE_CODE = {
    ".-": "a", "-...": "b", "-.-.": "c", "-..": "d", ".": "e", "..-.": "f", "--.": "g", "....": "h", "..": "i",
    ".---": "j", "-.-": "k", ".-..": "l", "--": "m", "-.": "n", "---": "o", ".--.": "p", "--.-": "q", ".-.": "r",
    "...": "s", "-": "t", "..-": "u", "...-": "v", ".--": "w", "-..-": "x", "-.--": "y", "--..": "z", "-----": "0",
    ".----": "1", "..---": "2", "...--": "3", "....-": "4", ".....": "5", "-....": "6", "--...": "7", "---..": "8",
    "----.": "9",
}  # fmt: skip
_WORDS = """
    the a an and or of to in is are was be you your i me my it this that for with on as at by from not all any do
    does ignore previous instructions system prompt now tell write say answer how what please will can must follow
    rules instead forget above print output have if but so no yes give make use reveal respond only
"""
_COMMON_WORDS = frozenset(_WORDS.split())


def _mask(name: str, found: re.Match[str]) -> str:
    return f" <{name}> " if _is_encoded(found[0], name) else found[0]


def canonical(text: str) -> str:
    """A text in one spelling: compatibility forms and look-alike letters replaced, invisible characters and accents
    laid over letters removed, encoded spans replaced by the name of the encoding, single spaces, lower case."""
    text = _INVISIBLE.sub("", _TAGS.sub("", unicodedata.normalize("NFKC", text)))
    if any("a" <= letter <= "z" for letter in text.lower()):
        # Only in a text that has Latin letters as well: a Russian or Greek text hides nothing.
        text = " ".join(
            word.translate(_LOOKALIKES) if _mixes_scripts(word) else word for word in text.split(" ")
        )
    for pattern, name in ((_BINARY, "binary"), (_HEX, "hexadecimal"), (_MORSE, "morse"), (_BASE64, "base64")):
        text = pattern.sub(partial(_mask, name), text)
    return " ".join(text.lower().split())


def canonical_views(text: str) -> list[str]:
    """The canonical text, and the canonical texts of what it decodes to: base64, hexadecimal, binary, Morse, rot13,
    spaced letters, reversed, digits for letters, and Unicode's invisible tag characters. Decoded texts that do not look
    like text are left out."""
    decoded = [
        "".join(chr(ord(letter) - 0xE0000) for run in _TAGS.findall(text) for letter in run),
        *(_from_base64(found[0]) for found in _BASE64.finditer(text)),
        *(_from_hex(found[0]) for found in _HEX.finditer(text)),
        *(_from_binary(found[0]) for found in _BINARY.finditer(text)),
        *(_from_morse(found[0]) for found in _MORSE.finditer(text)),
        *(re.sub(r"[ ._\-*]", "", found[0]) for found in _SPACED.finditer(text)),
    ]
    found = [canonical(text), *(canonical(view) for view in decoded if len(view) > 7 and view.isprintable())]
    plain = _common_word_share(text)
    for other in (codecs.encode(text, "rot13"), text[::-1], text.translate(_LEET)):
        if _common_word_share(other) > plain + 0.1:
            found.append(canonical(other))
    return list(dict.fromkeys(view for view in found if view))[:MAX_VIEWS] or [""]


def _mixes_scripts(word: str) -> bool:
    """Whether a word mixes Latin letters with those of another alphabet."""
    return any(letter.isascii() and letter.isalpha() for letter in word) and not word.isascii()


def _is_encoded(span: str, name: str) -> bool:
    """Whether a span with the form of an encoding is one, rather than a long word or an address."""
    if name != "base64":
        return True
    return (
        any(c.isdigit() for c in span) or span.endswith("=") or sum(map(str.isupper, span[1:])) > 3
    ) and bool(re.search("[a-z]", span))


def _common_word_share(text: str) -> float:
    """Share of a text's words that are among the most common of English; 0 for one or two words."""
    words = re.findall(r"[a-z]+", text.lower())
    return sum(word in _COMMON_WORDS for word in words) / len(words) if len(words) > 2 else 0.0


def _from_base64(text: str) -> str:
    body = text.rstrip("=").replace("-", "+").replace("_", "/")
    try:
        return base64.b64decode(body + "=" * (-len(body) % 4), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ""


def _from_hex(text: str) -> str:
    try:
        return bytes.fromhex(re.sub(r"0x|\\x|[\s,:]", "", text)).decode()
    except ValueError:
        return ""


def _from_binary(text: str) -> str:
    digits = re.sub(r"\s", "", text)
    try:
        return bytes(int(digits[i : i + 8], 2) for i in range(0, len(digits) - 7, 8)).decode()
    except UnicodeDecodeError:
        return ""


def _from_morse(text: str) -> str:
    plain = text.translate(str.maketrans("–−·", "--."))
    words = re.split(r"\s*[/|]\s*|\s{2,}", plain)
    return " ".join("".join(_MORSE_CODE.get(sign, "") for sign in word.split()) for word in words)
