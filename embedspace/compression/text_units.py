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
    r"""
    km m cm mm µm nm km² m² cm² m³ cm³ km2 m2 cm2 m3 ha mi ft yd
    kg g mg µg t lb lbs oz l L ml mL dl dL cl h min s ms km/h m/s mph Hz kHz MHz GHz W kW MW GW kWh V kV A mA J kJ kcal
    Pa kPa bar K B kB KB MB GB TB KiB MiB GiB TiB px pt dpi EUR USD GBP CHF JPY INR CNY Kč zł kr грн руб Ft
    am pm AM PM Uhr IU IE EL TL percent Prozent hundred thousand million billion trillion dozen tausend Tausend
    Million(?:en)? Milliarden? mille millions? milliards? mil millón millones milhão milhões тысяч\w*
    миллион\w* миллиард\w* लाख करोड़
    seconds? minutes? hours? days? weeks? months? years? miles? met(?:er|re)s? kilomet(?:er|re)s? degrees?
    Sekunden? Minuten? Stunden? Tag(?:en?)? Wochen? Monat(?:en?)? Jahr(?:en?)? Kilometer Meter Grad
    secondes? heures? jours? semaines? mois ans? années? segundos? minutos? horas? días? dias? semanas?
    mes(?:es)? años? anos?
    """.split()  # noqa: SIM905
)
"""Units and words for large numbers that belong to the number before them."""
_MONTHS = "|".join(
    r"""
    Jan(?:uary|uar)? Feb(?:ruary|ruar)? Mar(?:ch)? März Apr(?:il)? Ma[iy] June? Juni July? Juli Aug(?:ust)?
    Sept?(?:ember)? O[ck]t(?:ober)? Nov(?:ember)? De[cz](?:ember)? janvier février mars avril juin juillet août
    septembre octobre novembre décembre
    enero febrero marzo abril mayo junio julio agosto septiembre octubre noviembre diciembre
    """.split()  # noqa: SIM905
)
_COMPARISONS = """
    more than, less than, fewer than, greater than, higher than, lower than, later than, earlier than, older than,
    younger than, longer than, shorter than, other than, rather than, at least, at most, up to, no longer,
    mehr als, weniger als, nicht mehr, bis zu, plus de, moins de, au moins, au plus, más de, menos de, al menos,
    como máximo, mais de, pelo menos, più di, meno di, mere end, mer än, fler än, meer dan, minder dan,
    не более, не менее, से अधिक, से कम
"""
"""Words that are only understood together, and make a limit of a number after them."""
_LIMITS = "over, under, above, below, within, mindestens, höchstens, über, unter, более, менее, свыше"
"""Words that make a limit of a number after them."""


def _any_of(phrases: str) -> str:
    """A pattern of phrases, each with a small or a capital letter first; several times quicker than ignoring case."""
    known = [phrase.strip() for phrase in phrases.split(",")]
    return "|".join(f"[{each[0].upper()}{each[0]}]{each[1:]}".replace(" ", r"\s") for each in known)


