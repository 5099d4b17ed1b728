"""What students learn from: the teacher's answers to questions, and its next-token distributions along them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch

from embedspace.distillation.answer_logits import answer_logits, as_they_are
from embedspace.distillation.objectives import MAX_CANDIDATES, TeacherSequence
from embedspace.distillation.settings import Distillation
from embedspace.engines import Sampling, TransformersEngine

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds


def require_gradients(engine: object) -> TransformersEngine:
    """The engine, if it computes gradients.

    Raises:
        TypeError: it is another one; the message says which.
    """
    if isinstance(engine, TransformersEngine):
        return engine
    raise TypeError(
        f"distillation needs gradients through the model, and a {type(engine).__name__} computes none; give a "
        "TransformersEngine of the same model, in process, and serve the result with any engine"
    )


@torch.no_grad()
def taught_questions(
    engine: TransformersEngine,
    students: Sequence[PromptEmbeds],
    teachers: Sequence[PromptEmbeds],
    settings: Distillation,
    advance: Callable[[], None],
) -> list[list[TeacherSequence]]:
    """For each question the teacher's answers, greedy first, with the distribution at each token.

    Args:
        engine: answers.
        students: the prompt of each question without what is distilled.
        teachers: the prompt of each question with it.
        settings: lengths and numbers.
        advance: called once for each answer.
    """
    answers = _answers(engine, teachers, Sampling(max_tokens=settings.answer_tokens))
    if settings.sampled_answers:
        drawn = Sampling(
            max_tokens=settings.answer_tokens,
            temperature=settings.temperature,
            n=settings.sampled_answers,
            seed=settings.seed,
        )
        answers += _answers(engine, teachers, drawn)
    questions: list[list[TeacherSequence]] = [[] for _ in teachers]
    for begin in range(0, len(answers), settings.batch_size):
        batch = answers[begin : begin + settings.batch_size]
        ids = [torch.tensor(answer) for _, answer in batch]
        logits = answer_logits(
            engine, [teachers[number] for number, _ in batch], ids, torch.zeros(1), as_they_are
        )
        for (number, _), answer, own in zip(batch, ids, logits, strict=True):
            logprobs, candidates = own.log_softmax(dim=-1).topk(min(MAX_CANDIDATES, own.shape[1]), dim=1)
            sequence = TeacherSequence(
                students[number], answer, candidates.cpu(), logprobs.log_softmax(dim=-1).cpu()
            )
            questions[number].append(sequence)
            advance()
    return questions


def _answers(
    engine: TransformersEngine, teachers: Sequence[PromptEmbeds], sampling: Sampling
) -> list[tuple[int, tuple[int, ...]]]:
    answers = []
    for completion in engine.generate(teachers, sampling):
        if completion.error is not None:
            raise ValueError(
                f"the teacher cannot answer question {completion.prompt_index}: {completion.error}"
            )
        if completion.token_ids:
            answers.append((completion.prompt_index, completion.token_ids))
    return answers


def split_questions(
    questions: Sequence[list[TeacherSequence]], settings: Distillation
) -> tuple[list[TeacherSequence], list[TeacherSequence]]:
    """Training and held-out answers; all answers to a question are on one side."""
    order = [number for number, own in enumerate(questions) if own]
    if len(order) < 2:
        raise ValueError(
            f"the teacher answers {len(order)} of {len(questions)} questions with at least one token; give other ones"
        )
    random.Random(settings.seed).shuffle(order)
    count = min(max(1, round(settings.held_out * len(order))), len(order) - 1)
    return (
        [each for number in order[count:] for each in questions[number]],
        [each for number in order[:count] for each in questions[number][:1]],
    )
