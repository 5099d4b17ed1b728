"""Style: prompts moved along a style vector, against random vectors of equal norm and the plain instruction."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector
from embedspace.cases import Case
from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, StyleJudge, log_odds
from embedspace.plots import Figure, Line, line_figure
from embedspace.records import Record, by_tags
from embedspace.report import Answer, Cell, Comparison, Report, Section, Table, signed

PLAIN, STYLE, RANDOM, INSTRUCTION = "plain", "style", "random", "instruction"


@dataclass(frozen=True)
class Style:
    """Asks every question with its rows moved by ``alpha`` times a vector of a stated norm."""

    questions: Sequence[str]
    positive_name: str
    negative_name: str
    positive: Sequence[str]
    """Sentences in the style of positive strengths."""
    negative: Sequence[str]
    positive_instruction: str
    """Put before a question, asks for the style in words."""
    negative_instruction: str
    positive_openings: Sequence[str]
    """Openings of an answer that are typical of the style."""
    negative_openings: Sequence[str]
    judge: Sequence[Sequence[str]]
    """Pairs of other texts, in the style and against it, on which the judge of the answers is trained."""
    norm: float
    """Length of the style vector and of the random ones: alpha 1 moves every row by this much."""
    alphas: Sequence[float]
    """Strengths, 0 left out: the unmoved question is always asked."""
    answered_alphas: Sequence[float]
    """Strengths at which the model answers; at the others the openings alone are scored."""
    random_seeds: Sequence[int]
    """One control vector each."""
    random_alphas: Sequence[float]
    """Strengths of the control vectors."""

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The unmoved questions, the instructions, and every strength of every vector."""
        for number, question in enumerate(self.questions):
            yield self._case(PLAIN, 0.0, number, _chat(space, question))
        for sign, instruction in ((1.0, self.positive_instruction), (-1.0, self.negative_instruction)):
            for number, question in enumerate(self.questions):
                yield self._case(INSTRUCTION, sign, number, _chat(space, f"{instruction} {question}"))
        # What is answered comes first, so that an engine can batch it.
        moves = sorted(self._moves(space), key=lambda move: not self._answers(move[0], move[2]))
        for condition, vector, alpha in moves:
            for number, question in enumerate(self.questions):
                prompt = vector.apply(_chat(space, question), alpha=alpha)
                yield self._case(condition, alpha, number, prompt)

    def analyse(self, records: Sequence[Record]) -> Report:
        """Dose-response of the openings' log-odds and of the answers."""
        measures = self._measures(records)
        title = f"Style: {self.positive_name} against {self.negative_name}"
        section = Section(
            title,
            self._finding(measures),
            f"A style vector is the difference between the mean rows of {len(self.positive)} {self.positive_name} and "
            f"{len(self.negative)} {self.negative_name} sentences, scaled to a norm of {self.norm:g}. Alpha times this "
            "vector is added to the rows of the question; the chat template stays as it is. Random vectors of the same "
            "norm show what any push does, and the instruction in plain words shows what the model can do.",
            figures=self._figures(measures),
            tables=[self._table(measures)],
            comparisons=self._comparisons(records),
        )
        return Report(title, "", [section])

    def _moves(self, space: EmbeddingSpace) -> list[tuple[str, StyleVector, float]]:
        vector = StyleVector.fit(space, positive=self.positive, negative=self.negative)
        moves = [(STYLE, (self.norm / vector.norm) * vector, alpha) for alpha in self.alphas]
        for seed in self.random_seeds:
            random = StyleVector.random(space, norm=self.norm, seed=seed)
            moves += [(f"{RANDOM} {seed}", random, alpha) for alpha in self.random_alphas]
        return moves

    def _case(self, condition: str, alpha: float, number: int, prompt: PromptEmbeds) -> Case:
        return Case(
            f"{condition}/alpha={alpha:+g}/q{number:02d}",
            prompt,
            {"condition": condition, "alpha": alpha, "question": number},
            {opening: opening for opening in (*self.positive_openings, *self.negative_openings)},
            self._answers(condition, alpha),
        )

    def _answers(self, condition: str, alpha: float) -> bool:
        """Whether an answer is wanted; of the random vectors, the first one's are enough."""
        if condition in (PLAIN, INSTRUCTION):
            return True
        return alpha in self.answered_alphas and condition in (STYLE, f"{RANDOM} {self.random_seeds[0]}")

    def _measures(self, records: Sequence[Record]) -> _Measures:
        odds = Measure.of(
            (*_place(record), log_odds(record.scores, self.positive_openings, self.negative_openings))
            for record in records
            if record.scores
        )
        answered = [record for record in records if record.text.strip()]
        plain = {
            record.tags["question"]: record.text
            for record in answered
            if record.tags["condition"] == PLAIN and record.choice == 0
        }
        compared = [record for record in answered if record.tags["question"] in plain]
        if not compared:
            return _Measures(odds, Measure({}), Measure({}))
        encoder, texts = SentenceSimilarity(), [record.text for record in compared]
        cosines = encoder.cosines(texts, [plain[record.tags["question"]] for record in compared])
        leans = StyleJudge.trained(encoder, self.judge).log_odds(texts)
        return _Measures(
            odds,
            Measure.of((*_place(record), value) for record, value in zip(compared, cosines, strict=True)),
            Measure.of((*_place(record), value) for record, value in zip(compared, leans, strict=True)),
        )

    def _lines(self, measure: Measure) -> list[Line]:
        """The dose-response of the style vector, and one grey line for each random vector."""
        places = {
            name: {0.0: (PLAIN, 0.0), **{alpha: (name, alpha) for alpha in alphas}}
            for name, alphas in (
                (STYLE, self.alphas),
                *((f"{RANDOM} {seed}", self.random_alphas) for seed in self.random_seeds),
            )
        }
        lines, named = [], False
        for name, path in places.items():
            points = measure.curve(path)
            if len(points) < 2:
                continue
            control = name != STYLE
            label = (
                f"{self.positive_name} vector"
                if not control
                else ""
                if named
                else "random vectors, equal norm"
            )
            lines.append(Line(label, points, control=control, band=not control))
            named = named or control
        return lines

    def _levels(self, measure: Measure) -> dict[str, Interval]:
        asked = {
            self.positive_name: measure.mean((INSTRUCTION, 1.0)),
            self.negative_name: measure.mean((INSTRUCTION, -1.0)),
        }
        return {f"instruction: {name}": mean for name, mean in asked.items() if mean is not None}

    def _figures(self, measures: _Measures) -> list[Figure]:
        plus, minus = self.positive_name, self.negative_name
        shown = {
            f"log-odds {plus} : {minus}, nats": (
                measures.odds,
                f"How much likelier a {plus} opening of the answer is than a {minus} one. The band is a 95% interval "
                "over questions; grey lines are random vectors, bars at the right the instructions' intervals.",
            ),
            "likeness to the unmoved answer": (
                measures.likeness,
                "Likeness in meaning (cosine of sentence vectors) of the answer to the answer without any shift.",
            ),
            f"judge's log-odds of {plus}, nats": (
                measures.lean,
                f"How {plus} rather than {minus} a judge finds the answer: a logistic regression on sentence vectors, "
                f"trained on {len(self.judge)} pairs of other texts.",
            ),
        }
        return [
            line_figure(
                lines,
                levels=self._levels(measure),
                x_label=f"strength alpha (times a norm of {self.norm:g})",
                y_label=label,
                caption=caption,
            )
            for label, (measure, caption) in shown.items()
            if (lines := self._lines(measure))
        ]

    def _table(self, measures: _Measures) -> Table:
        names = {PLAIN: "no shift", STYLE: f"{self.positive_name} vector"}
        styles = {1.0: self.positive_name, -1.0: self.negative_name}
        rows: list[list[Cell]] = []
        for condition, alpha in measures.conditions:
            means = (
                measure.mean((condition, alpha))
                for measure in (measures.odds, measures.likeness, measures.lean)
            )
            asked = condition == INSTRUCTION
            name = (
                f"instruction: {styles[float(alpha)]}" if asked else names.get(str(condition), str(condition))
            )
            rows.append(
                [
                    name,
                    "" if asked else signed(float(alpha), 1),
                    *("" if mean is None else mean for mean in means),
                ]
            )
        return Table(
            (
                "Condition",
                "Alpha",
                "Log-odds, nats",
                "Likeness to unmoved",
                f"Judge: {self.positive_name}, nats",
            ),
            rows,
            f"Means over up to {len(self.questions)} questions; 95% bootstrap intervals in small print.",
        )

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        answers = {
            place: found[0] for place, found in by_tags(records, "question", "condition", "alpha").items()
        }
        low, high = min(self.answered_alphas), max(self.answered_alphas)
        plus, minus = self.positive_name, self.negative_name
        wanted = {
            "No shift": (PLAIN, 0.0),
            f"Towards {plus}: alpha {signed(high, 1)}": (STYLE, high),
            f"Instruction: {plus}": (INSTRUCTION, 1.0),
            f"Random vector: alpha {signed(high, 1)}": (f"{RANDOM} {self.random_seeds[0]}", high),
            f"Towards {minus}: alpha {signed(low, 1)}": (STYLE, low),
            f"Instruction: {minus}": (INSTRUCTION, -1.0),
        }
        comparisons = []
        for number, question in enumerate(self.questions):
            shown = [
                Answer.of(label, answers[number, *place])
                for label, place in wanted.items()
                if (number, *place) in answers
            ]
            comparisons.append(Comparison(question, shown))
        return [comparison for comparison in comparisons if comparison.answers]

    def _finding(self, measures: _Measures) -> str:
        """What moving from the lowest to the highest strength did, beside the controls."""
        told, plus, minus = measures.odds or measures.lean, self.positive_name, self.negative_name
        low, high = min(self.alphas), max(self.alphas)
        effect = told.change((STYLE, low), (STYLE, high))
        if effect is None:
            return "Too few answers were recorded to compare strengths of style."
        if measures.odds:
            did = f"multiplied the odds of a {plus} over a {minus} opening by {math.exp(effect.estimate):.3g}"
        else:
            did = f"moved the judge's log-odds of {plus} over {minus} answers"
        text = (
            f"Moving questions along the {plus} direction from alpha {signed(low, 1)} to {signed(high, 1)} {did}: "
            f"{signed(effect.estimate)} (95% interval {signed(effect.low)} to {signed(effect.high)}, {effect.items} "
            f"questions{', log-odds in nats' if measures.odds else ''})"
        )
        text += "." if effect.excludes(0) else ", which cannot be told from chance."
        ends = min(self.random_alphas), max(self.random_alphas)
        places = [f"{RANDOM} {seed}" for seed in self.random_seeds]
        controls = [told.change((place, ends[0]), (place, ends[1])) for place in places]
        if moved := [control.estimate for control in controls if control is not None]:
            between = " to ".join(dict.fromkeys((signed(min(moved)), signed(max(moved)))))
            text += f" Random vectors of the same norm ({len(moved)} drawn): {between}."
        spoken = told.change((INSTRUCTION, -1.0), (INSTRUCTION, 1.0))
        return text if spoken is None else f"{text} Asking for the style in words: {signed(spoken.estimate)}."


@dataclass(frozen=True)
class _Measures:
    """What is measured of every condition and strength."""

    odds: Measure
    """Log-odds of the positive openings over the negative ones, in nats."""
    likeness: Measure
    """Likeness of an answer's meaning to the plain answer's."""
    lean: Measure
    """Log-odds, by an independent judge, that an answer is in the positive style, in nats."""

    @property
    def conditions(self) -> list[Condition]:
        """Every condition and strength, in the order of the table."""
        order = (STYLE, PLAIN, INSTRUCTION)
        return sorted(
            {*self.odds.values, *self.lean.values},
            key=lambda place: (
                order.index(place[0]) if place[0] in order else len(order),
                str(place[0]),
                place[1],
            ),
        )


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["condition"]), float(record.tags["alpha"])), int(record.tags["question"])


def _chat(space: EmbeddingSpace, text: str) -> PromptEmbeds:
    return space.embed_chat([{"role": "user", "content": text}])
