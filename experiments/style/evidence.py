"""A vector beside its own teacher and beside controls that were trained as it was, by two judges and by length."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from embedspace.metrics import (
    MIN_ITEMS,
    Condition,
    Interval,
    Measure,
    Standing,
    holm,
    kept_share,
    mean_interval,
    share_interval,
    standing,
    superiority_p,
)
from embedspace.metrics.verdicts import SIGNIFICANCE
from embedspace.reporting import Cell, Table
from experiments.style.metrics import INSTRUCTION, TEACHER, UNSHIFTED, Measured
from experiments.style.vectors import TRAINED_CONTROLS

MEASURES = {
    "judge_log_odds": "judge, nats",
    "second_log_odds": "second judge, nats",
    "length": "tokens",
    "topic": "share on topic",
}
"""What is compared: field of :class:`Measured` -> name in tables."""


@dataclass(frozen=True)
class ControlComparison:
    """The vector against vectors that were trained in the same way on other targets, on one side."""

    kind: str
    place: Condition
    """Of the control's answers; the mean over its seeds."""
    difference: Interval
    """Judge's log-odds of the side, vector less control, of paired questions."""
    topic: Interval | None
    """Share of the answers on topic, vector less control."""
    standing: Standing
    """Of the log-odds, by one-sided t tests, corrected (Holm) over all controls and sides of the run."""

    def clause(self, vector: str) -> str:
        """The verdict in one clause."""
        said = {
            "above": f"{vector} is stronger than vectors {self.kind}",
            "below": f"{vector} is weaker than vectors {self.kind}",
            "not told": f"{vector} is not told from vectors {self.kind}",
            "too few": f"{self.difference.items} questions are too few to compare {vector} with vectors {self.kind}",
        }
        topic = "" if self.topic is None else f"; share on topic, vector less control: {self.topic:.2f}"
        return f"{said[self.standing]} (difference {self.difference:.2f} nats{topic})"


@dataclass(frozen=True)
class SideEvidence:
    """One side of a style."""

    side: str
    sign: float
    place: Condition
    """Of the vector's answers."""
    teacher_change: Interval | None
    """Judge's log-odds of the side: the prompt that the vector learnt from, less no shift."""
    share: Interval | None
    """Of that change, the part that the vector reaches; None where the teacher's change is not clearly above 0."""
    controls: Sequence[ControlComparison]
    changes: Mapping[str, Interval]
    """Measure -> the vector's change of it against the unshifted answers."""
    shares: Mapping[str, Interval]
    """Measure -> the part of the teacher's change that the vector reaches, where that change is clear."""
    agreement: Interval | None
    """Share of the questions whose answer both judges find moved to the same direction."""

    @classmethod
    def of(
        cls,
        measured: Measured,
        sides: Sequence[tuple[Condition, float, str]],
        controls: Mapping[str, float | None],
    ) -> list[Self]:
        """Of conditions, each with the sign and name of its side; those without answers are left out.

        Args:
            measured: with the seeds of a control as one.
            sides: of the vector in question.
            controls: kind of control -> its strength where it has one for all sides, else None.
        """
        known = [each for each in sides if measured.judge_log_odds.change(UNSHIFTED, each[0])]
        compared = _compared(measured, known, controls)
        return [
            cls._of(measured, place, sign, side, [each for owner, each in compared if owner == place])
            for place, sign, side in known
        ]

    @classmethod
    def _of(
        cls,
        measured: Measured,
        place: Condition,
        sign: float,
        side: str,
        controls: Sequence[ControlComparison],
    ) -> Self:
        teacher = (TEACHER, sign)
        changes: dict[str, Interval] = {}
        shares: dict[str, Interval] = {}
        for name in MEASURES:
            measure: Measure = getattr(measured, name)
            own, whole = measure.change(UNSHIFTED, place), measure.change(UNSHIFTED, teacher)
            if own is not None:
                changes[name] = own
            if whole is not None and whole.clear and _changed(measure, teacher) >= MIN_ITEMS:
                share = kept_share(measure, place, nothing=UNSHIFTED, everything=teacher)
                shares |= {} if share is None else {name: share}
        whole = towards(measured.judge_log_odds, sign).change(UNSHIFTED, teacher)
        share = shares.get("judge_log_odds") if whole is not None and standing(whole) == "above" else None
        return cls(side, sign, place, whole, share, controls, changes, shares, _agreement(measured, place))

    def sentences(self, vector: str) -> str:
        """The clauses below, each as a sentence of the side."""
        clauses = [self.teacher_clause(vector), *(each.clause(vector) for each in self.controls)]
        clauses = [*clauses, self.judges_clause(vector)]
        return " ".join(f"Towards {self.side}, {clause}." for clause in clauses if clause)

    def teacher_clause(self, vector: str) -> str:
        """Which part of its teacher's effect the vector reaches; nothing where the teacher was not asked."""
        if self.teacher_change is None:
            return ""
        if self.share is None:
            return (
                f"what {vector} learnt from, instruction and examples, has itself no effect that "
                f"{self.teacher_change.items} questions show"
            )
        return f"{vector} reaches {self.share:.0%} of the effect of what it learnt from, instruction and examples"

    def judges_clause(self, vector: str) -> str:
        """What the second judge says; nothing where none was asked."""
        change = self.changes.get("second_log_odds")
        if change is None or self.agreement is None:
            return ""
        moved = {
            "above": f"the second judge also finds {vector}'s answers moved to this side",
            "below": f"the second judge sees the opposite in {vector}'s answers",
        }.get(
            self.second_standing, f"the second judge does not tell {vector}'s answers from the unshifted ones"
        )
        return (
            f"{moved}: {change:.2f} nats, and both judges see the same direction in "
            f"{self.agreement:.0%} of {self.agreement.items} answers"
        )

    @property
    def second_standing(self) -> Standing:
        """Of the second judge's change, towards the side."""
        change = self.changes["second_log_odds"]
        found = standing(change)
        if self.sign > 0 or found not in ("above", "below"):
            return found
        return "below" if found == "above" else "above"


