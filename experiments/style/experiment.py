"""Style: questions moved along style vectors, against vectors that mean nothing and against the plain instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector
from embedspace.metrics import Condition
from embedspace.prompt import Rows
from embedspace.reporting import Comparison, Report, Section, compare_answers, signed
from embedspace.runs import AnswerOf, Case, Record, Tag, by_tags
from embedspace.style import Direction
from experiments.style.comparisons import InstructionComparison
from experiments.style.description import MOVED, trained_controls, untrained_controls, vector_origin
from experiments.style.evidence import SideEvidence, evidence_table
from experiments.style.judges import InstructedJudge
from experiments.style.metrics import (
    FLUENCY,
    INSTRUCTION,
    PLAIN,
    TEACHER,
    UNSHIFTED,
    Limits,
    Measured,
    fluency_name,
)
from experiments.style.report import StyleReport
from experiments.style.vectors import (
    LABELS,
    NEUTRAL_TARGETS,
    OPTIMISED,
    RANDOM,
    SHUFFLED,
    SHUFFLED_TARGETS,
    TRAINED_CONTROLS,
    DistillationSource,
    Move,
    chat,
    direction,
    optimised_controls,
    random_controls,
)


@dataclass(frozen=True)
class Style:
    """Asks every question with its rows shifted by ``alpha`` times vectors of one norm."""

    questions: Sequence[str]
    asked_questions: int | None
    """How many of them, the first ones, are asked; None asks all."""
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
    methods: Sequence[Direction]
    """Ways to find a direction between the sentences; the first is the one in question where none is optimised."""
    answered_methods: Sequence[Direction]
    """Those of them that answer at all of ``answered_alphas``; the others do where the controls do."""
    rows: Rows
    """Which rows of a question every vector moves."""
    optimised: Mapping[str, Any] | None
    """Options of ``Optimisation``: vectors are distilled from the model's answers to other questions under instruction
    and examples, one for each side of ``learnt_sides``; None leaves them out."""
    learnt_sides: Sequence[float]
    """1 for the positive, -1 for the negative side."""
    learnt_on: Sequence[str]
    """The questions of that; none of them is asked here."""
    example_questions: Sequence[str]
    """Asked and answered before each of them, in the style of the side."""
    positive_answers: Sequence[str]
    negative_answers: Sequence[str]
    neutral: Mapping[str, Any]
    """Instruction, example questions and answers that ask for no style: the teacher of a trained control."""
    norm: float
    """Length of every vector but the optimised ones: alpha 1 moves every row by this much."""
    alphas: Sequence[float]
    """Strengths, 0 left out: the unshifted question is always asked."""
    answered_alphas: Sequence[float]
    """Strengths at which the model answers; at the others only the openings are scored."""
    strength: float
    """At which the vector in question is compared with the instruction."""
    control_seeds: Sequence[int]
    """One random vector and one of shuffled labels for each."""
    control_alphas: Sequence[float]
    """Strengths of the control vectors."""
    answered_control_alphas: Sequence[float]
    trained_control_seeds: Sequence[int]
    """Two control vectors are trained as the optimised ones are for each: on shuffled and on neutral targets. They
    answer at ``strength``."""
    scored_questions: int
    """Of how many questions, the first ones, the openings are scored."""
    limits: Limits
    """Of the usable range of strengths."""
    margin: float
    """Difference of the judge's log-odds, in nats, that does not matter beside the instruction."""
    second_judge: str | None
    """Packaged name, folder or hub id of a language model that is asked for the style of an answer; None for none."""
    pretrained: str | None = None
    """A vector that was distilled before, by packaged name, file or hub id: the positive side's optimised one."""

    @property
    def asked(self) -> Sequence[str]:
        """The questions that are asked."""
        return self.questions[: self.asked_questions]

    @property
    def item_texts(self) -> Sequence[str]:
        """The questions, for the ledger of sealed sets."""
        return self.asked

    @property
    def best(self) -> str:
        """The vector in question."""
        return OPTIMISED if self._has_learnt else self.methods[0]

    @property
    def _has_learnt(self) -> bool:
        return self.optimised is not None or self.pretrained is not None

    @property
    def _trains_controls(self) -> bool:
        return self.optimised is not None and self.pretrained is None and bool(self.trained_control_seeds)

    @property
    def _sides(self) -> list[float]:
        """Signs of the sides that are answered at ``strength``, positive first."""
        return [sign for sign in (1.0, -1.0) if sign * self.strength in self.answered_alphas]

    @property
    def _teachers(self) -> dict[float, DistillationSource]:
        """What the vectors in question learnt from, of the sides that are compared; empty where it is not known."""
        if self.optimised is None or self.pretrained is not None:
            return {}
        return {sign: source for sign, source in self.distillation_sources.items() if sign in self._sides}

    @property
    def paths(self) -> dict[str, dict[float, Condition]]:
        """Every vector's strengths, and where they are recorded; the controls of one kind are pooled."""
        methods = [*([OPTIMISED] if self._has_learnt else []), *self.methods]
        strengths = dict.fromkeys(methods, self.alphas)
        strengths |= {name: self.control_alphas for name in (SHUFFLED, RANDOM) if self.control_seeds}
        if self._trains_controls:
            shuffled = [sign * self.strength for sign in self._sides if sign in self.learnt_sides]
            strengths |= {SHUFFLED_TARGETS: shuffled, NEUTRAL_TARGETS: [self.strength]}
        return {
            name: {0.0: UNSHIFTED, **{alpha: (name, alpha) for alpha in alphas}}
            for name, alphas in strengths.items()
        }

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The unshifted questions, the instructions, every strength of every vector, and how fluent the answers are."""
        unshifted = [chat(space, question) for question in self.asked]
        prompts: dict[tuple[str, float], Callable[[int], PromptEmbeds]] = {
            (PLAIN, 0.0): unshifted.__getitem__
        }
        instructions = {1.0: self.positive_instruction, -1.0: self.negative_instruction}
        for sign in self._sides:
            prompts[INSTRUCTION, sign] = partial(self._instructed, space, instructions[sign])
        for sign, source in self._teachers.items():
            taught = partial(source.teacher, space)
            prompts[TEACHER, sign] = lambda number, taught=taught: taught(self.asked[number])
        for name, vector, alpha, by in sorted(
            self._moves(space), key=lambda move: not self._answers(move[0], move[2])
        ):
            if (name, alpha) in prompts:
                raise ValueError(
                    f"the vector {name!r} has the strength {alpha:g} twice; give each strength once"
                )
            prompts[name, alpha] = partial(self._moved, unshifted, vector, by)
        # What is answered comes first, so that an engine can batch it.
        for (name, alpha), prompt_of in prompts.items():
            for number in range(len(self.asked)):
                if self._answers(name, alpha) or number < self.scored_questions:
                    yield self._case(name, alpha, number, partial(prompt_of, number))
        answered = [place for place in prompts if self._answers(*place)]
        for number in range(len(self.asked)):
            answers = {fluency_name(*place): AnswerOf(_key(*place, number)) for place in answered}
            tags: dict[str, Tag] = {"condition": FLUENCY, "alpha": 0.0, "question": number}
            yield Case(f"{FLUENCY}/q{number:02d}", unshifted[number], tags, answers, answered=False)

    def _instructed(self, space: EmbeddingSpace, instruction: str, number: int) -> PromptEmbeds:
        return chat(space, f"{instruction} {self.asked[number]}")

    def _moved(
        self, unshifted: Sequence[PromptEmbeds], vector: StyleVector, alpha: float, number: int
    ) -> PromptEmbeds:
        return vector.apply(unshifted[number], alpha=alpha, rows=self.rows)

    def analyse(self, records: Sequence[Record]) -> Report:
        """Dose-response, the comparison with the instruction, and the usable range of strengths."""
        openings = self.positive_openings, self.negative_openings
        names, second = (self.positive_name, self.negative_name), None
        if self.second_judge is not None:
            second = InstructedJudge(self.second_judge, *names)
        measured = Measured.of(records, self.asked, openings, self.judge, second, self._seconded)
        seeds = dict.fromkeys((RANDOM, SHUFFLED), self.control_seeds)
        seeds |= dict.fromkeys(TRAINED_CONTROLS, self.trained_control_seeds)
        pooled = measured.pooled({f"{kind} {seed}": kind for kind, own in seeds.items() for seed in own})
        strengths = {SHUFFLED_TARGETS: None, NEUTRAL_TARGETS: self.strength}
        report = StyleReport(
            measured,
            pooled,
            self.paths,
            self.best,
            names,
            self.comparisons(measured),
            SideEvidence.of(pooled, self._compared_sides, strengths),
            self.limits,
            self.norm,
            tuple(self.control_seeds),
        )
        title = f"Style: {self.positive_name} against {self.negative_name}"
        tables = (
            report.instruction_table(),
            evidence_table(report.pooled, report.evidence),
            report.usable_range_table(),
            report.places_table(),
        )
        section = Section(
            title,
            report.finding(),
            self._text(),
            figures=report.figures(len(self.judge)),
            tables=[table for table in tables if table.rows],
            comparisons=self._comparisons(records),
            verdict=report.verdict(),
            pair=("No shift", self._label(1.0, self.positive_name)),
        )
        return Report(title, "", [section])

    def comparisons(self, measured: Measured) -> list[InstructionComparison]:
        """The vector in question against the instruction, on both sides."""
        return InstructionComparison.family(measured, self._compared_sides, margin=self.margin)

    def _seconded(self, place: Condition) -> bool:
        """Whether the second judge is asked, which takes longer than the first: where something is compared by it."""
        compared = (PLAIN, INSTRUCTION, TEACHER, *TRAINED_CONTROLS)
        return str(place[0]).startswith(compared) or place in [own for own, *_ in self._compared_sides]

    @property
    def _compared_sides(self) -> list[tuple[Condition, float, str]]:
        """Where the vector in question is compared, with the sign and name of the side."""
        names = {1.0: self.positive_name, -1.0: self.negative_name}
        return [((self.best, sign * self.strength), sign, names[sign]) for sign in self._sides]

    @cached_property
    def distillation_sources(self) -> dict[float, DistillationSource]:
        """What the optimised vectors are distilled from, by the sign of the side."""
        options = {**(self.optimised or {}), "rows": self.rows}
        sides = {
            1.0: (self.positive_instruction, self.positive_answers),
            -1.0: (self.negative_instruction, self.negative_answers),
        }
        return {
            sign: DistillationSource(
                self.learnt_on, wanted, list(zip(self.example_questions, answers, strict=True)), options
            )
            for sign, (wanted, answers) in sides.items()
            if sign in self.learnt_sides
        }

    def _moves(self, space: EmbeddingSpace) -> list[Move]:
        moves: list[Move] = []
        learnt = {}
        if self.pretrained is not None:
            learnt[1.0] = StyleVector.from_pretrained(self.pretrained, space)
        elif self.optimised is not None:
            learnt = {sign: teaching.vector(space) for sign, teaching in self.distillation_sources.items()}
        moves += [
            (OPTIMISED, learnt[sign], alpha, abs(alpha))
            for alpha in self.alphas
            if (sign := 1.0 if alpha > 0 else -1.0) in learnt
        ]
        examples = self.positive, self.negative
        for method in self.methods:
            vector = direction(space, *examples, method=method, norm=self.norm)
            moves += [(method, vector, alpha, alpha) for alpha in self.alphas]
        moves += random_controls(
            space, examples, norm=self.norm, seeds=self.control_seeds, alphas=self.control_alphas
        )
        if self._trains_controls:
            moves += optimised_controls(
                space, self._teachers, self.neutral, learnt, self.trained_control_seeds, self.strength
            )
        return moves

    def _case(self, condition: str, alpha: float, number: int, prompt: Callable[[], PromptEmbeds]) -> Case:
        scored = (*self.positive_openings, *self.negative_openings) if number < self.scored_questions else ()
        return Case(
            _key(condition, alpha, number),
            prompt,
            {"condition": condition, "alpha": alpha, "question": number},
            {opening: opening for opening in scored},
            self._answers(condition, alpha),
        )

    def _answers(self, condition: str, alpha: float) -> bool:
        """Whether an answer is wanted."""
        if condition in (PLAIN, INSTRUCTION, TEACHER) or condition.startswith(TRAINED_CONTROLS):
            return True
        throughout = condition in (self.best, *self.answered_methods)
        return alpha in (self.answered_alphas if throughout else self.answered_control_alphas)

    def _text(self) -> str:
        learnt = self.optimised is not None
        origin = vector_origin(self.pretrained, learnt, len(self.learnt_on), len(self.example_questions))
        untrained = untrained_controls(len(self.control_seeds)) if self.control_seeds else ""
        trained = trained_controls(len(self.trained_control_seeds)) if self._trains_controls else ""
        return (
            f"A vector times alpha is added to {MOVED[self.rows]}; no row is added. {origin}"
            f"{len(self.positive)} {self.positive_name} and {len(self.negative)} {self.negative_name} sentences give "
            f"the directions ({', '.join(LABELS[method] for method in self.methods)}), of norm {self.norm:g}.\n\n"
            f"Controls: {untrained}the instruction in plain words, which adds rows.{trained} The judge "
            "was trained on neither the sentences nor the answers. Perplexity is that of an answer under the "
            "unshifted model after the plain question."
        )

    def _label(self, sign: float, side: str) -> str:
        """Of the answers under the vector in question."""
        alpha = signed(sign * self.strength, 1)
        return f"Towards {side}: {LABELS.get(self.best, self.best)}, alpha {alpha}"

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        places = {"No shift": UNSHIFTED}
        for place, sign, side in self._compared_sides:
            alpha = f"alpha {signed(sign * self.strength, 1)}"
            places |= {self._label(sign, side): place, f"Instruction: {side}": (INSTRUCTION, sign)}
            places |= {f"Instruction and examples: {side}": (TEACHER, sign)}
            if self._has_learnt:
                places[f"{LABELS[self.methods[0]]} of sentences: {alpha}"] = (self.methods[0], place[1])
            for seed in self.control_seeds[:1]:
                places[f"Random vector: {alpha}"] = (f"{RANDOM} {seed}", place[1])
        return compare_answers(self.asked, by_tags(records, "question", "condition", "alpha"), places)


def _key(condition: str, alpha: float, number: int) -> str:
    return f"{condition}/alpha={alpha:+g}/q{number:02d}"
