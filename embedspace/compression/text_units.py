"""Units: stretches of rows that read as whole words, numbers, signs or white space, and are kept or dropped whole."""

from __future__ import annotations

import itertools
import unicodedata
from dataclasses import dataclass
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING

from embedspace.space import RowText

if TYPE_CHECKING:
    import regex

_CHARACTER_SCRIPTS = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\u3005\u30fc"
_PHRASE_SCRIPTS = (
    r"\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}\p{Tai_Le}\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}"
)
"""Scripts that part no words by spaces: those with a character for each syllable or word, and those with letters."""
_UNSPACED = f"[{_CHARACTER_SCRIPTS}{_PHRASE_SCRIPTS}]"
_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}_]--{_UNSPACED}]"
_JOINERS = r"[\u00ad\u200c\u200d\u2060\ufeff]"
"""Characters without a width that stand inside of words."""
_SIGNS = r"[+\-\u2212\u2013\u00b1~\u2248<>\u2264\u2265=#\u2116\u00a7]"
_SPACE = r"[ \u00a0\u2009\u202f]"

_UNITS = "|".join(
    """
    km m cm mm \u00b5m nm km\u00b2 m\u00b2 cm\u00b2 m\u00b3 cm\u00b3 km2 m2 cm2 m3 ha mi ft yd
    kg g mg \u00b5g t lb lbs oz l L ml mL cl h min s ms km/h m/s mph Hz kHz MHz GHz W kW MW GW kWh V kV A mA J kJ kcal
    Pa kPa bar K B kB KB MB GB TB KiB MiB GiB TiB px pt dpi EUR USD GBP CHF JPY INR CNY am pm AM PM Uhr
    """.split()  # noqa: SIM905
)
"""Symbols of units that belong to the number before them."""

_WHOLE = (
    # Words, with what stands inside of them: don't, e-mail, example.org, x86_64, U.S., soft hyphens and joiners.
    rf"{_WORD}+(?:(?:['\u2019\u02bc\u2010\u2011\-.&@\u00b7\u05f3\u05f4]|{_JOINERS}+){_WORD}+)*{_JOINERS}*",
    # Characters that JSON and code write as numbers, and powers: caf\u00e9, x^2, 10^-3.
    rf"{_WORD}*(?:\\u[0-9A-Fa-f]{{4}}{_WORD}*)+",
    rf"[{_WORD}\)\]]\^[+\-\u2212]?{_WORD}+",
    # Numbers, times, dates and versions. A list of more than eight numbers without spaces is parted.
    r"\d+(?:[.,:/\-\u2013\u2212'\u2019_+*\u00d7=^~\u00b7\u066b\u066c\uff0e\uff1a\uff0f\uff0d]\d+){1,7}",
    # What stands before and after a number: signs, currencies, units.
    rf"(?<!\w){_SIGNS}+\p{{Sc}}?\d",
    rf"\p{{Sc}}-?\d|\d(?:[%\u2030\u2032\u2033\p{{Sc}}]|\u00b0[CF]?|{_UNSPACED}\p{{M}}*)",
    r"\u00b0[CF]\b",
    rf"[\u00b1\u2248\u2264\u2265<>]{_SPACE}\p{{Sc}}?\d",
    rf"\d{_SPACE}(?:[%\u2030]|\u00b0[CF]?|\p{{Sc}}|(?:{_UNITS})\b)",
    # 1 250 000; 4111 1111 1111 1111; DE89 3704 0044 0532 0130 00; +49 (30) 123-4567
    rf"(?<![\d.,])\d{{1,3}}(?:{_SPACE}\d{{3}})+(?!\d)",
    r"\b\d{4}(?: \d{4}){2,4}\b",
    r"\b[A-Z]{2}\d{2}(?: [A-Z0-9]{4}){2,8}(?: [A-Z0-9]{1,4})?\b",
    r"(?:\+\d{1,4}|\(\+?\d{1,5}\)|\b0\d{1,5})(?:[ \-./]{0,2}(?:\(\d{1,6}\)\d{0,6}|\d{1,6})(?!\w)){1,6}",
    # Addresses of network cards and of the internet.
    r"\b[0-9A-Fa-f]{2}(?:[:\-][0-9A-Fa-f]{2}){5,7}\b",
    r"(?<![\w:])(?:[0-9A-Fa-f]{1,4}:){3,7}:?(?:[0-9A-Fa-f]{1,4}:){0,4}[0-9A-Fa-f]{1,4}\b",
    # Web and mail addresses, paths.
    rf"[A-Za-z][A-Za-z0-9+.\-]{{1,20}}://[^\s<>\"'`)\]}}{_CHARACTER_SCRIPTS}{_PHRASE_SCRIPTS}]+(?<![.,;:!?])",
    r"[\w.+\-]+@[\w\-]+(?:\.[\w\-]+)+",
    r"(?:[A-Za-z]:)?[\w.~\-]*(?:[/\\][\w.\-]+){2,}",
    # Burmese: a syllable with the consonant that closes it, and stacked consonants.
    r"\X(?:\p{Myanmar}\p{M}*\u103a\p{M}*)+",
    r"\X?[\u1039\u17d2]\p{L}\p{M}*",
    # A number in Chinese characters.
    r"[零〇一二三四五六七八九十百千万萬亿億兆两兩]{2,}",
)
"""Patterns of what is never parted."""
_CONNECTORS = frozenset(
    "'\u2019\u02bc\u2010\u2011-\u2013\u2212.,:/\\_&@\u00b7\u05f3\u05f4*#%\u2026\u2030\u066b\u066c\uff0e\uff1a\uff0f\uff0d"
)
"""Punctuation that makes one word or number of what stands on both sides of it."""