def towards(measure: Measure, sign: float) -> Measure:
    """A measure whose larger values are further on a side."""
    return Measure(
        {place: {item: sign * v for item, v in items.items()} for place, items in measure.values.items()}
    )


def _changed(measure: Measure, place: Condition) -> int:
    """How many questions have another value than without a shift: of few, a share of the change has no interval."""
    plain = measure.values.get(UNSHIFTED, {})
    return sum(plain.get(item, value) != value for item, value in measure.values.get(place, {}).items())


def _compared(
    measured: Measured, sides: Sequence[tuple[Condition, float, str]], controls: Mapping[str, float | None]
) -> list[tuple[Condition, ControlComparison]]:
    """Every side against every control: one family."""
    found: list[tuple[Condition, str, Condition, list[float]]] = []
    for place, sign, _ in sides:
        strength = towards(measured.judge_log_odds, sign)
        for kind, alpha in controls.items():
            control = (kind, place[1] if alpha is None else alpha)
            own, other = strength.values[place], strength.values.get(control, {})
            shared = sorted(own.keys() & other.keys())
            if shared:
                found.append((place, kind, control, [own[item] - other[item] for item in shared]))
    large = [number for number, (*_, differences) in enumerate(found) if len(differences) >= MIN_ITEMS]
    above = holm([superiority_p(found[number][3]) for number in large])
    below = holm([superiority_p([-d for d in found[number][3]]) for number in large])
    standings: dict[int, Standing] = {
        number: "above" if more < SIGNIFICANCE else "below" if less < SIGNIFICANCE else "not told"
        for number, more, less in zip(large, above, below, strict=True)
    }
    return [
        (
            place,
            ControlComparison(
                kind,
                control,
                mean_interval(differences),
                measured.topic.change(control, place),
                standings.get(number, "too few"),
            ),
        )
        for number, (place, kind, control, differences) in enumerate(found)
    ]


def _agreement(measured: Measured, place: Condition) -> Interval | None:
    """Of the questions that both judges judged, with and without the vector: how often they agree on the direction."""
    judges = [measured.judge_log_odds.values, measured.second_log_odds.values]
    if not all(place in values and UNSHIFTED in values for values in judges):
        return None
    shared = sorted(
        set.intersection(*(set(values[where]) for values in judges for where in (place, UNSHIFTED)))
    )
    if not shared:
        return None
    one, two = ([values[place][i] - values[UNSHIFTED][i] for i in shared] for values in judges)
    return share_interval(sum(a * b > 0 for a, b in zip(one, two, strict=True)), len(shared))


def evidence_table(measured: Measured, evidence: Sequence[SideEvidence]) -> Table:
    """The compared conditions by every measure, and the part of the teacher's change that the vector reaches."""
    rows: list[list[Cell]] = []
    for side in evidence:
        trained = {each.kind: each.place for each in side.controls}
        places = [
            side.place, (INSTRUCTION, side.sign), (TEACHER, side.sign), *map(trained.get, TRAINED_CONTROLS), UNSHIFTED
        ]  # fmt: skip
        for name, label in MEASURES.items():
            measure: Measure = getattr(measured, name)
            mean = measure.share if name == "topic" else measure.mean
            means = [None if place is None else mean(place) for place in places]
            if means[0] is not None:
                rows.append([side.side, label, *means, side.shares.get(name)])
    return Table(
        COLUMNS,
        rows,
        "The vector, the instruction, what the vector learnt from (instruction and example answers), trained controls "
        "and no shift, by both judges (log-odds of the style of positive strengths) and in tokens, of which the run's "
        "limit cuts off the rest. The last column is the part of the teacher's change that the vector reaches: a ratio "
        "of mean changes of the same questions, where the teacher's change is clear.",
    ).filled()


COLUMNS = (
    "Towards", "Measure", "Vector", "Instruction", "Teacher", "Shuffled targets", "Neutral targets", "Unshifted",
    "Share of the teacher's change",
)  # fmt: skip
