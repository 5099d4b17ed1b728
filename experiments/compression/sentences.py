"""The honest baseline for a known question: sentences of the text, ranked by BM25 or by sentence vectors, as text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from functools import cache
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from embedspace.compression import sentence_starts
from embedspace.metrics import SentenceSimilarity

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace

Ranking = Literal["bm25", "similarity"]

_K1, _B = 1.5, 0.75
"""Of BM25, as most search engines have them."""


def sentences_of(text: str) -> list[str]:
    """The sentences, lines, statements or entries of a text, white space included: joined they are the text.

    These are the sentences that ``compress`` ranks for a query, so that only the ranking differs.
    """
    return [text[start:stop] for start, stop in pairwise([*sentence_starts(text), len(text)])]


def ranked(sentences: Sequence[str], question: str, by: Ranking) -> list[int]:
    """Numbers of the sentences, the best for the question first; equals in the order of the text."""
    scores = _RANKINGS[by](sentences, question)
    return sorted(range(len(sentences)), key=lambda number: -scores[number])


def bm25(sentences: Sequence[str], question: str) -> list[float]:
    """Relevance of each sentence to a question (Robertson and Zaragoza 2009), the sentences being the collection."""
    terms = [Counter(_terms(sentence)) for sentence in sentences]
    lengths = [max(1, sum(own.values())) for own in terms]
    mean = sum(lengths) / len(lengths)
    scores = [0.0] * len(sentences)
    for term in _terms(question):
        having = sum(term in own for own in terms)
        rarity = math.log(1 + (len(terms) - having + 0.5) / (having + 0.5))
        for number, own in enumerate(terms):
            norm = _K1 * (1 - _B + _B * lengths[number] / mean)
            scores[number] += rarity * own[term] * (_K1 + 1) / (own[term] + norm)
    return scores


def _terms(text: str) -> list[str]:
    """Words and numbers in lower case; of a script without spaces, its characters and pairs of neighbours."""
    import regex

    found: list[str] = []
    for word in regex.findall(r"[\p{L}\p{M}\p{N}]+", text.lower()):
        if regex.search(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Khmer}\p{Lao}\p{Myanmar}]", word):
            found += [*word, *map("".join, pairwise(word))]
        else:
            found.append(word)
    return found


def _similarity(sentences: Sequence[str], question: str) -> list[float]:
    return _encoder().cosines(sentences, [question] * len(sentences))


@cache
def _encoder() -> SentenceSimilarity:
    """Keeps the vectors of what it has seen: a passage is shortened to several lengths."""
    return SentenceSimilarity()


_RANKINGS: dict[Ranking, Callable[[Sequence[str], str], list[float]]] = {
    "bm25": bm25,
    "similarity": _similarity,
}


def cut(space: EmbeddingSpace, sentences: Sequence[str], order: Sequence[int], length: int) -> str:
    """Sentences in rank order until ``length`` tokens are full, the last one cut at a token, put back in text order."""
    kept: dict[int, str] = {}
    for number in order:
        whole = _joined({**kept, number: sentences[number]})
        if len(space.tokenize(whole)) <= length:
            kept[number] = sentences[number]
            continue
        ids = space.tokenize(sentences[number])
        room = length - (len(space.tokenize(_joined(kept))) if kept else 0)
        for size in range(min(room, len(ids)), 0, -1):
            part = space.tokenizer.decode(ids[:size]).rstrip("\ufffd")
            if any(other > number for other in kept) and not part[-1:].isspace():
                part += " "
            if part.strip() and len(space.tokenize(_joined({**kept, number: part}))) <= length:
                kept[number] = part
                break
        break
    return _joined(kept)


def _joined(kept: dict[int, str]) -> str:
    return "".join(kept[number] for number in sorted(kept))
