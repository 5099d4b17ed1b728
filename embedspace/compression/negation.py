"""Negations: words that turn a sentence into its opposite, and what they belong to."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from embedspace.compression.text_units import Units

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
    """.split()  # noqa: SIM905
)
_NEGATION_CHARACTERS = frozenset("不没沒無无未非勿别別")
_STEMS = ("않", "아니", "아닙", "아닌", "없", "못하", "değil")
"""Beginnings of words that negate the word before them."""
_POSTPOSED = frozenset("नहीं मत बिना".split())  # noqa: SIM905
"""Words that negate what stands on both sides of them."""
_CLAUSE_ENDS = frozenset(
    ".!?;:,\n|()[]{}\u2026\u3002\uff0c\u3001\uff1b\uff1a\uff01\uff1f\u0964\u061f\u060c\u061b"
)
_MAX_WORDS = 3
"""After a negation, up to and with the first one that is not among the most frequent."""


def is_negation(text: str) -> bool:
    """Whether a unit negates or restricts what is said.

    >>> is_negation(" not"), is_negation("don't"), is_negation("knot")
    (True, True, False)
    """
    word = text.strip().casefold()
    return (
        word in _NEGATIONS
        or word.endswith(("n't", "n\u2019t"))
        or word.startswith(_STEMS)
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
        if not (units.is_word[number] and is_negation(text)):
            continue
        word = text.strip().casefold()
        before_only = word.startswith(_STEMS)
        after = [] if before_only else list(_words_after(ids, units, number))
        first, last = number, after[-1] if after else number
        if before_only or not after or word in _POSTPOSED:
            first = next(_clause(units, range(number - 1, -1, -1)), number)
        for end in (first, last):  # what another negation holds together stays together
            own = found.get(end, (end,))
            first, last = min(first, own[0]), max(last, own[-1])
        span = range(first, last + 1)
        if len(span) > 1:
            found.update(dict.fromkeys(span, span))
    return found


def _words_after(ids: Sequence[int], units: Units, number: int) -> Iterator[int]:
    for count, unit in enumerate(_clause(units, range(number + 1, len(units))), 1):
        yield unit
        rows = range(units.rows[unit], units.rows[unit + 1])
        is_frequent = max(ids[row] for row in rows) < FREQUENT_TOKENS and not is_negation(units.texts[unit])
        if count == _MAX_WORDS or not is_frequent:
            return


def _clause(units: Units, order: Sequence[int]) -> Iterator[int]:
    """The words of one clause, in an order that begins beside the negation."""
    for unit in order:
        if units.is_word[unit]:
            yield unit
        elif not _CLAUSE_ENDS.isdisjoint(units.texts[unit]):
            return