_WHOLE = (
    # Words, with what stands inside of them: don't, e-mail, example.org, x86_64, U.S., soft hyphens and joiners.
    rf"{_WORD}+(?:(?:['\u2019\u02bc\u2010\u2011\-.&@\u00b7\u05f3\u05f4]|{_JOINERS}+){_WORD}+)*{_JOINERS}*",
    # Numbers, times, dates and versions. A list of more than eight numbers without spaces is parted.
    r"(?<!\d)\d++(?:[.,:/\-\u2013\u2212'\u2019_+*\u00d7=^~\u00b7\u066b\u066c\uff0e\uff1a\uff0f\uff0d\u00b1]\d++){1,7}",
    rf"\d[\w^]{{0,8}}{_SPACE}[+\-\u2212\u00d7\u00f7*/=\u00b1]{_SPACE}\d",
    # Days without a year, zones of time, what a test shows, boxes: 24.12.–6.1., UTC−5, HER2 3+, [x] done.
    r"(?<!\d)\d{1,2}\.\d{1,2}\.(?:\s?[\u2013\-]\s?\d{1,2}\.\d{1,2}\.)?",
    r"\b(?:UTC|GMT)[+\-\u2212\u00b1]\d",
    rf"{_WORD}[+\u2212]+(?!\w)|\[[ xX\u2713]\]\s\w",
    # What compares or negates in code: !=, <>, ->, &&, !found, torch==2.1.0.
    r"[<>=!:+\-*/%&|^~]={1,3}|<>|[-=]>|<-|&&|\|\||(?<![\w)\]!?])!+[\w(\[$]",
    r"(?<![\w.\-])[\w.\-]++(?:\[[\w,]{0,40}\])?[=><~!]={1,2}\d[\w.+*\-]*+",
    # Clauses of a text, postcodes, and the amounts of currencies with letters: 7.2(b), NW1 6XE, R$ 430.
    r"\d(?:\([a-z0-9]{1,3}\))+",
    r"\b[A-Z]{1,2}\d[A-Z\d]? \d[A-Z]{2}\b",
    rf"\b(?:R|US|A|C|NZ|HK|S|NT)\$(?:{_SPACE}?\d)?",
    rf"(?:\p{{Sc}}|\b(?:USD|EUR|GBP|CHF|JPY|INR|CNY|Rs\.?)){_SPACE}\d",
    # Limits, dates, and what an amount is measured in: more than 2, 7 August 2024, 0.2 units/kg.
    rf"\b(?:{_any_of(_COMPARISONS)})\b(?:{_SPACE}\p{{Sc}}?\d)?|\b(?:{_any_of(_LIMITS)}){_SPACE}\p{{Sc}}?\d",
    rf"\d(?:st|nd|rd|th|\.)?{_SPACE}(?:de )?(?:{_MONTHS})\b\.?(?:,?{_SPACE}(?:de )?\d{{4}})?",
    rf"\b(?:{_MONTHS})\.?{_SPACE}\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?{_SPACE}\d{{4}})?",
    rf"\d{_SPACE}\p{{L}}+/\p{{L}}+",
    # What stands before and after a number: signs, currencies, units.
    rf"(?<!\w|{_SIGNS}){_SIGNS}++\p{{Sc}}?\d",
    rf"\p{{Sc}}-?\d|\d(?:[%\u2030\u2032\u2033\p{{Sc}}]|\u00b0[CF]?|{_UNSPACED}\p{{M}}*)",
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
    # Paths.
    r"(?<![\w.~\-])(?:[A-Za-z]:)?[\w.~\-]*+(?:[/\\][\w.\-]++){2,}",
)
"""Patterns of what is never parted."""
_WHOLE_WITH = {
    # Characters that JSON and code write as numbers: caf\\u00e9.
    "\\u": rf"{_WORD}?(?:\\u[0-9A-Fa-f]{{4}}{_WORD}*+)+",
    # Powers: x^2, 10^-3, SO4^2-.
    "^": rf"[{_WORD}\)\]]\^(?:[+\-\u2212]?{_WORD}+)?(?:[+\-](?!\w))?",
    # Angles: 20 °C, 2°17'40.2"E.
    "\u00b0": r"\d\u00b0\d+['\u2032](?:\d+(?:\.\d+)?[\"\u2033])?\s?[NSEW]?|\u00b0[CF]\b",
    # Web and mail addresses.
    "://": rf"[A-Za-z][A-Za-z0-9+.\-]{{1,20}}://[^\s<>\"'`)\]}}{_CHARACTER_SCRIPTS}{_PHRASE_SCRIPTS}]+(?<![.,;:!?])",
    "@": r"(?<![\w.+\-])[\w.+\-]++@[\w\-]++(?:\.[\w\-]++)+",
}
"""Patterns of the same for texts that have these characters."""
_WHOLE_BEYOND_ASCII = (
    # Characters with their marks are grapheme clusters (Unicode Standard Annex 29).
    r"\X",
    # What is raised or lowered: Fe³⁺, 10⁻³.
    r"[\p{L}\p{N})\]][⁰¹²³⁴-⁹⁺⁻₀-₉₊₋]+",
    # Burmese: a syllable with the consonant that closes it, and stacked consonants.
    r"\X(?:\p{Myanmar}\p{M}*\u103a\p{M}*)+",
    r"\X?[\u1039\u17d2]\p{L}\p{M}*",
    # Japanese verbs and adjectives that are negated, and negations in Thai, Lao and Khmer.
    r"\p{Han}?\p{Hiragana}{0,6}(?:ません|なかっ|ない|なく|なけ|ずに|禁止)\p{Hiragana}{0,3}",
    r"ไม่|ห้าม|อย่า|มิได้|ຫ້າມ|ບໍ່|មិន|កុំ",
    # A number in Chinese characters.
    r"[零〇一二三四五六七八九十百千万萬亿億兆两兩]{2,}",
)
_CONNECTORS = frozenset(
    "'\u2019\u02bc\u2010\u2011-\u2013\u2212.,:/\\_&@\u00b7\u05f3\u05f4*#%\u2026\u2030\u066b\u066c\uff0e\uff1a\uff0f\uff0d"
)
"""Punctuation that makes one word or number of what stands on both sides of it."""
_CLAUSE_ENDS = frozenset(
    ".!?;:,\n|()[]{}\u2026\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f\u0964\u061f\u060c\u061b"
)


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


def ends_clause(text: str) -> bool:
    """Whether a unit without letters and digits has a sign in it at which a clause ends.

    >>> ends_clause(". "), ends_clause("e.g."), ends_clause("-")
    (True, False, False)
    """
    return not (_CLAUSE_ENDS.isdisjoint(text) or any(map(str.isalnum, text)))


def is_limit(text: str) -> bool:
    """Whether a unit begins with words that make a limit of a number.

    >>> is_limit(" more than 2"), is_limit(" 2 kg")
    (True, False)
    """
    return _limits().match(text) is not None


@cache
def _limits() -> regex.Pattern[str]:
    import regex

    return regex.compile(
        rf"\s*(?:(?:{_any_of(_COMPARISONS)})\b|(?:{_any_of(_LIMITS)})\s.*\d)", regex.VERSION1
    )


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
    for needed, pattern in _patterns(text.isascii()):
        for found in pattern.finditer(text) if needed in text else ():
            start, stop = found.span()
            if stop - start > 1:
                inside[start + 1 : stop] = b"\1" * (stop - start - 1)
    return inside


@cache
def _patterns(is_ascii: bool) -> list[tuple[str, regex.Pattern[str]]]:
    """What a text must have for a pattern to match, and the pattern."""
    import regex

    patterns = (*_WHOLE, r"\r\n") if is_ascii else (*_WHOLE, *_WHOLE_BEYOND_ASCII)
    needed = [*(("", each) for each in patterns), *_WHOLE_WITH.items()]
    return [(characters, regex.compile(each, regex.VERSION1)) for characters, each in needed]


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


@lru_cache(8192)
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
