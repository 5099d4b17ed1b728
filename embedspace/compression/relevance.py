"""Relevance of a passage's sentences to a question, from the rows of both and without a model."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedspace.compression.negation import FREQUENT_TOKENS
from embedspace.compression.text_units import Units, has_digit, is_unspaced

if TYPE_CHECKING:
    import regex
    from jaxtyping import Float
    from torch import Tensor

_ABBREVIATIONS = r"\b(?:Mrs?|Ms|Dr|Prof|St|No|Nr|vs|etc|ca|cf|bzw|Jr|Sr|Inc|Ltd|[A-Za-z])\."
_SENTENCE_END = (
    rf"(?<=[.!?\u2026][\"'\u201d\u2019)\]]*)(?<!{_ABBREVIATIONS})\s+(?=\S)",
    r"(?<=[\u3002\uff01\uff1f\uff1b\u0964\u06d4\u061f])",
    r"\n+(?=[^\n])",
    r"(?<=[;{}])\s*(?=\S)",
    r"(?<=[\]}\"\d]),\s*(?=[\"{\[])",
)
"""After sentences, lines, statements of code and entries of JSON."""
_MIN_WRAP, _MAX_WRAP = 40, 100
"""Length of the lines of a text whose sentences are broken over lines."""


def sentence_starts(text: str) -> list[int]:
    """Number of the first character of each sentence, line, statement or entry.

    >>> sentence_starts("It opens at nine. Tickets cost 14 euros.")
    [0, 18]
    """
    wrapped = _is_wrapped(text)
    starts = [0]
    for match in _sentence_end().finditer(text):
        if wrapped and match[0] == "\n":
            continue
        if match.end() > starts[-1] and match.end() < len(text):
            starts.append(match.end())
    return starts


@cache
def _sentence_end() -> regex.Pattern[str]:
    import regex

    return regex.compile("|".join(_SENTENCE_END))


def _is_wrapped(text: str) -> bool:
    """Whether most line breaks of a text stand inside of sentences."""
    lines = [line for line in text.splitlines() if line.strip()]
    inner = lines[:-1]
    if len(inner) < 2:
        return False
    broken = sum(
        _MIN_WRAP <= len(line) <= _MAX_WRAP and line.rstrip()[-1] not in ".!?:;|}>" for line in inner
    )
    lower = sum(line[:1].islower() for line in lines[1:])
    return broken >= 0.6 * len(inner) and lower >= 0.3 * len(inner)


_IDENTIFIER = re.compile(r"[^\W_]+")
"""A part of a name in code, of an address or of a compound with hyphens."""
_QUOTES = tuple("`\"'\u201c\u201e\u2018\u00ab\u300c")
_MAX_QUERY_TERMS = 64
_MIN_NGRAM_WORD = 5
_ENDINGS = ("s", "es", "e", "n", "en", "er", "ed", "d", "'s", "\u2019s")
_MIN_STEM = 3
_INFLECTED = 0.8
# Chosen on development passages.
_COSINE_FLOOR = 0.4
_SYNONYM = 0.4
_MIN_MATCH = 0.2
_CARRY = 0.1
_MIN_SHARE = 0.1
_SENTENCE_WEIGHT = 2.0
"""Of the cosine of sentence vectors, beside the words of the sentence that fits best by words."""

Cosines = Callable[[Sequence[str]], "Float[np.ndarray, ' sentences'] | None"]
"""Similarity of sentences to the question, or None where they are compared by their words alone."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What is compared of a text: its words, and pairs of characters where a script has no spaces."""

    texts: tuple[str, ...]
    """Distinct, without regard to case."""
    directions: Float[Tensor, "terms hidden"]
    """Centred row of a word of one token, of length 1; zero for other terms."""
    weights: Float[np.ndarray, " terms"]
    """In [0, 1]: low for the most frequent words of the vocabulary."""
    units: tuple[int, ...]
    """For each occurrence in the text the number of its unit, in order."""
    places: tuple[int, ...]
    """For each occurrence the number of its term."""

    @classmethod
    def of(
        cls,
        units: Units,
        ids: Sequence[int],
        rows: Float[Tensor, "rows hidden"],
        mean: Float[Tensor, " hidden"],
        vocabulary: int,
    ) -> Terms:
        """The terms of a text in units with its tokens and rows."""
        numbers: dict[str, int] = {}
        found_units, places, weights = [], [], []
        single: dict[int, int] = {}
        for unit, term in _occurrences(units):
            if term not in numbers:
                numbers[term] = len(numbers)
                own = range(units.rows[unit], units.rows[unit + 1])
                is_word = not is_unspaced(term[0])
                if is_word and len(own) == 1:
                    single[numbers[term]] = own.start
                named = unit > 0 and units.texts[unit - 1][-1:] in _QUOTES
                weights.append(
                    1.0 if named or not is_word else _word_weight([ids[row] for row in own], vocabulary)
                )
            found_units.append(unit)
            places.append(numbers[term])
        directions = torch.zeros(len(numbers), rows.shape[1])
        picked = rows[list(single.values())].detach().cpu().float() - mean
        directions[list(single)] = torch.nn.functional.normalize(picked, dim=1)
        return cls(
            tuple(numbers),
            directions,
            np.array(weights),
            tuple(found_units),
            tuple(places),
        )


