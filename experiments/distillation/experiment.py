"""Distillation: does a system prompt in a few learnt rows do what it does in full?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.compression import Method
from embedspace.distillation import divergences
from embedspace.engines import Prompt, Sampling
from embedspace.reporting import Comparison, Report, Section, compare_answers
from embedspace.runs import Case, Record, Tag, by_tags
from experiments.distillation.metrics import BESIDE, DISTILLED, FACTS, FULL, NONE, OTHER, RANDOM, Measured
from experiments.distillation.report import (
    closed_figure,
    conditions_table,
    finding,
    prompts_table,
    questions_figure,
    verdict,
)
from experiments.distillation.rows import RowSource, SystemPrompt, engine_of


@dataclass(frozen=True)
class DistilledPrompts:
    """Asks sealed questions after system prompts: in full, left out, compressed, and distilled into rows."""

    prompts: Sequence[SystemPrompt]
    names: Sequence[str] | None
    """Which of them; None for all."""
    rows: Sequence[int]
    """Numbers of rows; a number that a prompt has no more content rows than is left out for it."""
    main_rows: int
    """The number at which everything is compared."""
    training_questions: Sequence[int]
    """How many questions the rows are learnt from, at ``main_rows``; the largest is used elsewhere."""
    sealed_questions: int
    """How many of the sealed questions are asked."""
    settings: Mapping[str, Any]
    """Of :class:`~embedspace.distillation.Distillation`."""
    compressions: Sequence[Method]
    """Untrained ways to as many rows, as controls."""
    random_seed: int | None
    """Of random rows of the vocabulary, as a control; None leaves them out."""
    others: bool
    """Whether rows that were distilled from the next system prompt are a control."""
    answer_tokens: int
    """Length of the teacher's answers along which the divergence is measured."""

    @property
    def chosen(self) -> list[SystemPrompt]:
        """The prompts that are asked after.

        Raises:
            ValueError: a name that no prompt has.
        """
        known = {prompt["name"]: prompt for prompt in self.prompts}
        if unknown := [name for name in self.names or () if name not in known]:
            raise ValueError(f"there is no system prompt {unknown[0]!r}; known are {', '.join(known)}")
        return [prompt for name, prompt in known.items() if self.names is None or name in self.names]

    @property
    def item_texts(self) -> list[str]:
        """The sealed questions with their prompts' names, for the ledger of sealed sets."""
        return [
            f"{prompt['name']}: {sealed['question']}"
            for prompt in self.chosen
            for sealed in prompt["sealed"][: self.sealed_questions]
        ]

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """For each prompt: the whole and none, controls, and every number of rows and questions."""
        sources = [RowSource(space, prompt, self.settings) for prompt in self.chosen]
        for number, source in enumerate(sources):
            teachers = _Teachers(source, self.answer_tokens)
            yield from self._cases(number, source, FULL, 0, 0, source.whole, teachers)
            yield from self._cases(number, source, NONE, 0, 0, partial(_plain, space), teachers)
            if facts := source.prompt.get("facts"):
                yield from self._cases(number, source, FACTS, 0, 0, partial(source.asked, facts), teachers)
            most = max(self.training_questions)
            for tokens in self.rows:
                if tokens >= len(source.content):
                    continue
                for method in self.compressions:
                    rows = _once(partial(source.compressed, method, tokens))
                    yield from self._cases(number, source, method, tokens, 0, rows(source), teachers)
                if tokens == self.main_rows:
                    yield from self._controls(number, sources, teachers, most)
                counts = self.training_questions if tokens == self.main_rows else [most]
                for count in counts:
                    rows = _once(partial(source.distilled, tokens, count))
                    yield from self._cases(number, source, DISTILLED, tokens, count, rows(source), teachers)
                    if source.prompt.get("facts") and (tokens, count) == (self.main_rows, most):
                        beside = partial(rows(source), facts=True)
                        yield from self._cases(number, source, BESIDE, tokens, count, beside, teachers)

    def analyse(self, records: Sequence[Record]) -> Report:
        """What share of the divergence is closed, and what the answers hold."""
        title = "A system prompt in a few rows"
        measured = Measured.of(records, self.chosen)
        most = max(self.training_questions)
        section = Section(
            title,
            finding(measured, self.main_rows, most),
            f"{len(self.chosen)} system prompts; each in full, left out, and in place of it rows of the input "
            f"embedding space. Distilled rows were learnt from up to {most} questions; the {self.sealed_questions} "
            "questions asked here are others. The divergence is that of the next-token distributions from those after "
            "the whole prompt, along its greedy answers. Controls of as many rows: untrained compressions"
            f"{', rows distilled from another system prompt' if self.others else ''}"
            f"{', random rows of the vocabulary' if self.random_seed is not None else ''}. Where a prompt has facts "
            "that are repeated word for word, they also stand as text beside the rows, and alone.",
            figures=[
                figure
                for figure in (
                    closed_figure(measured, most),
                    questions_figure(measured, self.main_rows),
                )
                if figure is not None
            ],
            tables=[
                table
                for table in (
                    conditions_table(measured),
                    prompts_table(measured, self.chosen, self.main_rows, most),
                )
                if table.rows
            ],
            comparisons=self._comparisons(records, most),
            verdict=verdict(measured, self.main_rows, most),
            pair=("The whole prompt", f"{self.main_rows} distilled rows"),
        )
        return Report(title, "", [section])

    def _controls(
        self, number: int, sources: Sequence[RowSource], teachers: _Teachers, questions: int
    ) -> Iterator[Case]:
        source, tokens = sources[number], self.main_rows
        if self.random_seed is not None:
            rows = _once(partial(source.random, tokens, self.random_seed))
            yield from self._cases(number, source, RANDOM, tokens, 0, rows(source), teachers)
        other = sources[(number + 1) % len(sources)]
        if self.others and other is not source and tokens < len(other.content):
            rows = _once(partial(other.distilled, tokens, questions))
            yield from self._cases(number, source, OTHER, tokens, questions, rows(source), teachers)

    def _cases(
        self,
        number: int,
        source: RowSource,
        condition: str,
        tokens: int,
        questions: int,
        prompt_of: Callable[[str], PromptEmbeds],
        teachers: _Teachers,
    ) -> Iterator[Case]:
        for place, sealed in enumerate(source.prompt["sealed"][: self.sealed_questions]):
            question = sealed["question"]
            yield Case(
                f"{source.prompt['name']}/{condition}/rows={tokens}/questions={questions}/q{place:02d}",
                partial(prompt_of, question),
                {
                    "prompt": number,
                    "condition": condition,
                    "tokens": tokens,
                    "learnt_from": questions,
                    "question": place,
                },
                measured=partial(teachers.tags, question),
            )

    def _comparisons(self, records: Sequence[Record], questions: int) -> list[Comparison]:
        found = by_tags(records, "prompt", "question", "condition", "tokens", "learnt_from")
        shown = []
        for number, prompt in enumerate(self.chosen):
            own = {key[1:]: value for key, value in found.items() if key[0] == number}
            places = {
                "The whole prompt": (FULL, 0, 0),
                f"{self.main_rows} distilled rows": (DISTILLED, self.main_rows, questions),
                **{
                    f"{self.main_rows} rows, {way}": (way, self.main_rows, 0) for way in self.compressions[:1]
                },
                "No system prompt": (NONE, 0, 0),
            }
            asked = [f"{prompt['name']}: {sealed['question']}" for sealed in prompt["sealed"][:3]]
            shown += compare_answers(asked, own, places)
        return shown


