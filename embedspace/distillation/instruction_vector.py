"""Distillation of an instruction into one vector that is added to rows of every prompt."""

from __future__ import annotations

import hashlib
import json
import math
import random
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING

import torch

from embedspace._util.progress import progress
from embedspace.distillation.answer_logits import added_to
from embedspace.distillation.gradient_descent import minimise
from embedspace.distillation.objectives import TeacherSequence, teacher_divergence
from embedspace.distillation.optimised_vector import bounded
from embedspace.distillation.questions import DEFAULT_QUESTIONS, general_questions, require_questions
from embedspace.distillation.settings import Distillation
from embedspace.distillation.teacher_answers import require_gradients, split_questions, taught_questions
from embedspace.prompt import Recipe, Rows, Value

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace, Message

INSTRUCTION_SETTINGS = Distillation(
    answer_tokens=28, epochs=8, batch_size=6, learning_rate=0.28, held_out=0.2, patience=3
)
"""What works for the packaged model: an effect in whole answers within five minutes of two cores."""
NORM = 1.4
"""Default bound of the vector's norm, as a multiple of the vocabulary's mean row norm."""


def instructed(
    space: EmbeddingSpace, instruction: str, examples: Sequence[tuple[str, str]], question: str
) -> PromptEmbeds:
    """The prompt of a teacher: example questions with their answers as earlier turns, then instruction and question.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> shown = instructed(space, "Be brief.", [("How high is Mont Blanc?", "4,806 metres.")], "Who are you?")
    >>> len(shown.content_runs), "Be brief. Who are you?" in space.read(shown)
    (3, True)
    """
    shown: list[Message] = [
        {"role": role, "content": text}
        for pair in examples
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    return space.embed_chat([*shown, {"role": "user", "content": f"{instruction} {question}"}])


def distill_instruction(
    engine: TransformersEngine,
    instruction: str,
    questions: Sequence[str] | None,
    examples: Sequence[tuple[str, str]],
    rows: Rows,
    norm: float | None,
    settings: Distillation | None,
) -> tuple[Float[Tensor, " hidden"], Recipe]:
    """See :meth:`StyleVector.distill`; the vector, float32, and its recipe."""
    engine = require_gradients(engine)
    if not isinstance(instruction, str):
        raise TypeError(f"instruction must be a string, got a {type(instruction).__name__}")
    if not instruction.strip():
        raise ValueError(
            "instruction is an empty text; say what the answers shall be like: 'Answer like a pirate.'"
        )
    space, settings = engine.space, settings or INSTRUCTION_SETTINGS
    asked = (
        list(general_questions()[:DEFAULT_QUESTIONS]) if questions is None else require_questions(questions)
    )
    bound = NORM * float(space.norms.mean()) if norm is None else norm
    if not (math.isfinite(bound) and bound > 0):
        raise ValueError(f"norm must be positive and finite, got {norm!r}")
    students = [space.embed_chat([{"role": "user", "content": question}]) for question in asked]
    teachers = [instructed(space, instruction.strip(), examples, question) for question in asked]
    place = added_to(rows)

    def losses(cases: Sequence[TeacherSequence], vector: Tensor) -> Tensor:
        return teacher_divergence(engine, cases, vector, place)

    rng = random.Random(settings.seed)
    start = torch.randn(space.hidden_size, generator=torch.Generator().manual_seed(rng.getrandbits(62)))
    start = (0.01 * bound * start / start.norm()).to(engine.device)
    with progress(
        "style vector", len(asked) * (1 + settings.sampled_answers) * (1 + settings.epochs)
    ) as advance:
        taught = taught_questions(engine, students, teachers, settings, advance)
        training, held_out = split_questions(taught, settings)
        found = minimise(
            start,
            torch.zeros_like(start),
            lambda rng: (training, held_out),
            losses,
            partial(bounded, norm=bound),
            settings.schedule(space),
            rng,
            advance,
        )
    if not bool(found.parameters.any()):
        raise ValueError(
            "no vector brings the answers to the held-out questions nearer to those under the instruction; give more "
            "questions, an instruction that changes the answers more, or a larger norm"
        )
    parameters: dict[str, Value] = {
        "engine": repr(sorted(engine.describe().items())),
        "instruction": instruction.strip(),
        "examples": json.dumps([list(pair) for pair in examples], ensure_ascii=False),
        "questions": hashlib.blake2b(json.dumps(asked).encode(), digest_size=16).hexdigest(),
        "rows": rows,
        "norm": bound,
        "divergence_without": found.reference_loss,
        "divergence": found.loss,
        **asdict(settings),
    }
    return found.parameters, Recipe.of("distill_style", parameters)
