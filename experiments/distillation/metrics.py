"""What the distillation experiment measures of its records: divergence, form, right strings, topic."""

from __future__ import annotations

import re
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass
from typing import Self

from embedspace.metrics import Condition, Interval, Measure, kept_share, mean_interval, ratio_interval
from embedspace.runs import Record
from experiments.distillation.rows import SystemPrompt

FULL, NONE, DISTILLED, OTHER, RANDOM, BESIDE, FACTS = (
    "whole prompt",
    "no prompt",
    "distilled",
    "distilled from another",
    "random",
    "distilled, facts beside",
    "facts alone",
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
        """Share of the divergence of no prompt at all that is closed, of one prompt over its questions, or of all.

        Of all, the system prompts are the independent units: the questions after one of them are its cluster.
        """
        if prompt is None:
            none, own, whole = (
                self.divergence.values.get(each, {}) for each in ((NONE, 0.0, 0.0), place, (FULL, 0.0, 0.0))
            )
            shared = sorted(none.keys() & own.keys() & whole.keys())
            gains = [none[item] - whole[item] for item in shared]
            kept = [none[item] - own[item] for item in shared]
            return ratio_interval(kept, gains, _prompts_of(shared)) if sum(gains) else None
        negated = Measure(
            {
                condition: {item: -value for item, value in items.items() if item // _STRIDE == prompt}
                for condition, items in self.divergence.values.items()
            }
        )
        return kept_share(negated, place, nothing=(NONE, 0.0, 0.0), everything=(FULL, 0.0, 0.0))

    def mean(
        self, measure: Measure, place: Condition, prompts: Container[int] | None = None
    ) -> Interval | None:
        """Mean of a measure over the questions of all prompts or of some.

        The prompts are the units; of one prompt, its questions are.
        """
        found = {
            item: value
            for item, value in measure.values.get(place, {}).items()
            if prompts is None or item // _STRIDE in prompts
        }
        units = _prompts_of(found)
        return (
            ratio_interval(list(found.values()), None, units if len({*units}) > 1 else [*found])
            if found
            else None
        )

    def closed_mean(self, place: Condition, prompts: Iterable[int]) -> Interval | None:
        """Mean over the prompts of the share that is closed; its interval is over prompts."""
        shares = self._closed_by_prompt(place, prompts)
        return mean_interval(list(shares.values())) if shares else None

    def closed_more(self, place: Condition, other: Condition, prompts: Iterable[int]) -> Interval | None:
        """How much more of the divergence one condition closes than another, mean over the prompts that have both."""
        own, theirs = (self._closed_by_prompt(each, prompts) for each in (place, other))
        shared = own.keys() & theirs.keys()
        return mean_interval([own[number] - theirs[number] for number in sorted(shared)]) if shared else None

    def _closed_by_prompt(self, place: Condition, prompts: Iterable[int]) -> dict[int, float]:
        shares = {number: self.closed(place, number) for number in prompts}
        return {number: share.estimate for number, share in shares.items() if share is not None}


def _prompts_of(items: Iterable[int]) -> list[int]:
    """The system prompt of each question."""
    return [item // _STRIDE for item in items]
