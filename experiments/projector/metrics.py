"""What is measured of soft tokens: likelihoods under every condition, retrieval, and the answers' words."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, share_interval
from embedspace.projector import CONDITIONS, ConditionScores
from embedspace.runs import Record

NOTHING, SHUFFLED, OWN, MEAN, TEXT = CONDITIONS
SEARCH = "search"
"""Condition of the cases that look for a sentence among others."""
ANY = ""
"""Projector of conditions that need none."""
SENTENCE = "sentence"
"""Name of the continuation that is the sentence itself."""
_WORD = re.compile(r"[a-z]{4,}")


@dataclass(frozen=True)
class Trained:
    """What a projector is, for the curves."""

    head: str
    tokens: int
    examples: int
    """Sentences that it was trained on; 0 where its card does not say."""

    @classmethod
    def of(cls, record: Record) -> Trained:
        """From a record's tags."""
        return cls(str(record.tags["head"]), int(record.tags["tokens"]), int(record.tags["examples"]))


def scores_of(nll: Measure, kind: str, projector: str, *, most: int | None = None) -> ConditionScores | None:
    """One projector's scores on the sentences measured under all its conditions; None where there are none."""
    return condition_scores(
        nll,
        {condition: place_of(kind, projector, condition) for condition in (NOTHING, SHUFFLED, OWN, TEXT)},
        most=most,
    )


def condition_scores(
    nll: Measure, places: Mapping[str, Condition], *, most: int | None = None
) -> ConditionScores | None:
    """Scores by condition, from negative log-likelihoods in nats per token.

    Args:
        nll: by condition and item.
        places: condition -> the measure's name of it.
        most: only items below this number count.
    """
    found = {condition: nll.values.get(place, {}) for condition, place in places.items()}
    shared = sorted(set.intersection(*(set(values) for values in found.values())))
    shared = [item for item in shared if most is None or item < most]
    if len(shared) < 2:
        return None
    return ConditionScores(
        {condition: tuple(values[item] for item in shared) for condition, values in found.items()}
    )


def shared_words(written: str, sentence: str) -> float | None:
    """Share of a sentence's words of four or more letters that stand in a text; None where it has none."""
    wanted = set(_WORD.findall(sentence.lower()))
    return len(wanted & set(_WORD.findall(written.lower()))) / len(wanted) if wanted else None


def place_of(kind: str, projector: str, condition: str) -> Condition:
    """The condition of a measure; nothing and the text belong to no projector."""
    return kind, ANY if condition in (NOTHING, TEXT) else projector, condition


def recorded_at(record: Record) -> Condition:
    """The condition of a record."""
    return str(record.tags["kind"]), str(record.tags["projector"]), str(record.tags["condition"])


def sentence_nll(records: Sequence[Record]) -> Measure:
    """Negative log-likelihood of each sentence, nats per token, by (kind, projector, condition)."""
    return Measure.of(
        (recorded_at(record), int(record.tags["sentence"]), -record.scores[SENTENCE].per_token)
        for record in records
        if SENTENCE in record.scores
    )


def retrieval(nll: Measure, kind: str, records: Sequence[Record]) -> dict[str, Interval]:
    """Share of sentences that are the likeliest after their own soft tokens, or gain most over nothing."""
    before = nll.values.get(place_of(kind, ANY, NOTHING), {})
    hits: dict[str, list[bool]] = {"by likelihood": [], "by gain over nothing": []}
    for record in records:
        if record.tags["condition"] != SEARCH or not record.scores:
            continue
        likely = {int(number): score.per_token for number, score in record.scores.items()}
        gains = {number: value + before[number] for number, value in likely.items() if number in before}
        for criterion, values in zip(hits, (likely, gains), strict=True):
            if len(values) == len(likely):
                hits[criterion].append(max(values, key=values.__getitem__) == record.tags["sentence"])
    return {criterion: share_interval(sum(found), len(found)) for criterion, found in hits.items() if found}


def answer_similarity(sentences: Sequence[str], records: Sequence[Record]) -> tuple[Measure, Measure]:
    """Similarity of the answers to the sentences, by condition: cosine of sentence vectors, and share of words."""
    answered = [record for record in records if record.finish_reason != "scored"]
    right = [sentences[int(record.tags["sentence"])] for record in answered]
    cosines = SentenceSimilarity().cosines([record.text or " " for record in answered], right)
    places = [((str(record.tags["condition"]),), int(record.tags["sentence"])) for record in answered]
    shared = [shared_words(record.text, sentence) for record, sentence in zip(answered, right, strict=True)]
    return (
        Measure.of((*place, value) for place, value in zip(places, cosines, strict=True)),
        Measure.of((*place, value) for place, value in zip(places, shared, strict=True) if value is not None),
    )
