"""What is measured of soft tokens: scores under every condition, and the words that come back."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from embedspace.metrics import Condition, Measure
from embedspace.projector import CONDITIONS, ConditionScores
from embedspace.runs import Record

NOTHING, SHUFFLED, OWN, MEAN, TEXT = CONDITIONS
ANY = ""
"""Projector of what needs none."""
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
        """As a record's tags tell it."""
        return cls(str(record.tags["head"]), int(record.tags["tokens"]), int(record.tags["examples"]))


def scores_of(nats: Measure, kind: str, projector: str, *, most: int | None = None) -> ConditionScores | None:
    """One projector's scores on the sentences measured under all its conditions; None if there are none."""
    return condition_scores(
        nats,
        {condition: place_of(kind, projector, condition) for condition in (NOTHING, SHUFFLED, OWN, TEXT)},
        most=most,
    )


def condition_scores(
    nats: Measure, places: Mapping[str, Condition], *, most: int | None = None
) -> ConditionScores | None:
    """Scores by condition, from a measure of nats per token.

    Args:
        nats: by condition and item.
        places: condition -> where the measure has it.
        most: only items below this number count.
    """
    found = {condition: nats.values.get(place, {}) for condition, place in places.items()}
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
    """Where a condition is measured; nothing and the text belong to no projector."""
    return kind, ANY if condition in (NOTHING, TEXT) else projector, condition


def recorded_at(record: Record) -> Condition:
    """Where a record's measures belong."""
    return str(record.tags["kind"]), str(record.tags["projector"]), str(record.tags["condition"])
