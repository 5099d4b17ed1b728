"""What is measured of compressed passages: the right answer's likelihood, and the answers' similarity to it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, kept_share
from embedspace.runs import Record
from experiments.compression.items import Item

FULL, NONE = "full", "none"
"""The whole passage, and the question without any."""
WHOLE, WITHOUT = (FULL, 1.0), (NONE, 0.0)
"""Their conditions."""
RIGHT = "right answer"
LLMLINGUA = "llmlingua package"
SAME_LENGTH = "at the length of the " + LLMLINGUA


@dataclass(frozen=True)
class Measured:
    """Measures of one task's questions, by (method, ratio) and passage."""

    likelihood: Measure
    """Log-likelihood of the right answer, nats per token."""
    similarity: Measure
    """Cosine similarity of the answers given to the right ones."""
    reached: dict[Condition, float]
    """Compression ratios that the LLMLingua package reached, and the first method at its lengths."""

    @classmethod
    def of(cls, records: Sequence[Record], items: Sequence[Item], same_length: str | None) -> Self:
        """The measures of one task's records.

        Args:
            records: of one task.
            items: of all tasks.
            same_length: name of the first method at the package's lengths; None where the package was not run.
        """
        answered = [record for record in records if record.text.strip()]
        right = [items[int(record.tags["passage"])]["answer"] for record in answered]
        cosines = SentenceSimilarity().cosines([record.text for record in answered], right)
        return cls(
            Measure.of(
                (*_place(record), record.scores[RIGHT].per_token) for record in records if record.scores
            ),
            Measure.of((*_place(record), cosine) for record, cosine in zip(answered, cosines, strict=True)),
            _reached(records, (LLMLINGUA, same_length)) if same_length else {},
        )

    def kept(self, place: Condition) -> Interval | None:
        """Share of the passage's likelihood gain that is left."""
        return kept_share(self.likelihood, place, nothing=WITHOUT, everything=WHOLE)


def _reached(records: Sequence[Record], methods: Sequence[str]) -> dict[Condition, float]:
    rows: dict[Condition, dict[int, int]] = {}
    for record in records:
        place, passage = _place(record)
        if place == WHOLE or place[0] in methods:
            rows.setdefault(place, {})[passage] = int(record.tags["rows"])
    whole = rows.pop(WHOLE, {})
    return {
        place: sum(whole[passage] for passage in own) / sum(own.values())
        for place, own in rows.items()
        if own.keys() <= whole.keys()
    }


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["method"]), float(record.tags["ratio"])), int(record.tags["passage"])
