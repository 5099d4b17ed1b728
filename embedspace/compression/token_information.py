"""Token information: how informative each token is, by the vocabulary's order or a model, and the words they form."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from embedspace.compression.negation import FREQUENT_TOKENS, is_negation
from embedspace.compression.text_units import Units, has_digit

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

# Chosen on synthetic passages of facts, by the share of facts that a model recalls after compression.
_DIGIT_BONUS = 1.2
_CAPITAL_BONUS = 2.0
# Chosen on development documents of a knowledge base: a model finds a number by the words that lead to it.
_LEAD_DECAY = 0.99
_NUMERIC_SHARE = 0.05
_NUMERIC_OPENING = 0.3
"""Of the kept rows, for the beginning of a text in which more than this share of the informative units are numbers."""
_NEGATED_SHARE = 0.06


def token_information(space: EmbeddingSpace, ids: Sequence[int], units: Units) -> Float[Tensor, " tokens"]:
    """Information of each token by itself, in nats of a Zipf distribution over the vocabulary's order.

    Byte-pair vocabularies list frequent tokens first, so the information of a token is about the logarithm of its id.
    Digits and capitalised words carry facts but have low ids: they get a bonus. Punctuation has none.

    Negations count as much as a number. A model finds a number by the words before it: a word counts at least as much
    as a number after it, less 1% for every word in between.
    """
    number = math.log(space.vocab_size) + _DIGIT_BONUS
    found, lead = [0.0] * len(ids), 0.0
    for unit in reversed(range(len(units))):
        text = units.texts[unit].strip()
        if not units.is_word[unit]:
            continue
        rows = range(units.rows[unit], units.rows[unit + 1])
        if has_digit(text):
            lead = number
        least = number if is_negation(text) else lead
        bonus = _CAPITAL_BONUS if text[0].isupper() else 0.0
        for row in rows:
            found[row] = max(least, math.log(ids[row] + 1) + bonus)
        lead *= _LEAD_DECAY
    return torch.tensor(found, dtype=torch.float64)


def is_informative(ids: Sequence[int], units: Units) -> list[bool]:
    """Whether each unit is a number, a negation, or a word with a token outside the vocabulary's 300 most frequent.

    In a text of rules, where more than 6% of these are negations, every unit is: a rule is only understood whole.
    """
    found = _rare_units(ids, units)
    negations = sum(is_negation(text) for text, kept in zip(units.texts, found, strict=True) if kept)
    return [True] * len(units) if negations > _NEGATED_SHARE * sum(found) else found


def _rare_units(ids: Sequence[int], units: Units) -> list[bool]:
    return [
        units.is_word[unit]
        and (
            has_digit(text)
            or is_negation(text)
            or max(ids[units.rows[unit] : units.rows[unit + 1]], default=0) >= FREQUENT_TOKENS
        )
        for unit, text in enumerate(units.texts)
    ]


def opening_share(ids: Sequence[int], units: Units) -> float:
    """Share of the kept rows for the beginning of a text, by what it looks like.

    A text begins with its topic, and facts that are words are recalled from whole phrases: all rows go to the first
    informative words. Numbers are recalled from few words each: where there are many, most rows go to them.
    """
    informative = _rare_units(ids, units)
    numbers = sum(has_digit(text) for text, kept in zip(units.texts, informative, strict=True) if kept)
    return _NUMERIC_OPENING if numbers > _NUMERIC_SHARE * sum(informative) else 1.0