def _occurrences(units: Units) -> Iterator[tuple[int, str]]:
    """Each unit that is a word with its normal form, and each pair of characters that follow each other."""
    before = ""
    for unit, text in enumerate(units.texts):
        plain = unicodedata.normalize("NFKC", text).casefold()
        if any(map(is_unspaced, plain.strip()[:1])):
            for character in plain:
                if not is_unspaced(character):
                    before = ""
                    continue
                if before:
                    yield unit, before + character
                before = character
            continue
        before = ""
        if word := plain.strip("".join({character for character in plain if not character.isalnum()})):
            yield unit, word
            parts = [part for part in _IDENTIFIER.findall(word) if part != word]
            for part in parts if len(parts) > 1 else ():
                yield unit, part


def _word_weight(ids: Sequence[int], vocabulary: int) -> float:
    floor = math.log(FREQUENT_TOKENS)
    rank = max(math.log(token + 1) for token in ids)
    return min(1.0, max(0.05, (rank - floor) / (math.log(vocabulary) - floor)) + 0.2 * (len(ids) - 1))


@dataclass(frozen=True, eq=False)
class Relevance:
    """How well each sentence of a passage fits a question."""

    sentences: tuple[int, ...]
    """For each unit the number of its sentence."""
    scores: Float[np.ndarray, " sentences"]
    """Higher fits better; not comparable across passages."""
    asked: Float[np.ndarray, " units"]
    """In [0, 1]: how much of each unit stands in the question."""
    is_match: bool
    """Whether anything informative of the question stands in the passage."""

    @classmethod
    def of(cls, passage: Terms, query: Terms, units: Units, cosines: Cosines = lambda _: None) -> Relevance:
        """Relevance of a passage to a query.

        Every term of the query counts with its best match in a sentence, by its weight in the vocabulary and its
        inverse sentence frequency in the passage, as in BM25 (Robertson and Zaragoza 2009) with soft matches. A term
        matches by its text, by character trigrams (inflected words), or by the centred cosine of its rows. Where there
        are sentence vectors, their cosine is added.
        """
        sentences = _sentence_numbers(units)
        scores, asked, is_match = _by_words(passage, query, sentences)
        texts = _sentence_texts(units, sentences)
        similar = cosines(texts)
        if similar is not None:
            scores = scores / max(scores.max(), 1e-12) + _SENTENCE_WEIGHT * np.clip(similar, 0, None)
            is_match = bool(scores.max() > 0)
        return cls(sentences, _answers_first(scores, texts), asked, is_match)

    def order(self) -> list[int]:
        """Sentences that fit the question, the best first."""
        least = _MIN_SHARE * self.scores.max()
        return [
            int(sentence)
            for sentence in np.argsort(-self.scores, kind="stable")
            if self.scores[sentence] >= least
        ]


def _by_words(
    passage: Terms, query: Terms, sentences: Sequence[int]
) -> tuple[Float[np.ndarray, " sentences"], Float[np.ndarray, " units"], bool]:
    """Score of each sentence, how much of each unit is asked for, and whether anything informative matches."""
    count = sentences[-1] + 1
    asked = np.zeros(len(sentences))
    if not passage.texts or not query.texts:
        return np.zeros(count), asked, False
    chosen = np.argsort(-query.weights, kind="stable")[:_MAX_QUERY_TERMS]
    weights = query.weights[chosen]
    matches = _matches(query, chosen, passage)
    places, own = np.array(passage.places), np.array(passage.units)
    best = np.zeros((len(chosen), count))
    np.maximum.at(best.T, np.array(sentences)[own], matches[:, places].T)
    frequency = best.sum(axis=1)
    rarity = np.log1p((count - frequency + 0.5) / (frequency + 0.5))
    scores = (weights * rarity) @ best
    # What a sentence is about often stands in the ones before it.
    carried = 0.0
    for sentence in range(count):
        carried, scores[sentence] = _CARRY * (carried + scores[sentence]), scores[sentence] + carried
    np.maximum.at(
        asked, own, (np.minimum(1, 2 * weights)[:, None] * matches[:, places]).max(axis=0, initial=0.0)
    )
    return scores, asked, bool((weights * matches.max(axis=1)).max() >= _MIN_MATCH)


