"""Style: questions moved along style vectors, against vectors that mean nothing and against the plain instruction."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector
from embedspace.metrics import Condition
from embedspace.prompt import Rows
from embedspace.reporting import Comparison, Report, Section, compare_answers, counted, signed
from embedspace.runs import AnswerOf, Case, Record, Tag, by_tags
from embedspace.style import Direction
from experiments.style.comparisons import InstructionComparison
from experiments.style.metrics import (
    FLUENCY,
    INSTRUCTION,
    PLAIN,
    UNSHIFTED,
    Limits,
    Measured,
    fluency_name,
)
from experiments.style.report import StyleReport
from experiments.style.vectors import (
    LABELS,
    OPTIMISED,
    RANDOM,
    SHUFFLED,
    DistillationSource,
    chat,
    direction,
    shuffled,
)

Move = tuple[str, StyleVector, float, float]
"""Condition, vector, strength as the report has it, and the strength at which the vector is applied."""


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
    scored_questions: int
    """Of how many questions, the first ones, the openings are scored."""
    limits: Limits
    """Of the usable range of strengths."""
    margin: float
    """Difference of the judge's log-odds, in nats, that does not matter beside the instruction."""
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
    def paths(self) -> dict[str, dict[float, Condition]]:
        """Every vector's strengths, and where they are recorded; the controls of one kind are pooled."""
        methods = [*([OPTIMISED] if self._has_learnt else []), *self.methods]
        strengths = dict.fromkeys(methods, self.alphas)
        strengths |= {name: self.control_alphas for name in (SHUFFLED, RANDOM) if self.control_seeds}
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
        for sign, instruction in ((1.0, self.positive_instruction), (-1.0, self.negative_instruction)):
            prompts[INSTRUCTION, sign] = partial(self._instructed, space, instruction)
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
        measured = Measured.of(records, self.asked, openings, self.judge)
        report = StyleReport(
            measured,
            measured.pooled(
                {f"{kind} {seed}": kind for kind in (RANDOM, SHUFFLED) for seed in self.control_seeds}
            ),
            self.paths,
            self.best,
            (self.positive_name, self.negative_name),
            self.comparisons(measured),
            self.limits,
            self.norm,
            tuple(self.control_seeds),
        )
        title = f"Style: {self.positive_name} against {self.negative_name}"
        section = Section(
            title,
            report.finding(),
            self._text(),
            figures=report.figures(len(self.judge)),
            tables=[
                table
                for table in (report.instruction_table(), report.usable_range_table(), report.places_table())
                if table.rows
            ],
            comparisons=self._comparisons(records),
            verdict=report.verdict(),
            pair=("No shift", self._label(1.0, self.positive_name)),
        )
        return Report(title, "", [section])

    def comparisons(self, measured: Measured) -> list[InstructionComparison]:
        """The vector in question against the instruction, on both sides."""
        sides = ((1.0, self.positive_name), (-1.0, self.negative_name))
        return InstructionComparison.family(
            measured,
            [((self.best, sign * self.strength), sign, side) for sign, side in sides],
            margin=self.margin,
        )

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
        for seed in self.control_seeds:
            random = StyleVector.random(space, norm=self.norm, seed=seed)
            relabelled = shuffled(space, *examples, norm=self.norm, seed=seed)
            for kind, vector in ((RANDOM, random), (SHUFFLED, relabelled)):
                moves += [(f"{kind} {seed}", vector, alpha, alpha) for alpha in self.control_alphas]
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
        if condition in (PLAIN, INSTRUCTION):
            return True
        throughout = condition in (self.best, *self.answered_methods)
        return alpha in (self.answered_alphas if throughout else self.answered_control_alphas)

    def _text(self) -> str:
        seeds = counted(len(self.control_seeds), "seed")
        vectors = (
            f"random vectors of that norm ({seeds}), the mean difference of the same sentences with shuffled labels "
            f"({seeds}), and "
            if self.control_seeds
            else ""
        )
        return (
            f"A vector times alpha is added to {_MOVED[self.rows]}; no row is added. {self._learnt_text()}"
            f"{len(self.positive)} {self.positive_name} and {len(self.negative)} {self.negative_name} sentences give "
            f"the directions ({', '.join(LABELS[method] for method in self.methods)}), of norm {self.norm:g}.\n\n"
            f"Controls: {vectors}the instruction in plain words, which adds rows. The judge "
            "was trained on neither the sentences nor the answers. Perplexity is that of an answer under the "
            "unshifted model after the plain question."
        )

    def _learnt_text(self) -> str:
        """Where the optimised vectors come from; nothing where there are none."""
        if self.pretrained is not None:
            return (
                f"The optimised vector is “{self.pretrained}”, distilled from a model's own answers under an "
                "instruction before this run. Positive strengths apply it. "
            )
        if self.optimised is None:
            return ""
        return (
            "The optimised vectors, one for each side, were distilled from the model's own answers to "
            f"{len(self.learnt_on)} other questions with the instruction and {len(self.example_questions)} example "
            "answers before them: the moved question alone has to give the same answers. Positive strengths apply the "
            "one, negative strengths the other. "
        )

    def _label(self, sign: float, side: str) -> str:
        """Of the answers under the vector in question."""
        alpha = signed(sign * self.strength, 1)
        return f"Towards {side}: {LABELS.get(self.best, self.best)}, alpha {alpha}"

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        places = {"No shift": UNSHIFTED}
        for sign, side in ((1.0, self.positive_name), (-1.0, self.negative_name)):
            alpha = sign * self.strength
            places[self._label(sign, side)] = (self.best, alpha)
            places[f"Instruction: {side}"] = (INSTRUCTION, sign)
            if self._has_learnt and alpha in self.answered_alphas:
                name = LABELS[self.methods[0]]
                places[f"{name[:1].upper()}{name[1:]} of sentences: alpha {signed(alpha, 1)}"] = (
                    self.methods[0],
                    alpha,
                )
            for seed in self.control_seeds[:1]:
                places[f"Random vector: alpha {signed(alpha, 1)}"] = (f"{RANDOM} {seed}", alpha)
        return compare_answers(self.asked, by_tags(records, "question", "condition", "alpha"), places)


_MOVED: dict[Rows, str] = {
    "content": "the rows of the question; the chat template stays as it is",
    "last": "the last row of the question, its punctuation mark; all others stay as they are",
    "template": "the rows of the chat template; the question stays as it is",
    "all": "all rows",
}


def _key(condition: str, alpha: float, number: int) -> str:
    return f"{condition}/alpha={alpha:+g}/q{number:02d}"
