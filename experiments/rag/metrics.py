"""What the records of questions with retrieved passages say: likelihoods, answers, lengths and times."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, kept_share
from embedspace.runs import Record
from experiments.compression.passages import FACTS, Question
from experiments.projector.metrics import condition_scores

if TYPE_CHECKING:
    from embedspace.projector import ConditionScores

NONE, TEXT, SOFT, SHUFFLED = "no context", "text", "soft tokens", "shuffled soft tokens"
RIGHT = "right answer"
WARM_UP = "warm-up"
"""Key of the case that is asked first and whose time does not count."""


@dataclass(frozen=True)
class Measured:
    """Measures of one task's questions, by (form of the context, number of passages) and question."""

    found: Measure
    """1 where a passage that holds the answer is among those given, else 0."""
    likelihood: Measure
    """Log-likelihood of the right answer, nats per token."""
    quality: Measure
    """Of the answers: whether a fact's value is in it, else its cosine similarity to the right answer."""
    rows: Measure
    """Length of the prompt."""
    first: Measure
    """Milliseconds to the first token."""

    @classmethod
    def of(cls, task: str, records: Sequence[Record], questions: Sequence[Question]) -> Self:
        """The measures of one task's records; ``questions`` are those of all tasks."""
        asked = [record for record in records if not record.tags["timed"]]
        answered = [record for record in asked if record.finish_reason != "scored"]
        right = [questions[int(record.tags["question"])]["answer"] for record in answered]
        if task == FACTS:
            pairs = zip(answered, right, strict=True)
            quality = [float(holds_value(record.text, value.strip())) for record, value in pairs]
        else:
            quality = SentenceSimilarity().cosines([record.text or " " for record in answered], right)
        return cls(
            Measure.of((*_place(record), float(record.tags["found"])) for record in asked),
            Measure.of(
                (*_place(record), record.scores[RIGHT].per_token) for record in asked if record.scores
            ),
            Measure.of((*_place(record), value) for record, value in zip(answered, quality, strict=True)),
            Measure.of((*_place(record), float(record.rows)) for record in asked),
            Measure.of(
                (*_place(record), 1e3 * record.seconds)
                for record in records
                if record.tags["timed"] and not record.key.endswith(WARM_UP)
            ),
        )

    def kept(self, place: Condition) -> Interval | None:
        """Share of the gain that the same passages' text gives over no context."""
        return kept_share(self.likelihood, place, nothing=(NONE, 0), everything=(TEXT, place[1]))

    def scores(self, count: int) -> ConditionScores | None:
        """Soft tokens between the controls and the text, by negative log-likelihood."""
        nll = {
            place: {item: -value for item, value in items.items()}
            for place, items in self.likelihood.values.items()
        }
        places: Mapping[str, Condition] = {
            "nothing": (NONE, 0), "shuffled": (SHUFFLED, count), "own": (SOFT, count), "text": (TEXT, count),
        }  # fmt: skip
        return condition_scores(Measure(nll), places)


def holds_value(text: str, value: str) -> bool:
    """Whether a number stands in a text, and not as a part of a longer one."""
    return re.search(rf"(?<![\d.,]){re.escape(value)}(?![.,]?\d)", text) is not None


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["way"]), int(record.tags["passages"])), int(record.tags["question"])