def _answers_first(
    scores: Float[np.ndarray, " sentences"], texts: Sequence[str]
) -> Float[np.ndarray, " sentences"]:
    """The scores; where a question in the passage fits better than the sentence after it, which answers it, the two
    change places."""
    found = scores.copy()
    for at, (text, after) in enumerate(itertools.pairwise(texts)):
        if _is_question(text) and not _is_question(after) and found[at] > found[at + 1]:
            found[at], found[at + 1] = found[at + 1], found[at]
    return found


def _is_question(text: str) -> bool:
    return text.rstrip(" \t\n\"'\u201d\u00bb)").endswith(("?", "\uff1f", "\u061f"))


def _sentence_texts(units: Units, sentences: Sequence[int]) -> list[str]:
    texts = [""] * (sentences[-1] + 1)
    for text, sentence in zip(units.texts, sentences, strict=True):
        texts[sentence] += text
    return texts


def _sentence_numbers(units: Units) -> tuple[int, ...]:
    starts, numbers, place, sentence = sentence_starts(units.text), [], 0, 0
    for own in units.texts:
        first = place + len(own) - len(own.lstrip())
        while sentence + 1 < len(starts) and starts[sentence + 1] <= first and first < place + len(own):
            sentence += 1
        numbers.append(sentence)
        place += len(own)
    # Numbers without gaps, should a sentence begin inside of a unit.
    known = {number: at for at, number in enumerate(dict.fromkeys(numbers))}
    return tuple(known[number] for number in numbers)


def _matches(query: Terms, chosen: np.ndarray, passage: Terms) -> np.ndarray:
    """Similarity in [0, 1] of each chosen term of the query to each term of the passage."""
    asked = [query.texts[term] for term in chosen]
    cosines = (query.directions[torch.from_numpy(chosen)] @ passage.directions.T).numpy()
    found = _SYNONYM * np.clip((cosines - _COSINE_FLOOR) / (1 - _COSINE_FLOOR), 0, 1)
    found = np.maximum(found, _trigram_overlap(asked, passage.texts))
    numbers = {text: at for at, text in enumerate(passage.texts)}
    for row, text in enumerate(asked):
        if has_digit(text):
            found[row] = 0  # a number matches itself alone
        else:
            for form in _inflected(text):
                if form in numbers:
                    found[row, numbers[form]] = max(found[row, numbers[form]], _INFLECTED)
        if text in numbers:
            found[row, numbers[text]] = 1
    return np.asarray(found)


def _inflected(word: str) -> Iterator[str]:
    """Forms of a word that is too short for trigrams: with another ending, or without its own."""
    if _MIN_STEM <= len(word) < _MIN_NGRAM_WORD + 2:
        yield from (word + ending for ending in _ENDINGS)
        yield from (
            word[: -len(ending)]
            for ending in _ENDINGS
            if word.endswith(ending) and len(word) - len(ending) >= _MIN_STEM
        )


def _trigram_overlap(asked: Sequence[str], texts: Sequence[str]) -> np.ndarray:
    """Dice's coefficient of the character trigrams of words, where it is at least a half."""
    own, theirs = [_trigrams(text) for text in asked], [_trigrams(text) for text in texts]
    columns = {gram: column for column, gram in enumerate(set().union(*own))}
    sizes = [np.array([[len(grams)] for grams in words]) for words in (own, theirs)]
    shared = _incidence(own, columns) @ _incidence(theirs, columns).T
    dice = 2 * shared / np.maximum(sizes[0] + sizes[1].T, 1)
    return np.where(dice >= 0.5, dice, 0.0)


def _incidence(words: Sequence[set[str]], columns: Mapping[str, int]) -> np.ndarray:
    """Which trigram, by its column, each word has."""
    found = np.zeros((len(words), len(columns)), dtype=np.float32)
    for row, grams in enumerate(words):
        found[row, [columns[gram] for gram in grams & columns.keys()]] = 1
    return found


def _trigrams(text: str) -> set[str]:
    if len(text) < _MIN_NGRAM_WORD:
        return set()
    return {text[place : place + 3] for place in range(len(text) - 2)}
