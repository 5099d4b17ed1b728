"""Questions that a distillation learns from: packaged general ones, and ones that the model writes itself."""

from __future__ import annotations

import json
import random
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace.engines import Sampling

if TYPE_CHECKING:
    from embedspace.engines import Engine
    from embedspace.space import Conversation, EmbeddingSpace

DEFAULT_QUESTIONS = 30
"""How many questions are learnt from where none are given."""
WRITTEN_SHARE = 0.6
"""How many of them the model writes."""

_PROMPTS_AT_ONCE = 16
_MAX_ROUNDS = 6


@cache
def general_questions() -> tuple[str, ...]:
    """Packaged questions about anything, in a fixed order.

    >>> general_questions()[0]
    'What is the fastest way to peel garlic?'
    """
    return tuple(json.loads(Path(__file__).with_name("questions.json").read_text("utf-8"))["questions"])


def default_questions(
    engine: Engine,
    space: EmbeddingSpace,
    messages: Conversation,
    *,
    count: int = DEFAULT_QUESTIONS,
    seed: int = 0,
) -> list[str]:
    """Questions that the model writes after the messages, and general ones.

    Args:
        engine: writes them.
        space: its space.
        messages: the beginning of a conversation.
        count: how many together.
        seed: of the writing and the choice.

    Raises:
        ValueError: the model writes fewer than four.
    """
    wanted = round(WRITTEN_SHARE * count)
    written = written_questions(engine, space, messages, count=wanted, seed=seed)
    if len(written) < min(4, wanted):
        raise ValueError(
            f"questions is None and the model wrote only {len(written)} questions of its own after these messages; "
            f"pass questions=[...]: about {DEFAULT_QUESTIONS} that users would ask there"
        )
    general = random.Random(seed).sample(
        general_questions(), min(count - len(written), len(general_questions()))
    )
    return [*written, *general]


def written_questions(
    engine: Engine, space: EmbeddingSpace, messages: Conversation, *, count: int, seed: int = 0
) -> list[str]:
    """What the model writes where the user's next turn would stand (Xu et al. 2024), as far as it is a question.

    Args:
        engine: writes, by sampling.
        space: its space.
        messages: the beginning of a conversation, which does not end with a user's turn.
        count: at most so many, all different.
        seed: of the sampling.
    """
    whole = space.embed_chat([*messages, {"role": "user", "content": "x"}], add_generation_prompt=False)
    begun = whole.first_rows(whole.content_runs[-1].start)
    found: dict[str, None] = {}
    for number in range(_MAX_ROUNDS):
        sampling = Sampling(
            max_tokens=40, temperature=0.9, top_p=0.95, n=_PROMPTS_AT_ONCE, seed=seed + number, stop=("\n",)
        )
        for completion in engine.generate([begun], sampling):
            if question := _question(completion.text):
                found.setdefault(question)
            if len(found) == count:
                return list(found)
    return list(found)


def _question(text: str) -> str | None:
    """The first question in a text, if it looks like one."""
    match = re.match(r"[\s\d.)*\"'-]*([^?!.\n]{8,160}\?)", text)
    return match.group(1).strip() if match and len(match.group(1).split()) >= 3 else None


def require_questions(questions: Sequence[str], name: str = "questions") -> list[str]:
    """The questions, checked.

    Raises:
        TypeError: a string in place of the list, or something else than a string in it.
        ValueError: fewer than two, an empty one, or the same one twice.
    """
    if isinstance(questions, str):
        raise TypeError(
            f"{name} must be a list of questions, got the string {questions[:40]!r}; put it into a list"
        )
    for position, question in enumerate(questions):
        if not isinstance(question, str):
            raise TypeError(f"{name}[{position}] must be a string, got a {type(question).__name__}")
        if not question.strip():
            raise ValueError(f"{name}[{position}] is an empty text; leave it out")
    if len(questions) < 2:
        raise ValueError(
            f"{name} has {len(questions)} entries and at least 2 are needed, one to learn from and one to decide when "
            f"to stop; about {DEFAULT_QUESTIONS} give a good result"
        )
    twice = {question for question in questions if list(questions).count(question) > 1}
    if twice:
        raise ValueError(f"{name} has {sorted(twice)[0]!r} twice; give each question once")
    return list(questions)
