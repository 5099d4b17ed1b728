"""Vectors against the instruction in words, on each side of a style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

from embedspace.metrics import Condition, Effect, Interval, Measure, StrengthVerdict, compare_strengths
from embedspace.metrics.verdicts import Paired
from experiments.style.metrics import INSTRUCTION, UNSHIFTED, Measured


@dataclass(frozen=True)
class InstructionComparison:
    """A vector against the instruction, on one side of a style; strength is the judge's log-odds of that side."""

    side: str
    place: Condition
    """Of the vector's answers."""
    vector: Interval
    instruction: Interval
    unshifted: Interval
    difference: Interval
    """Of paired questions, vector less instruction."""
    verdict: StrengthVerdict
    """Against the instruction, within a margin, and against the unshifted answers."""
    effect: Effect | None
    fluency: Interval | None
    """Perplexity of the vector's answers over that of the unshifted ones."""
    fluency_instruction: Interval | None
    """The same over that of the instruction's answers."""
    topic: Interval | None
    topic_instruction: Interval | None
    topic_unshifted: Interval | None
    rows: float
    """Rows that the vector adds to the prompt."""
    rows_instruction: float
    """Rows that the instruction adds to the prompt."""
    unchanged: int
    """Answers of the vector that are those to the unshifted question, word for word."""

    def plainly(self, vector: str) -> str:
        """The verdict in one clause of plain words."""
        verdict, items = self.verdict, self.verdict.items
        if self.unchanged == items:
            return f"{vector} changes none of {items} answers"
        match verdict.kind:
            case "stronger":
                said = f"{vector} is stronger than the instruction in words"
            case "as strong" | "not weaker" if verdict.untreated_within:
                said = f"the instruction in words does so little that {vector} cannot be judged by it"
            case "as strong":
                said = f"{vector} is as strong as the instruction in words"
            case "not weaker":
                said = f"{vector} is at most a little weaker than the instruction in words"
            case "weaker":
                said = f"{vector} is weaker than the instruction in words"
            case "reversed":
                said = f"{vector} has the opposite effect"
            case "no effect":
                said = f"{vector} has no effect that {items} questions can show"
            case _:
                said = (
                    f"{items} questions cannot tell whether {vector} is as strong as the instruction in words"
                )
        return said

    @classmethod
    def family(
        cls, measured: Measured, sides: Sequence[tuple[Condition, float, str]], *, margin: float
    ) -> list[Self]:
        """Of conditions, each with the sign and name of its side; those of which too little was answered are left out.

        They are one family of comparisons: the more of them, the more each verdict needs.
        """
        found = [
            (place, sign, side, paired)
            for place, sign, side in sides
            if (paired := _paired(measured, place, sign)) is not None
        ]
        verdicts = compare_strengths([paired for *_, paired in found], margin=margin)
        return [
            cls._of(measured, place, sign, side, verdict)
            for (place, sign, side, _), verdict in zip(found, verdicts, strict=True)
        ]

    @classmethod
    def _of(
        cls, measured: Measured, place: Condition, sign: float, side: str, verdict: StrengthVerdict
    ) -> Self:
        asked = (INSTRUCTION, sign)
        strength = _strength(measured, sign)
        vector, instruction, unshifted = (_known(strength.mean(where)) for where in (place, asked, UNSHIFTED))
        rows, rows_instruction = (
            _known(measured.rows.change(UNSHIFTED, where)).estimate for where in (place, asked)
        )
        shared = _shared(strength, place, sign)
        return cls(
            side, place, vector, instruction, unshifted, _known(strength.change(asked, place)), verdict,
            strength.effect(asked, place),
            measured.perplexity_ratio(UNSHIFTED, place), measured.perplexity_ratio(asked, place),
            measured.topic.share(place), measured.topic.share(asked), measured.topic.share(UNSHIFTED),
            rows, rows_instruction,
            round(sum(measured.unchanged.values.get(place, {}).get(item, 0.0) for item in shared)),
        )  # fmt: skip


def _strength(measured: Measured, sign: float) -> Measure:
    """The judge's log-odds of a side."""
    return Measure(
        {
            condition: {item: sign * value for item, value in items.items()}
            for condition, items in measured.judge_log_odds.values.items()
        }
    )


def _shared(strength: Measure, place: Condition, sign: float) -> list[int]:
    """The questions that were answered under a condition, under the instruction and without either."""
    places = (place, (INSTRUCTION, sign), UNSHIFTED)
    return sorted(set.intersection(*(set(strength.values.get(where, {})) for where in places)))


def _paired(measured: Measured, place: Condition, sign: float) -> Paired | None:
    """Strengths of the questions under a condition, under the instruction and without either; None without any."""
    strength = _strength(measured, sign)
    shared = _shared(strength, place, sign)
    added = [measured.rows.change(UNSHIFTED, where) for where in (place, (INSTRUCTION, sign))]
    if not shared or not all(added):
        return None
    own, asked, plain = (
        [strength.values[where][item] for item in shared] for where in (place, (INSTRUCTION, sign), UNSHIFTED)
    )
    return own, asked, plain


def _known(interval: Interval | None) -> Interval:
    """Of a comparison that was found to have answers."""
    assert interval is not None
    return interval
