"""Negations: words that turn a sentence into its opposite, and what they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

from embedspace.compression.text_units import Units, ends_clause, is_limit

FREQUENT_TOKENS = 300
"""The first tokens of a vocabulary, which say nothing of a text's topic."""
_NEGATIONS = frozenset(
    """
    no not none nor never neither nobody nothing nowhere cannot without except unless only
    nicht kein keine keinen keinem keiner keines nie niemals nichts niemand ohne außer nur weder
    pas ne non jamais rien aucun aucune sans sauf ni nunca nada nadie ningún ninguna sin sino excepto não nem sem
    mai niente nessuno senza niet geen nooit zonder не нет ни без никогда никто ничего кроме только nie bez
    नहीं न मत बिना केवल सिर्फ لا لم لن ليس ليست ولا ولم ولن وليس فلا غير بدون إلا 안 못 không chưa ไม่
    inte ingen inget inga aldrig utan ikke aldri uten uden değil hayır
    nesmí není nejsou nelze žádný žádná žádné немає δεν δε μην όχι χωρίς εκτός ei eivät älä ilman paitsi
    না নেই নয় ছাড়া არ არა ვერ tidak bukan jangan tanpa kecuali fără nem ne nincs nincsenek இல்லை లేదు కాదు
    לא אין בלי ללא אל אינו אינה אינם איננו ולא ואין שלא שאין نه نیست بدون نہیں بغیر excluding excludes excluded
    """.split()  # noqa: SIM905
)
_NEGATION_CHARACTERS = frozenset("不没沒無无未非勿别別除")
_PHRASES = ("ไม่", "ห้าม", "อย่า", "มิได้", "ຫ້າມ", "ບໍ່", "មិន", "កុំ")
"""Negations in scripts that part no words."""
_STEMS = ("않", "아니", "아닙", "아닌", "없", "못하", "değil", "除外")
"""Beginnings of words that negate the word before them."""
_AFTER = frozenset("نیست نہیں না নেই নয় இல்லை లేదు కాదు".split())  # noqa: SIM905
"""Words that negate the word before them."""
_BEGINNINGS = (*_STEMS, "نمی", "!")
"""Beginnings of words that are negated, in Korean, Turkish and Persian, and in code: !found."""
_OPERATORS = frozenset("!= !== <> ≠ ~=".split())  # noqa: SIM905
_BOTH_SIDES = frozenset({"नहीं", "मत", "बिना", *_OPERATORS})
"""What negates what stands on both sides of it."""
_BEFORE_SIGN = frozenset("( [ [[ { && || , = if elif while until return and or not".split())  # noqa: SIM905
"""After these an exclamation mark by itself is a negation in code."""
_MAX_WORDS = 4
"""After a negation, up to and with the first one that is not light."""
_LIGHT = frozenset(
    "be been being have has had very yet quite è sono era é est es está ist sind war".split()  # noqa: SIM905
)
"""Words that a negation passes over, beside the most frequent tokens and adverbs in -ly."""
_EXCEPTIONS = ("other than", "rather than")


@lru_cache(8192)
def is_negation(text: str) -> bool:
    """Whether a unit negates or restricts what is said.

    >>> is_negation(" not"), is_negation("don't"), is_negation("knot")
    (True, True, False)
    """
    word = text.strip().casefold()
    return (
        not _NEGATIONS.isdisjoint(word.split())
        or "n't" in word.replace("\u2019", "'")
        or word.startswith(_BEGINNINGS)
        or word in _OPERATORS
        or word.startswith(_EXCEPTIONS)
        or any(phrase in word for phrase in _PHRASES)
        or not _NEGATION_CHARACTERS.isdisjoint(word)
    )


def negated(ids: Sequence[int], units: Units) -> dict[int, range]:
    """For each unit that a negation belongs to, the units that are only kept together, the negation included.

    These are the negation and the words after it, up to the first informative one within the clause; where there are
    none, or in languages whose negations follow, the word before it. A text that lost its "not" would say the opposite.

    >>> units = Units((0, 1, 2, 3, 4, 5), ("Smoking", " is", " not", " allowed", "."))
    >>> negated([900, 20, 30, 800, 5], units)
    {2: range(2, 4), 3: range(2, 4)}
    """
    found: dict[int, range] = {}
    for number, text in enumerate(units.texts):
        word = text.strip().casefold()
        if not (
            is_negation(text) and (units.is_word[number] or word in _OPERATORS or _negates(units, number))
        ):
            continue
        before_only = word.startswith(_STEMS) or word in _AFTER
        after = [] if before_only else list(_words_after(ids, units, number))
        first, last = number, after[-1] if after else number
        if before_only or not after or word in _BOTH_SIDES:
            first = next(_clause(units, range(number - 1, -1, -1)), number)
        for end in (first, last):  # what another negation holds together stays together
            own = found.get(end, (end,))
            first, last = min(first, own[0]), max(last, own[-1])
        span = range(first, last + 1)
        if len(span) > 1:
            found.update(dict.fromkeys(span, span))
    return found


def _negates(units: Units, number: int) -> bool:
    """Whether an exclamation mark by itself is a negation in code, and not the end of a sentence."""
    before = "".join(units.texts[max(0, number - 2) : number]).split()
    return units.texts[number].strip() == "!" and (not before or before[-1] in _BEFORE_SIGN)


def _words_after(ids: Sequence[int], units: Units, number: int) -> Iterator[int]:
    words = _clause(units, range(number + 1, len(units)))
    for _, unit in zip(range(_MAX_WORDS), words, strict=False):
        yield unit
        if not _is_light(ids, units, unit):
            break
    # Not more than two: the limit is what is denied.
    following = next(words, None)
    if following is not None and is_limit(units.texts[following]):
        yield following


def _is_light(ids: Sequence[int], units: Units, unit: int) -> bool:
    word = units.texts[unit].strip().casefold()
    if is_negation(word):
        return False
    rows = range(units.rows[unit], units.rows[unit + 1])
    return word in _LIGHT or word.endswith("ly") or max(ids[row] for row in rows) < FREQUENT_TOKENS


def _clause(units: Units, order: Sequence[int]) -> Iterator[int]:
    """The words of one clause, in an order that begins beside the negation."""
    for unit in order:
        if units.is_word[unit]:
            yield unit
        elif ends_clause(units.texts[unit]):
            return
