"""How the style experiment tells what it found: sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedspace.metrics import Condition, Interval, Measure
from embedspace.reporting import Cell, Figure, Line, Table, line_figure, signed
from experiments.style.metrics import INSTRUCTION, PLAIN, UNMOVED, Contest, Limits, Measured
from experiments.style.vectors import RANDOM, SHUFFLED


@dataclass(frozen=True)
class Page:
    """What is shown of one style."""

    measured: Measured
    pooled: Measured
    """The same, the controls of a kind as one."""
    paths: Mapping[str, Mapping[float, Condition]]
    """Vector -> strength -> where it is recorded."""
    best: str
    """The vector in question."""
    sides: tuple[str, str]
    """Names of the styles of positive and negative strengths."""
    contests: Sequence[Contest]
    limits: Limits
    norm: float
    control_seeds: tuple[int, ...]

    def finding(self) -> str:
        """How strong the vector is beside the instruction and the controls, and up to where answers last."""
        if not self.contests:
            return self._openings() or "Too few answers were recorded to compare strengths of style."
        sentences = [self._contest(contest) for contest in self.contests]
        low, high = self.pooled.survival(self.paths[self.best], self.limits)
        sentences.append(f"Answers stay alive from alpha {signed(low, 1)} to {signed(high, 1)}.")
        return " ".join([*sentences, self._controls()]).strip()

    def _openings(self) -> str:
        """What can be said where openings were scored and nothing answered."""
        path = self.paths[self.best]
        effect = self.pooled.odds.change(path[min(path)], path[max(path)])
        if effect is None:
            return ""
        return (
            f"From alpha {signed(min(path), 1)} to {signed(max(path), 1)} the {self.best} vector moved the log-odds of "
            f"{self.sides[0]} over {self.sides[1]} openings by {_told(effect)} nats ({effect.items} questions)."
        )

    def _contest(self, contest: Contest) -> str:
        verdict = (
            "stronger than the instruction"
            if contest.difference.low > 0
            else "as strong as the instruction, as far as can be told"
            if contest.as_strong
            else "weaker than the instruction"
        )
        effect = contest.effect
        sizes = "" if effect is None else f", d = {signed(effect.size)}, p = {effect.p_value:.2g}"
        fluent = contest.fluency
        fluency = "" if fluent is None else f"; perplexity {fluent.estimate:.2f} times the unmoved answers'"
        kept = (
            ""
            if contest.topic is None
            else f"; {contest.topic.estimate:.0%} of the answers are on their topic"
        )
        return (
            f"Towards {contest.side}, the {self.best} vector is {verdict}: judge's log-odds "
            f"{signed(contest.vector.estimate)} against {signed(contest.instruction.estimate)} (unmoved "
            f"{signed(contest.unmoved.estimate)}), paired difference {_told(contest.difference)}"
            f"{sizes}, {contest.difference.items} questions{fluency}{kept}; {contest.rows:g} rows more, the "
            f"instruction {contest.rows_asked:g}."
        )

    def _controls(self) -> str:
        """How far the controls lean over their measured range, beside the vector in question."""
        told = []
        for kind in (RANDOM, SHUFFLED):
            places = [place for place in self.pooled.lean.values if place[0] == kind]
            if not places:
                continue
            top = max(places, key=lambda place: float(place[1]))
            change = self.pooled.lean.change(UNMOVED, top)
            if change is not None:
                told.append(f"{kind} at alpha {signed(float(top[1]), 1)} {_told(change)}")
        return f"Controls move the judge by: {'; '.join(told)}." if told else ""

    def figures(self, judge_pairs: int) -> list[Figure]:
        """Dose-responses: openings, judge, perplexity and topic."""
        plus, minus = self.sides
        shown = {
            f"log-odds {plus} : {minus}, nats": (
                "odds",
                f"How much likelier a {plus} opening of the answer is than a {minus} one.",
            ),
            f"judge's log-odds of {plus}, nats": (
                "lean",
                f"How {plus} rather than {minus} a judge finds the answer: a logistic regression on sentence vectors, "
                f"trained on {judge_pairs} pairs of other texts.",
            ),
            "nats a token, unmoved model": (
                "nats",
                "How unlikely the unmoved model finds the answer after the plain question (log of the perplexity).",
            ),
            "share on topic": (
                "topic",
                "Share of the answers that are nearer in meaning to their own question than to every other one.",
            ),
        }
        drawn = []
        for label, (name, caption) in shown.items():
            lines = self._lines(name)
            if lines:
                drawn.append(
                    line_figure(
                        lines,
                        levels=self._levels(getattr(self.measured, name)),
                        x_label=f"strength alpha (times a norm of {self.norm:g})",
                        y_label=label,
                        caption=f"{caption} Bands and bars are 95% intervals over questions; grey: {RANDOM} vectors, "
                        f"one line for each of {len(self.control_seeds)} seeds, and {SHUFFLED} (their mean, with a "
                        "band), all of equal norm.",
                    )
                )
        return drawn

    def _lines(self, name: str) -> list[Line]:
        lines = []
        for vector, path in self.paths.items():
            if vector == RANDOM:
                continue
            points = getattr(self.pooled, name).curve(path)
            if len(points) > 1:
                lines.append(
                    Line(vector, points, control=vector == SHUFFLED, band=vector in (self.best, SHUFFLED))
                )
        own: Measure = getattr(self.measured, name)
        label = f"{RANDOM} vectors"
        for seed in self.control_seeds if RANDOM in self.paths else ():
            places = {
                alpha: place if place == UNMOVED else (f"{RANDOM} {seed}", alpha)
                for alpha, place in self.paths[RANDOM].items()
            }
            points = own.curve(places)
            if len(points) > 1:
                lines.append(Line(label, points, control=True, band=False))
                label = ""
        return lines

    def _levels(self, measure: Measure) -> dict[str, Interval]:
        found = {
            f"instruction: {side}": measure.mean((INSTRUCTION, sign))
            for side, sign in zip(self.sides, (1.0, -1.0), strict=True)
        }
        return {name: mean for name, mean in found.items() if mean is not None}

    def contest_table(self) -> Table:
        """The vector in question against the instruction; strength is the judge's log-odds of the side."""
        rows: list[list[Cell]] = [
            [
                contest.side,
                contest.vector,
                contest.instruction,
                contest.unmoved,
                contest.difference,
                "" if contest.effect is None else contest.effect.size,
                "" if contest.effect is None else f"{contest.effect.p_value:.2g}",
                *(
                    "" if value is None else value
                    for value in (
                        contest.fluency,
                        contest.fluency_asked,
                        contest.topic,
                        contest.topic_asked,
                        contest.topic_unmoved,
                    )
                ),
                contest.rows,
                contest.rows_asked,
            ]
            for contest in self.contests
        ]
        return Table(
            (
                "Towards",
                "Vector",
                "Instruction",
                "Unmoved",
                "Difference",
                "Effect size d",
                "p",
                "Perplexity / unmoved",
                "Perplexity / instruction's",
                "On topic",
                "Instruction on topic",
                "Unmoved on topic",
                "Rows more",
                "Instruction's rows",
            ),
            rows,
            f"The {self.best} vector against the instruction: strength is the judge's log-odds of the side, in nats; "
            "the difference is that of the same questions, with Cohen's d of paired samples and Wilcoxon's p. 95% "
            "bootstrap intervals in small print.",
        ).filled()

    def survival_table(self) -> Table:
        """Up to which strength answers last, by vector."""
        limits = self.limits
        rows: list[list[Cell]] = []
        for name, path in self.paths.items():
            if not any(place in self.pooled.lean.values for place in path.values() if place != UNMOVED):
                continue
            low, high = self.pooled.survival(path, limits)
            rows.append([name, signed(low, 1), signed(high, 1)])
        return Table(
            ("Vector", "Lowest alpha", "Highest alpha"),
            rows,
            f"Strengths between which the answers are alive: perplexity at most {limits.perplexity:g} times that of "
            f"the unmoved answers, at least {limits.topic:.0%} of their share on topic, and at least "
            f"{limits.variety:.0%} of their share of different word pairs, over all weaker "
            "strengths that were answered.",
        )

    def places_table(self) -> Table:
        """Every condition and strength."""
        order = [*self.paths, PLAIN, INSTRUCTION]
        styles = dict(zip((1.0, -1.0), self.sides, strict=True))
        rows: list[list[Cell]] = []
        for place in sorted(self.pooled.conditions, key=lambda p: (order.index(str(p[0])), p[1])):
            name, alpha = str(place[0]), float(place[1])
            asked = name == INSTRUCTION
            means = (
                getattr(self.pooled, measure).mean(place)
                for measure in ("odds", "lean", "nats", "topic", "nearness", "variety", "length")
            )
            rows.append(
                [
                    f"instruction: {styles[alpha]}" if asked else "no shift" if name == PLAIN else name,
                    "" if asked else signed(alpha, 1),
                    *("" if mean is None else mean for mean in means),
                ]
            )
        return Table(
            (
                "Condition",
                "Alpha",
                "Openings, nats",
                f"Judge: {self.sides[0]}, nats",
                "Nats a token, unmoved model",
                "On topic",
                "Nearer to its question by",
                "Different word pairs",
                "Tokens",
            ),
            rows,
            "Means over questions (and seeds of controls); 95% bootstrap intervals in small print.",
        ).filled()


def _told(interval: Interval) -> str:
    return f"{signed(interval.estimate)} ({signed(interval.low)} to {signed(interval.high)})"
