"""Distillation of a beginning of a conversation into rows."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.progress import progress
from embedspace.compression import Method, compress
from embedspace.distillation.gradient_descent import Checkpoint, mean_loss, minimise
from embedspace.distillation.objectives import TeacherSequence, teacher_divergence
from embedspace.distillation.placement import full_conversation, in_place_of, student_conversation
from embedspace.distillation.questions import DEFAULT_QUESTIONS, default_questions, require_questions
from embedspace.distillation.settings import Distillation
from embedspace.distillation.teacher_answers import require_gradients, split_questions, taught_questions
from embedspace.prompt import PromptEmbeds, message_parts, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import Conversation, EmbeddingSpace

STARTS: Sequence[Method] = ("salience", "truncate")
"""Ways of compression that the rows may start from; the best one is taken."""


@dataclass(frozen=True, eq=False)
class DistilledRows:
    """What was learnt."""

    rows: Float[Tensor, "tokens hidden"]
    role: str
    origin: dict[str, Any]


def distill_rows(
    engine: TransformersEngine,
    messages: Conversation,
    questions: Sequence[str] | None,
    tokens: int,
    settings: Distillation,
    checkpoint: Path | None,
) -> DistilledRows:
    """See :meth:`SoftPrompt.distill`."""
    engine = require_gradients(engine)
    space = engine.space
    content = messages_content(space, messages)
    if not 1 <= tokens < len(content):
        raise ValueError(
            f"tokens is {tokens}; the messages have {len(content)} content rows, and fewer rows than that, at least 1, "
            "can stand for them"
        )
    asked = _questions(engine, messages, questions, settings)
    role = "system" if messages[0]["role"] == "system" else "user"
    starts = {method: start_rows(space, content, tokens, method) for method in STARTS}
    first = starts[STARTS[0]]
    marked = PromptEmbeds(first, torch.zeros(tokens, dtype=torch.bool), space.fingerprint, content.recipe)
    students = [space.embed_chat(student_conversation(role, marked, question)) for question in asked]
    teachers = [space.embed_chat(full_conversation(messages, question)) for question in asked]
    place = in_place_of(first)
    bounds = norm_bounds(space)

    def losses(cases: Sequence[TeacherSequence], rows: Tensor) -> Tensor:
        return teacher_divergence(engine, cases, rows, place)

    answers = len(asked) * (1 + settings.sampled_answers)
    with progress("soft prompt", answers * (1 + settings.epochs)) as advance:
        taught = taught_questions(engine, students, teachers, settings, advance)
        training, held_out = split_questions(taught, settings)
        found = {
            method: mean_loss(losses, held_out, rows.to(engine.device), settings.batch_size)
            for method, rows in starts.items()
        }
        best = min(found, key=found.__getitem__)
        start = starts[best].to(engine.device)
        result = minimise(
            start,
            start,
            lambda rng: (training, held_out),
            losses,
            lambda rows: within(rows, bounds),
            settings.schedule(space),
            random.Random(settings.seed),
            advance,
            checkpoint=None
            if checkpoint is None
            else Checkpoint(checkpoint, _task(engine, starts, taught, settings)),
        )
    origin = {
        "model": space.name,
        "engine": engine.describe(),
        "messages": [_recorded(message) for message in messages],
        "content_rows": len(content),
        "questions": asked,
        "questions_given": questions is not None,
        "settings": asdict(settings),
        "start": best,
        "divergence": {
            "held_out_questions": len(held_out),
            "start": result.reference_loss,
            "after": result.loss,
            "epochs": list(result.losses),
            "training": list(result.training_losses),
        },
    }
    return DistilledRows(result.parameters, role, origin)


def messages_content(space: EmbeddingSpace, messages: Conversation) -> PromptEmbeds:
    """The content of the messages, one after another, every row as content.

    Raises:
        ValueError: no messages, or no content in any of them.
    """
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise TypeError(
            f"messages must be a list of {{'role': ..., 'content': ...}}, got a {type(messages).__name__}"
        )
    pieces = []
    for message in messages:
        for part in message_parts(message.get("content")):
            if isinstance(part, PromptEmbeds):
                space.require(part)
                pieces.append(part.to(torch.float32))
            elif part.strip():
                pieces.append(space.embed(part.strip() + "\n", special_tokens=False).to(torch.float32))
    if not pieces:
        raise ValueError(
            "the messages have no content to distil; give the system prompt, the examples or the document as "
            "[{'role': 'system', 'content': '...'}]"
        )
    whole = PromptEmbeds.concat(pieces)
    return PromptEmbeds(whole.vectors, torch.ones_like(whole.content), whole.space, whole.recipe)


def start_rows(
    space: EmbeddingSpace, content: PromptEmbeds, tokens: int, method: Method
) -> Float[Tensor, "tokens hidden"]:
    """The content compressed to exactly so many rows, float32.

    A way that keeps whole words is cut where it keeps more rows, and its first rows are repeated where it keeps fewer.
    """
    rows = _shortest(space, content, tokens, method)
    while len(rows) < tokens:
        rows = torch.cat([rows, rows])
    return rows[:tokens].clone()


def _shortest(space: EmbeddingSpace, content: PromptEmbeds, tokens: int, method: Method) -> Tensor:
    """Compressed to so many rows, or to as few more as the way can keep."""
    for length in range(tokens, len(content)):
        try:
            return compress(content, length=length, method=method, space=space).vectors.float()
        except ValueError:  # no whole word fits
            continue
    return content.vectors.float()


def norm_bounds(space: EmbeddingSpace) -> tuple[float, float]:
    """The norms between which 98% of the vocabulary's rows lie."""
    low, high = torch.quantile(
        space.norms[:: max(1, len(space.norms) // 100_000)], torch.tensor([0.01, 0.99])
    )
    return float(low), float(high)


def within(
    rows: Float[Tensor, "tokens hidden"], bounds: tuple[float, float]
) -> Float[Tensor, "tokens hidden"]:
    """The rows at norms within bounds, in their own directions."""
    norms = rows.norm(dim=1, keepdim=True).clamp_min(1e-12)
    bounded: Tensor = rows * (norms.clamp(*bounds) / norms)
    return bounded


def _questions(
    engine: TransformersEngine,
    messages: Conversation,
    questions: Sequence[str] | None,
    settings: Distillation,
) -> list[str]:
    if questions is not None:
        return require_questions(questions)
    if messages[-1]["role"] == "user":
        raise ValueError(
            "questions is None and the messages end with a user's turn, after which the model would answer, not ask; "
            f"pass questions=[...]: about {DEFAULT_QUESTIONS} that users would ask there"
        )
    return default_questions(engine, engine.space, messages, seed=settings.seed)


def _recorded(message: Mapping[str, Any]) -> dict[str, Any]:
    parts = message_parts(message["content"])
    written = [part if isinstance(part, str) else f"<{len(part)} rows>" for part in parts]
    return {"role": message["role"], "content": "".join(written)}


def _task(
    engine: TransformersEngine,
    starts: Mapping[Method, Tensor],
    taught: Sequence[Sequence[TeacherSequence]],
    settings: Distillation,
) -> str:
    """Digest of all that decides the result."""
    parts = [
        engine.space.fingerprint,
        sorted(engine.describe().items()),
        asdict(settings),
        [tensor_digest(rows) for rows in starts.values()],
        [[(tensor_digest(each.prompt.vectors), each.answer.tolist()) for each in own] for own in taught],
    ]
    return hashlib.blake2b(json.dumps(parts).encode(), digest_size=16).hexdigest()
