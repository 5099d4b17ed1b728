"""How much of a text an attacker recovers from its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.metrics import Interval, mean_interval
from embedspace.space import token_ids, token_texts
from experiments.leakage.readers import Reading


@dataclass(frozen=True)
class Leak:
    """What one attacker recovers after one transform."""

    transform: str
    attacker: str
    found: Interval
    """Share of a text's distinct tokens, without regard to case and spaces, that were recovered."""
    chance: Interval
    """The same share for the tokens of another text."""
    in_place: Interval | None
    """Share of rows read as their original token; None if rows no longer correspond to single tokens."""

    @classmethod
    def measure(
        cls,
        space: EmbeddingSpace,
        transform: str,
        attacker: str,
        originals: Sequence[PromptEmbeds],
        readings: Sequence[Reading],
        *,
        offset: int = 1,
    ) -> Self:
        """The shares over all texts, with bootstrap intervals; the other text is ``offset`` places further."""
        truths = [token_ids(space, prompt.vectors).tolist() for prompt in originals]
        words = [_spellings(space, ids) for ids in truths]
        read = [_spellings(space, [token for row in reading for token in row]) for reading in readings]
        others = [*words[offset:], *words[:offset]]
        pairs = list(zip(truths, readings, strict=True))
        in_place = None
        if all(len(t) == len(r) and all(len(row) == 1 for row in r) for t, r in pairs):
            in_place = mean_interval(
                [sum(token == row[0] for token, row in zip(t, r, strict=True)) / len(t) for t, r in pairs]
            )
        return cls(transform, attacker, _recovered(words, read), _recovered(others, read), in_place)


def _recovered(words: Sequence[set[str]], read: Sequence[set[str]]) -> Interval:
    return mean_interval([len(own & seen) / len(own) for own, seen in zip(words, read, strict=True)])


def _spellings(space: EmbeddingSpace, ids: Sequence[int]) -> set[str]:
    """Distinct tokens with a letter or digit in them."""
    spelt = {text.strip().lower() for text in token_texts(space, ids)}
    return {text for text in spelt if any(map(str.isalnum, text))}