@dataclass(frozen=True, eq=False)
class _Teachers:
    """Divergence from the whole prompt, with its greedy answers computed once."""

    source: RowSource
    answer_tokens: int
    answers: dict[str, tuple[int, ...]] = field(default_factory=dict)

    def tags(self, question: str, prompt: Prompt) -> Mapping[str, Tag]:
        """Number of rows, divergence and equal greedy tokens of a prompt that asks the question."""
        assert isinstance(prompt, PromptEmbeds)
        engine = engine_of(self.source.space)
        whole = self.source.whole(question)
        if question not in self.answers:
            sampling = Sampling(max_tokens=self.answer_tokens)
            self.answers[question] = next(iter(engine.generate([whole], sampling))).token_ids
        ((divergence, equal),) = divergences(engine, [whole], [prompt], [self.answers[question]])
        return {"rows": len(prompt), "divergence": divergence, "equal_tokens": equal}


def _once(make: Callable[[], Any]) -> Callable[[RowSource], Callable[..., PromptEmbeds]]:
    """Rows that are made when the first question needs them, and how they are asked after."""
    kept: list[Any] = []

    def bound(source: RowSource) -> Callable[..., PromptEmbeds]:
        def prompt_of(question: str, *, facts: bool = False) -> PromptEmbeds:
            if not kept:
                kept.append(make())
            return source.asked(kept[0], question, facts=facts)

        return prompt_of

    return bound


def _plain(space: EmbeddingSpace, question: str) -> PromptEmbeds:
    return space.embed_chat([{"role": "user", "content": question}])