@dataclass(frozen=True)
class Units:
    """A text's rows in units.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> Units.of(RowText.of(space, space.tokenize("It costs $19.99, not 20."))).texts
    ('It', ' costs', ' $19.99', ',', ' not', ' ', '20', '.')
    """

    rows: tuple[int, ...]
    """Number of the first row of each unit, and of all rows at the end."""
    texts: tuple[str, ...]

    @classmethod
    def of(cls, text: RowText) -> Units:
        """The units of a text, in order."""
        whole = _inside(text.text)
        borders = [
            row for row, place in enumerate(text.starts) if place >= 0 and (row == 0 or not whole[place])
        ]
        if borders[-1] != len(text.starts) - 1:  # the text ends inside of a character
            borders.append(len(text.starts) - 1)
        return cls(*_joined_characters(text, borders))

    def part(self, first: int, last: int) -> Units:
        """The units from ``first`` to before ``last``, with rows numbered from 0."""
        start = self.rows[first]
        return Units(tuple(row - start for row in self.rows[first : last + 1]), self.texts[first:last])

    def __len__(self) -> int:
        return len(self.texts)

    @cached_property
    def text(self) -> str:
        """The whole text."""
        return "".join(self.texts)

    @cached_property
    def sizes(self) -> list[int]:
        """Number of rows of each unit."""
        return [stop - start for start, stop in zip(self.rows, self.rows[1:], strict=False)]

    @cached_property
    def is_word(self) -> list[bool]:
        """Whether each unit has a letter or a digit in it."""
        return [any(map(str.isalnum, text)) for text in self.texts]


def needs_separator(before: str, after: str) -> bool:
    """Whether two texts would read as one word, number or expression if nothing stood between them.

    >>> needs_separator("12", "30"), needs_separator("12", " 30"), needs_separator("seats", "[12")
    (True, False, True)
    """
    left, right = before[-1:], after[:1]
    return not (_parts(left) or _parts(right) or _category(left) in ("Ps", "Pi") or _closes(right))


def is_separator(text: str) -> bool:
    """Whether a text parts words and numbers, whatever stands before and after it."""
    return bool(text) and all(map(_parts, text))


@lru_cache(4096)
def _parts(character: str) -> bool:
    """Whether a character parts what stands on both sides of it, as white space does; the end of a text does.

    Signs of Latin scripts stand beside a space, without which they make one expression of both sides: ``int[3``.
    """
    if not character or character.isspace() or character == "|":
        return True
    return _is_sign(character) and not (character < "\u00c0" or "\u2010" <= character <= "\u206f")


def _closes(character: str) -> bool:
    """Whether a sign ends what stands before it."""
    return character in ("!", "?", ";") or _category(character) in ("Pe", "Pf")


def _is_sign(character: str) -> bool:
    return _category(character) in ("Ps", "Pe", "Pi", "Pf", "Po") and character not in _CONNECTORS


@lru_cache(4096)
def _category(character: str) -> str:
    return unicodedata.category(character) if character else ""


def _inside(text: str) -> bytearray:
    """For each character, whether it must not be parted from the one before; a last entry for the text's end."""
    inside = bytearray(len(text) + 1)
    for pattern in _patterns(text.isascii()):
        for found in pattern.finditer(text):
            start, stop = found.span()
            if stop - start > 1:
                inside[start + 1 : stop] = b"\1" * (stop - start - 1)
    return inside


@cache
def _patterns(is_ascii: bool) -> list[regex.Pattern[str]]:
    import regex

    # A character with its marks is a grapheme cluster (Unicode Standard Annex 29).
    patterns = (*_WHOLE, r"\r\n") if is_ascii else (*_WHOLE, r"\X")
    return [regex.compile(pattern, regex.VERSION1) for pattern in patterns]


def _joined_characters(text: RowText, borders: list[int]) -> tuple[tuple[int, ...], tuple[str, ...]]:
    """Units in which single characters of a script without spaces are joined with the ones after them."""
    rows: list[int] = []
    texts: list[str] = []
    room = 0
    for start, stop in itertools.pairwise(borders):
        own = text.text[text.starts[start] : text.starts[stop] if text.starts[stop] >= 0 else None]
        most = _max_joined(own)
        if room >= 1 and most:
            texts[-1] += own
            room -= 1
        else:
            rows.append(start)
            texts.append(own)
            room = most - 1
    return (*rows, borders[-1]), tuple(texts)


def _max_joined(text: str) -> int:
    """How many characters like this one form a unit: 0 where the text is no such character."""
    characters, phrases = _unspaced()
    if len(text) > 8 or text.isascii():
        return 0
    if characters.fullmatch(text):
        return 2
    return 6 if phrases.fullmatch(text) else 0


@cache
def _unspaced() -> tuple[regex.Pattern[str], regex.Pattern[str]]:
    import regex

    return (
        regex.compile(rf"[{_CHARACTER_SCRIPTS}]\p{{M}}*", regex.VERSION1),
        regex.compile(rf"[{_PHRASE_SCRIPTS}]\X?", regex.VERSION1),
    )


def has_digit(text: str) -> bool:
    """Whether a text has a digit of any script in it."""
    return any(map(str.isdecimal, text))


@lru_cache(4096)
def is_unspaced(character: str) -> bool:
    """Whether a character is of a script that parts no words by spaces.

    >>> is_unspaced("京"), is_unspaced("a")
    (True, False)
    """
    return any(pattern.match(character) is not None for pattern in _unspaced())
