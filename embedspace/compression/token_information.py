"""Words of tokens: which tokens belong together, and how rare each is, told by the vocabulary alone."""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

# Chosen on made-up passages of facts, with the words' information judged by how much recall survived.
_DIGIT_BONUS = 1.2
_CAPITAL_BONUS = 2.0
_LONGEST_WORD = 12
# Chosen on development documents of a knowledge base: what leads to a number is what the number is found by, and the
# commonest tokens say nothing of what a text is about.
_LEAD = 0.99
_COMMONEST = 300
_BETWEEN_DIGITS, _BEFORE_DIGITS, _AFTER_DIGITS = set(".,:/-"), set("$€£¥#"), set("%°")
# What a token that holds a part of a character only is decoded to.
_PART = "\N{REPLACEMENT CHARACTER}"


def token_texts(space: EmbeddingSpace, ids: Sequence[int]) -> list[str]:
    """Text of each token as it stands within a text, a space before it included."""
    # A first token may lose its space when it is decoded alone: each is read behind another one.
    anchor = space.tokenize("a")
    before = len(space.tokenizer.decode(anchor))
    known = {token: space.tokenizer.decode([*anchor, token])[before:] for token in set(ids)}
    return [known[token] for token in ids]


def rarity(space: EmbeddingSpace, ids: Sequence[int], texts: Sequence[str]) -> Float[Tensor, " tokens"]:
    """How much each token tells by itself, in nats of a Zipf distribution over the vocabulary's order.

    Byte-pair vocabularies list frequent tokens first, so the logarithm of a token's number stands for the
    information in it. Digits are single tokens early in the list and carry facts, as capitalised words do:
    they count as rarer than their number says, and so do the signs that belong to a number (``$1,250.50``,
    ``3%``). Other punctuation counts as nothing.

    A number that stands alone says nothing of what it is the number of, and a model finds it by the words
    before it: a word counts at least as much as a number after it, 1% less for every word further away.
    """
    number = math.log(space.vocab_size) + _DIGIT_BONUS
    told, lead = [0.0] * len(ids), 0.0
    words, numbers = word_numbers(texts), number_parts(texts)
    for place in reversed(range(len(ids))):
        if place + 1 < len(ids) and words[place] != words[place + 1]:
            lead *= _LEAD
        if numbers[place]:
            lead = number
        told[place] = max(lead, _told(ids[place], texts[place].strip()))
    return torch.tensor(told, dtype=torch.float64)


def telling(ids: Sequence[int], texts: Sequence[str]) -> list[bool]:
    """Whether each token is a part of a number, or letters that are none of the vocabulary's 300 commonest tokens."""
    return [
        number or _told(token, text.strip()) > math.log(_COMMONEST)
        for token, text, number in zip(ids, texts, number_parts(texts), strict=True)
    ]


def number_parts(texts: Sequence[str]) -> list[bool]:
    """Whether each token is a part of a number: digits, signs between digits, a currency before, a unit after."""
    digits = [text.strip().isdigit() for text in texts]
    parts = list(digits)
    for place, text in enumerate(texts):
        # White space parts a number from a sign, except in the first token of the two.
        before = place > 0 and digits[place - 1] and not text[:1].isspace()
        after = place + 1 < len(texts) and digits[place + 1] and not texts[place + 1][:1].isspace()
        sign = text.strip()
        if sign in _BETWEEN_DIGITS:
            parts[place] = before and after
        elif sign in _BEFORE_DIGITS:
            parts[place] = after
        elif sign[:1] in _AFTER_DIGITS:
            parts[place] = before
    return parts


def _told(token: int, text: str) -> float:
    if not any(character.isalnum() or character == _PART for character in text):
        return 0.0
    return math.log(token + 1) + (_CAPITAL_BONUS if text[0].isupper() else 0.0)


def word_numbers(texts: Sequence[str]) -> list[int]:
    """Number of the word that each token belongs to.

    A word goes on while letters or digits, or the parts of a number, follow each other without a space.
    Scripts that write none make every token a word, and no word has more than twelve tokens.
    """
    numbers: list[int] = []
    size, before, was_number = 0, "", False
    for text, is_number in zip(texts, number_parts(texts), strict=True):
        follows = (was_number and is_number and not text[:1].isspace()) or (
            _joins(before[-1:]) and _joins(text[:1])
        )
        joined = bool(numbers) and size < _LONGEST_WORD and follows
        size = size + 1 if joined else 1
        numbers.append((numbers[-1] if numbers else -1) + (not joined))
        before, was_number = text, is_number
    return numbers


def _joins(character: str) -> bool:
    if character == _PART:
        return True
    return character.isalnum() and unicodedata.east_asian_width(character) not in ("W", "F")
