"""Letters as they are read: styles, look-alikes, marks laid over letters and invisible characters undone."""

from __future__ import annotations

import unicodedata
from functools import cache

import regex

from embedspace._util.package_files import package_text
from embedspace.safety.canonical.plausibility import TEXT_COST, bits_per_letter, restore_spaces

# A joiner between letters of Arabic, of the Indic scripts, and of their neighbours decides how a word is written.
_INVISIBLE = regex.compile(
    r"[\p{Cf}\p{Cc}\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\uffa0\ufe00-\ufe0f\U000e0000-\U000e01ef"
    r"--\u200c\u200d\t-\r]+|(?<![\u0600-\u08ff\u0900-\u0dff\u1000-\u109f\u1780-\u18af])[\u200c\u200d]+",
    regex.VERSION1,
)
_MARKS = regex.compile(
    r"[\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+|(?<=[A-Za-z])\p{M}+"
)
_ORTHOGRAPHIC_MARKS = frozenset("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0323\u0325\u0327"
                                "\u0328\u0329\u032d\u0331")  # fmt: skip
"""Marks that languages write over a letter for which there is no character with that mark."""
_DENSE_MARKS = 0.25
"""Marks that do not combine, for each letter, from which on they are a disguise."""
_FLAGS = regex.compile("[\U0001f1e6-\U0001f1ff]")
_WORD = regex.compile(r"[\p{L}\p{N}]{2,}")
_SENTENCE = regex.compile(r"[^.!?\n]+")
_LATIN = regex.compile(r"\p{Latin}")
_SWITCHES = regex.compile(r"(?<=\p{Latin})(?=\p{L})(?!\p{Latin})|(?<=(?!\p{Latin})\p{L})(?=\p{Latin})")
_TURKISH = frozenset("ğşçöüİ")


def plain_letters(text: str) -> str:
    """A text with Latin letters of other styles, marks and invisible characters undone, and look-alike letters of other
    scripts replaced in words that mix scripts. What a script needs for its own words stays.

    >>> plain_letters("ɪɢɴᴏʀᴇ а\u0336ll ＲＵＬＥＳ"), plain_letters("Не говори ему")
    ('ignore all RULES', 'Не говори ему')
    """
    if text.isascii():
        return text if text.isprintable() else _INVISIBLE.sub("", text)
    styles, lookalikes = _tables()
    text = _spelled_flags(_INVISIBLE.sub("", text))
    text = _without_marks(unicodedata.normalize("NFKC", text.translate(styles)))
    if "ı" in text and not _TURKISH & set(text):
        text = text.replace("ı", "i")
    return _without_lookalikes(text, lookalikes)


def skeleton(text: str) -> str:
    """A text with every look-alike letter replaced, whatever stands around it.

    >>> skeleton("ꓲꓖꓠꓳꓣꓰ")
    'lgnore'
    """
    return text.translate(_tables()[1])


def without_accents(text: str) -> str:
    """A text without the accents of its letters.

    >>> without_accents("ïgnörë")
    'ignore'
    """
    return "".join(part for part in unicodedata.normalize("NFD", text) if not unicodedata.combining(part))


@cache
def _tables() -> tuple[dict[int, str], dict[int, str]]:
    """Styles of Latin letters, and look-alikes in other scripts, by character."""
    _, styles, lookalikes = (
        {ord(letter): line.split("\t")[0] for line in part.splitlines() for letter in line.partition("\t")[2]}
        for part in package_text("embedspace.safety.canonical", "tables/confusables.txt").split("\n\n")
    )
    # Regional indicators make flags, so they are read as letters only in a row.
    flags = range(0x1F1E6, 0x1F200)
    return {number: letter for number, letter in styles.items() if number not in flags}, lookalikes


def _spelled_flags(text: str) -> str:
    """With the letters that make flags read as letters, if they read as words."""
    letters = "".join(map(_flag_letter, _FLAGS.findall(text)))
    if len(letters) < 6 or bits_per_letter(restore_spaces(letters)) > TEXT_COST:
        return text
    return str(_FLAGS.sub(lambda found: _flag_letter(found[0]), text))


def _flag_letter(sign: str) -> str:
    return chr(ord(sign) - 0x1F1E6 + ord("a"))


def _without_marks(text: str) -> str:
    """Without marks that no language writes over a letter; what Unicode combines with its letter is one already."""
    return _SENTENCE.sub(_with_few_marks, text) if _MARKS.search(text) else text


def _with_few_marks(found: regex.Match[str]) -> str:
    text = found[0]
    runs = _MARKS.findall(text)
    if sum(map(len, runs)) > _DENSE_MARKS * sum(map(str.isalpha, text)):
        text = "".join(without_accents(part) if _LATIN.match(part) else part for part in text)
        return str(_MARKS.sub("", text))
    return str(_MARKS.sub(lambda run: run[0] if run[0] in _ORTHOGRAPHIC_MARKS else "", text))


def _without_lookalikes(text: str, lookalikes: dict[int, str]) -> str:
    if not any(ord(letter) in lookalikes for letter in text if letter > "\x7f"):
        return text
    is_latin = _is_latin(text)

    def mixed(found: regex.Match[str]) -> str:
        word = found[0]
        if word.isascii() or not _LATIN.search(word):
            return str(word)
        # One change of script is an ending or a prefix in a text of another script; disguises change it again.
        if not is_latin and len(_SWITCHES.findall(word)) < 2:
            return str(word)
        return str(word.translate(lookalikes))

    def whole(found: regex.Match[str]) -> str:
        word: str = found[0]
        replaced = word.translate(lookalikes) if not word.isascii() else word
        return replaced if replaced.isascii() and replaced.isalpha() else word

    text = _WORD.sub(mixed, text)
    return _WORD.sub(whole, text) if is_latin or _is_latin(text) else text


def _is_latin(text: str) -> bool:
    """Whether at least two in three letters of a text are Latin."""
    letters = sum(map(str.isalpha, text))
    return 3 * len(_LATIN.findall(text)) >= 2 * letters
