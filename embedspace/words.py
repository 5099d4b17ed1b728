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
_LONGEST_WORD = 8
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
    they count as rarer than their number says. Punctuation counts as nothing.
    """
    highest = math.log(space.vocab_size)
    return torch.tensor(
        [_told(token, text.strip(), highest) for token, text in zip(ids, texts, strict=True)],
        dtype=torch.float64,
    )


def _told(token: int, text: str, highest: float) -> float:
    if text.isdigit():
        return highest + _DIGIT_BONUS
    if not any(character.isalnum() or character == _PART for character in text):
        return 0.0
    return math.log(token + 1) + (_CAPITAL_BONUS if text[0].isupper() else 0.0)


def word_numbers(texts: Sequence[str]) -> list[int]:
    """Number of the word that each token belongs to.

    A word goes on while letters or digits follow each other without a space. Scripts that write none
    make every token a word, and no word has more than eight tokens.
    """
    numbers: list[int] = []
    size, before = 0, ""
    for text in texts:
        joined = bool(numbers) and size < _LONGEST_WORD and _joins(before[-1:]) and _joins(text[:1])
        size = size + 1 if joined else 1
        numbers.append((numbers[-1] if numbers else -1) + (not joined))
        before = text
    return numbers


def _joins(character: str) -> bool:
    if character == _PART:
        return True
    return character.isalnum() and unicodedata.east_asian_width(character) not in ("W", "F")
