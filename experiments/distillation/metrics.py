"""What the distillation experiment measures of its records: divergence, form, right strings, topic."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from embedspace.metrics import Condition, Interval, Measure, kept_share, mean_interval
from embedspace.runs import Record
from experiments.distillation.rows import SystemPrompt

FULL, NONE, DISTILLED, OTHER, RANDOM = (
    "whole prompt",
    "no prompt",
    "distilled",
    "distilled from another",
    "random",
)

_STRIDE = 1000
"""Between the questions of one prompt and those of the next in the numbering of items."""


@dataclass(frozen=True)
class Measured:
    """Measures of (condition, rows, training questions), over the questions of all prompts."""

    divergence: Measure
    """Nats per token, from the whole prompt."""
    equal_tokens: Measure
    """Share of the whole prompt's greedy tokens that would be chosen."""
    form: Measure
    """Whether the answer has the form that the prompt asks for."""
    right: Measure
    """Whether it holds the right string."""
    rows: Measure
    """Of the whole prompt that is sent."""

    @classmethod
    def of(cls, records: Sequence[Record], prompts: Sequence[SystemPrompt]) -> Self:
        """The measures of the records of these prompts."""
        triples: dict[str, list[tuple[Condition, int, float]]] = {
            name: [] for name in cls.__dataclass_fields__
        }
        for record in records:
            place = (
                str(record.tags["condition"]),
                float(record.tags["tokens"]),
                float(record.tags["learnt_from"]),
            )
            prompt = prompts[int(record.tags["prompt"])]
            item = _STRIDE * int(record.tags["prompt"]) + int(record.tags["question"])
            for name in ("divergence", "equal_tokens", "rows"):
                triples[name].append((place, item, float(record.tags[name])))
            if prompt["form"] is not None:
                triples["form"].append(
                    (place, item, float(re.search(prompt["form"], record.text) is not None))
                )
            if wanted := prompt["sealed"][int(record.tags["question"])].get("contains"):
                triples["right"].append((place, item, float(any(text in record.text for text in wanted))))
        return cls(**{name: Measure.of(found) for name, found in triples.items()})

    @property
    def conditions(self) -> list[Condition]:
        """Every condition, number of rows and number of questions."""
        return list(self.divergence.values)

    def closed(self, place: Condition, prompt: int | None = None) -> Interval | None:
        """Share of the divergence of no prompt at all that is closed, of one prompt or of all."""
        negated = Measure(
            {
                condition: {
                    item: -value
                    for item, value in items.items()
                    if prompt is None or item // _STRIDE == prompt
                }
                for condition, items in self.divergence.values.items()
            }
        )
        return kept_share(negated, place, nothing=(NONE, 0.0, 0.0), everything=(FULL, 0.0, 0.0))

    def closed_mean(self, place: Condition, prompts: Iterable[int]) -> Interval | None:
        """Mean over the prompts of the share that is closed; its interval is over prompts."""
        shares = [share.estimate for number in prompts if (share := self.closed(place, number)) is not None]
        return mean_interval(shares) if shares else None
