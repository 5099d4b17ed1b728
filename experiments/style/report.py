"""Report of the style experiment: finding, figures and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from embedspace.metrics import Condition, Effect, Interval, Measure
from embedspace.reporting import Cell, Figure, Line, Table, counted, line_figure, signed
from experiments.style.comparisons import InstructionComparison
from experiments.style.evidence import SideEvidence
from experiments.style.metrics import INSTRUCTION, PLAIN, TEACHER, UNSHIFTED, Limits, Measured
from experiments.style.vectors import LABELS, RANDOM, SHUFFLED, TRAINED_CONTROLS


@dataclass(frozen=True)
class StyleReport:
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
    comparisons: Sequence[InstructionComparison]
    evidence: Sequence[SideEvidence]
    """Of each side: the vector beside its teacher and the trained controls."""
    limits: Limits
    norm: float
    control_seeds: tuple[int, ...]

    @property
    def vector(self) -> str:
        """The vector in question, as sentences name it."""
        return f"the {LABELS.get(self.best, self.best)} vector"

    def verdict(self) -> str:
        """Whether the vector moves answers as the instruction does, on each side, in plain words."""
        if not self.comparisons:
            return ""
        said: dict[str, list[str]] = {}
        for comparison in self.comparisons:
            said.setdefault(comparison.plainly(self.vector), []).append(comparison.side)
        clauses = [f"towards {' and '.join(sides)}, {clause}" for clause, sides in said.items()]
        kept = [
            f"{comparison.unchanged} of {comparison.verdict.items} towards {comparison.side}"
            for comparison in self.comparisons
            if 0 < comparison.unchanged < comparison.verdict.items
        ]
        if kept:
            clauses.append(f"of its answers, {' and '.join(kept)} are word for word the unshifted ones")
        clauses += [
            f"towards {side.side}, {each.clause(self.vector)}"
            for side in self.evidence
            for each in side.controls
        ]
        text = "; ".join(clauses)
        return f"{text[:1].upper()}{text[1:]}."

    def finding(self) -> str:
        """How strong the vector is beside the instruction and the controls, and where its answers are usable."""
        if not self.comparisons:
            return self._openings() or "Too few answers were recorded to compare strengths of style."
        sentences = [self._sentence(comparison) for comparison in self.comparisons]
        sentences += [side.sentences(self.vector) for side in self.evidence]
        sentences += [self._usable(), self._silent()]
        return " ".join([*(sentence for sentence in sentences if sentence), self._controls()]).strip()

    def _usable(self) -> str:
        """Up to which strengths the answers keep the limits."""
        path = self.paths[self.best]
        shown = self.pooled.usable_range(path, self.limits)
        estimated = self.pooled.usable_range(path, self.limits, "by the estimates")
        text = f"Answers stay fluent and on topic for alpha in [{signed(shown[0], 1)}, {signed(shown[1], 1)}]"
        if shown == estimated:
            return f"{text}."
        low, high = estimated
        return f"{text} by the intervals, in [{signed(low, 1)}, {signed(high, 1)}] by the estimates alone."

    def _silent(self) -> str:
        """How many answers are empty, of the conditions that are compared."""
        counts = {
            comparison.side: sum(self.measured.empty.values.get(comparison.place, {}).values())
            for comparison in self.comparisons
        }
        said = [f"{count:g} towards {side}" for side, count in counts.items() if count]
        return f"Empty answers of {self.vector}, which have no style: {' and '.join(said)}." if said else ""

    def _openings(self) -> str:
        """The finding where openings were scored and nothing was answered."""
        path = self.paths[self.best]
        effect = self.pooled.odds.change(path[min(path)], path[max(path)])
        if effect is None:
            return ""
        return (
            f"From alpha {signed(min(path), 1)} to {signed(max(path), 1)} {self.vector} changed the log-odds "
            f"of {self.sides[0]} over {self.sides[1]} openings by {_with_interval(effect)} nats ({effect.items} "
            "questions)."
        )

    def _sentence(self, comparison: InstructionComparison) -> str:
        verdict = comparison.verdict.text(self.vector, "the instruction")
        effect = comparison.effect
        sizes = "" if effect is None else f", d = {signed(effect.size)}, p = {effect.p_value:.2g}"
        fluent = comparison.fluency
        fluency = "" if fluent is None else f"; perplexity {fluent.estimate:.2f} times the unshifted answers'"
        kept = (
            ""
            if comparison.topic is None
            else f"; {comparison.topic.estimate:.0%} of the answers are on topic"
        )
        return (
            f"Towards {comparison.side}, {verdict}: judge's log-odds "
            f"{signed(comparison.vector.estimate)} against {signed(comparison.instruction.estimate)} (unshifted "
            f"{signed(comparison.unshifted.estimate)}), paired difference {_with_interval(comparison.difference)}"
            f"{sizes}, {comparison.difference.items} questions{fluency}{kept}; {comparison.rows:g} additional rows, "
            f"the instruction {comparison.rows_instruction:g}."
        )

    def _controls(self) -> str:
        """How far the controls change the judge's log-odds at their largest strength."""
        changes = []
        for kind in (RANDOM, SHUFFLED):
            places = [place for place in self.pooled.judge_log_odds.values if place[0] == kind]
            if not places:
                continue
            top = max(places, key=lambda place: float(place[1]))
            change = self.pooled.judge_log_odds.change(UNSHIFTED, top)
            if change is not None:
                changes.append(f"{kind} at alpha {signed(float(top[1]), 1)} {_with_interval(change)}")
        return f"Controls change the judge's log-odds by: {'; '.join(changes)}." if changes else ""

    def figures(self, judge_pairs: int) -> list[Figure]:
        """Dose-responses: openings, judge, perplexity and topic."""
        plus, minus = self.sides
        shown = {
            f"log-odds {plus} : {minus}, nats": (
                "odds",
                f"How much likelier a {plus} opening of the answer is than a {minus} one.",
            ),
            f"judge's log-odds of {plus}, nats": (
                "judge_log_odds",
                f"Log-odds of {plus} over {minus} by a judge of the answers: a logistic regression on sentence "
                f"vectors, trained on {judge_pairs} pairs of other texts.",
            ),
            "nats per token, unshifted model": (
                "nll",
                "Negative log-likelihood of the answer after the plain question under the unshifted model (log of the "
                "perplexity).",
            ),
            "share on topic": (
                "topic",
                "Share of the answers that are more similar in meaning to their own question than to every other one, "
                "and do more than repeat it.",
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
                        caption=f"{caption}{self._greys(lines)}",
                        over="questions",
                    )
                )
        return drawn

    def _greys(self, lines: Sequence[Line]) -> str:
        """What the grey lines are, of those that are drawn."""
        drawn = {line.label for line in lines if line.control}
        greys = []
        if any(label.startswith(RANDOM) for label in drawn):
            many = len(self.control_seeds) > 1
            greys.append(
                f"{RANDOM} vectors" + (f", {counted(len(self.control_seeds), 'line')}" if many else "")
            )
        if SHUFFLED in drawn:
            greys.append(f"a vector of {SHUFFLED}")
        greys += [f"vectors {kind}" for kind in TRAINED_CONTROLS if kind in drawn]
        return f" Grey: {' and '.join(greys)}, of equal norm." if greys else ""

    def _lines(self, name: str) -> list[Line]:
        lines = []
        for vector, path in self.paths.items():
            if vector == RANDOM:
                continue
            points = getattr(self.pooled, name).curve(path)
            if len(points) > 1:
                lines.append(
                    Line(
                        LABELS.get(vector, vector),
                        points,
                        control=vector in (SHUFFLED, *TRAINED_CONTROLS),
                        band=vector in (self.best, SHUFFLED),
                    )
                )
        own: Measure = getattr(self.measured, name)
        label = f"{RANDOM} vectors"
        for seed in self.control_seeds if RANDOM in self.paths else ():
            places = {
                alpha: place if place == UNSHIFTED else (f"{RANDOM} {seed}", alpha)
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

    def instruction_table(self) -> Table:
        """The vector in question against the instruction; strength is the judge's log-odds of the side."""
        rows: list[list[Cell]] = [
            [
                comparison.side,
                comparison.vector,
                comparison.instruction,
                comparison.unshifted,
                comparison.difference,
                *_effect_cells(comparison.effect),
                comparison.fluency,
                comparison.fluency_instruction,
                comparison.topic,
                comparison.topic_instruction,
                comparison.topic_unshifted,
                comparison.rows,
                comparison.rows_instruction,
            ]
            for comparison in self.comparisons
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
                "Perplexity / unshifted",
                "Perplexity / instruction's",
                "On topic",
                "Instruction on topic",
                "Unmoved on topic",
                "Additional rows",
                "Instruction's rows",
            ),
            rows,
            f"{self.vector[:1].upper()}{self.vector[1:]} against the instruction. Strength is the judge's log-odds of "
            "the side, in nats; the difference is that of the same questions, with Cohen's d of paired samples "
            "and Wilcoxon's p. 95% intervals in small print, of shares Wilson's.",
        ).filled()

    def usable_range_table(self) -> Table:
        """The usable range of strengths of each vector."""
        limits = self.limits
        rows: list[list[Cell]] = []
        for name, path in self.paths.items():
            if not any(
                place in self.pooled.judge_log_odds.values for place in path.values() if place != UNSHIFTED
            ):
                continue
            low, high = self.pooled.usable_range(path, limits)
            least, most = self.pooled.usable_range(path, limits, "by the estimates")
            rows.append([LABELS.get(name, name), *(signed(end, 1) for end in (low, high, least, most))])
        return Table(
            ("Vector", "Lowest alpha", "Highest alpha", "Lowest by estimates", "Highest by estimates"),
            rows,
            f"Usable range of strengths: perplexity at most {limits.perplexity:g} times that of the unshifted answers, "
            f"at least {limits.topic:.0%} of their share on topic, and at least {limits.variety:.0%} of their share of "
            "different word bigrams, at this and all weaker strengths that were answered. The limits are kept by whole "
            "intervals; the last two columns go by point estimates.",
        )

    def places_table(self) -> Table:
        """Every condition and strength."""
        order = [*self.paths, PLAIN, INSTRUCTION, TEACHER]
        styles = dict(zip((1.0, -1.0), self.sides, strict=True))
        rows: list[list[Cell]] = []
        for place in sorted(self.pooled.conditions, key=lambda p: (order.index(str(p[0])), p[1])):
            name, alpha = str(place[0]), float(place[1])
            asked = name in (INSTRUCTION, TEACHER)
            means = (
                getattr(self.pooled, measure).share(place)
                if measure in ("topic", "empty")
                else getattr(self.pooled, measure).mean(place)
                for measure in (
                    "odds",
                    "judge_log_odds",
                    "second_log_odds",
                    "nll",
                    "topic",
                    "nearness",
                    "variety",
                    "length",
                    "empty",
                )
            )
            rows.append(
                [
                    f"{name}: {styles[alpha]}"
                    if asked
                    else "no shift"
                    if name == PLAIN
                    else LABELS.get(name, name),
                    "" if asked else signed(alpha, 1),
                    *means,
                ]
            )
        return Table(
            (
                "Condition",
                "Alpha",
                "Openings, nats",
                f"Judge: {self.sides[0]}, nats",
                "Second judge, nats",
                "Nats per token, unshifted model",
                "On topic",
                "More similar to its question by",
                "Different word bigrams",
                "Tokens",
                "Empty",
            ),
            rows,
            "Every condition and strength. Means over questions (and seeds of controls); 95% intervals in small print, "
            "of shares Wilson's.",
        ).filled()


def _effect_cells(effect: Effect | None) -> list[Cell]:
    return [None, None] if effect is None else [effect.size, f"{effect.p_value:.2g}"]


def _with_interval(interval: Interval) -> str:
    return f"{signed(interval.estimate)} ({interval.uncertainty(signed)})"
