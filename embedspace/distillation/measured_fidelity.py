"""How faithfully a soft prompt, or any other prompt, gives the answers of the messages that it stands for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedspace._util.markdown import markdown_table
from embedspace.distillation.answer_logits import answer_logits, as_they_are
from embedspace.distillation.placement import full_conversation
from embedspace.distillation.soft_prompt import SoftPrompt
from embedspace.distillation.teacher_answers import require_gradients
from embedspace.engines import Completion, Sampling
from embedspace.metrics import Interval, Measure, kept_share, mean_interval

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import Conversation

_BATCH_SIZE = 4


@dataclass(frozen=True)
class QuestionFidelity:
    """One question."""

    question: str
    teacher: str
    """The model's greedy answer after the messages."""
    student: str
    """Its answer with what stands for them."""
    plain: str
    """Its answer to the question alone."""
    divergence: float
    """Kullback-Leibler divergence from the teacher along the teacher's answer, nats per token, whole vocabulary."""
    divergence_plain: float
    """The same for the question alone."""
    equal_tokens: float
    """Share of the teacher's tokens that the student would choose at the same place, greedily."""
    equal_tokens_plain: float


@dataclass(frozen=True)
class Fidelity:
    """What :func:`fidelity` measured."""

    questions: tuple[QuestionFidelity, ...]

    @property
    def divergence(self) -> Interval:
        """Mean divergence from the teacher, nats per token."""
        return mean_interval([each.divergence for each in self.questions])

    @property
    def divergence_plain(self) -> Interval:
        """The same for the questions alone."""
        return mean_interval([each.divergence_plain for each in self.questions])

    @property
    def closed(self) -> Interval | None:
        """Share of the divergence of the questions alone that is closed; None where there is none to close."""
        own = ("plain", "student", "teacher")
        values = [(each.divergence_plain, each.divergence, 0.0) for each in self.questions]
        measure = Measure(
            {(name,): dict(enumerate(-row[place] for row in values)) for place, name in enumerate(own)}
        )
        return kept_share(measure, ("student",), nothing=("plain",), everything=("teacher",))

    @property
    def equal_tokens(self) -> Interval:
        """Mean share of the teacher's tokens that the student would choose at the same place."""
        return mean_interval([each.equal_tokens for each in self.questions])

    @property
    def equal_answers(self) -> int:
        """How many answers are the teacher's, word for word."""
        return sum(each.student == each.teacher for each in self.questions)

    def table(self) -> str:
        """The answers side by side, in Markdown."""
        return markdown_table(
            (
                "question",
                "with the messages",
                "with the soft prompt",
                "with neither",
                "divergence",
                "of neither",
            ),
            [
                [
                    *(
                        " ".join(text.split())
                        for text in (each.question, each.teacher, each.student, each.plain)
                    ),
                    f"{each.divergence:.2f}",
                    f"{each.divergence_plain:.2f}",
                ]
                for each in self.questions
            ],
        )

    def __str__(self) -> str:
        closed = "" if self.closed is None else f"; {self.closed.estimate:.0%} of the divergence closed"
        return (
            f"{len(self.questions)} questions: divergence {self.divergence.estimate:.3f} nats per token "
            f"({self.divergence_plain.estimate:.3f} with neither){closed}; "
            f"{self.equal_tokens.estimate:.0%} equal greedy tokens; {self.equal_answers} answers word for word"
        )


def fidelity(
    engine: TransformersEngine,
    messages: Conversation,
    student: SoftPrompt | Callable[[str], PromptEmbeds],
    questions: Sequence[str],
    *,
    max_tokens: int = 32,
) -> Fidelity:
    """Compare answers with those that the messages give, on questions of your own.

    Args:
        engine: the model, in process.
        messages: what the student stands for.
        student: a soft prompt, or a function from a question to the prompt that asks it.
        questions: best ones that nothing was distilled from.
        max_tokens: limit on the tokens of an answer.

    Raises:
        TypeError: an engine without logits.
        ValueError: no questions, a soft prompt of another space, or a prompt that the model cannot answer.
    """
    engine = require_gradients(engine)
    if not questions:
        raise ValueError("questions is empty; give at least one question to compare the answers to")
    space = engine.space

    def plain(question: str) -> PromptEmbeds:
        return space.embed_chat([{"role": "user", "content": question}])

    if isinstance(student, SoftPrompt):
        space.require(student.prompt)
    prompts = {
        "teacher": [space.embed_chat(full_conversation(messages, question)) for question in questions],
        "student": [
            space.embed_chat(student.conversation(question))
            if isinstance(student, SoftPrompt)
            else student(question)
            for question in questions
        ],
        "plain": [plain(question) for question in questions],
    }
    answers = {name: _answers(engine, asked, max_tokens) for name, asked in prompts.items()}
    ids = [completion.token_ids for completion in answers["teacher"]]
    own, without = (
        divergences(engine, prompts["teacher"], prompts[name], ids) for name in ("student", "plain")
    )
    return Fidelity(
        tuple(
            QuestionFidelity(
                question,
                answers["teacher"][number].text,
                answers["student"][number].text,
                answers["plain"][number].text,
                own[number][0],
                without[number][0],
                own[number][1],
                without[number][1],
            )
            for number, question in enumerate(questions)
        )
    )


@torch.no_grad()
def divergences(
    engine: TransformersEngine,
    teachers: Sequence[PromptEmbeds],
    students: Sequence[PromptEmbeds],
    answers: Sequence[Sequence[int]],
) -> list[tuple[float, float]]:
    """For each answer the divergence of the students from the teachers along it, and the share of equal greedy tokens.

    Args:
        engine: the model, in process.
        teachers: prompts with the messages.
        students: the same questions with what stands for the messages.
        answers: token ids, at least one each, greedy answers to the teachers.
    """
    found = []
    for start in range(0, len(answers), _BATCH_SIZE):
        part = slice(start, start + _BATCH_SIZE)
        ids = [torch.tensor(list(answer)) for answer in answers[part]]
        sides = [
            answer_logits(engine, asked[part], ids, torch.zeros(1), as_they_are)
            for asked in (teachers, students)
        ]
        for answer, *logits in zip(ids, *sides, strict=True):
            teacher, student = (own.log_softmax(dim=-1) for own in logits)
            divergence = (teacher.exp() * (teacher - student)).sum(dim=1).mean()
            equal = (student.argmax(dim=1) == answer.to(student.device)).float().mean()
            found.append((float(divergence), float(equal)))
    return found


def _answers(
    engine: TransformersEngine, prompts: Sequence[PromptEmbeds], max_tokens: int
) -> list[Completion]:
    answers = list(engine.generate(prompts, Sampling(max_tokens=max_tokens)))
    for completion in answers:
        if completion.error is not None:
            raise ValueError(f"question {completion.prompt_index} cannot be answered: {completion.error}")
    return answers
