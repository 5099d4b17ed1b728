"""Where rows stand in a conversation and in its prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from embedspace.prompt import Part, PromptEmbeds, RowSource, message_parts

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.distillation.answer_logits import Placement
    from embedspace.space import Conversation, Message


def student_conversation(
    role: str, beginning: Part | RowSource | Sequence[Part | RowSource], question: str
) -> list[Message]:
    """Rows, or rows and text, as a message of their own or at the beginning of the user's; then the question."""
    if role == "user":
        return [{"role": "user", "content": [*message_parts(beginning), question]}]
    return [{"role": role, "content": beginning}, {"role": "user", "content": question}]


def full_conversation(messages: Conversation, question: str) -> list[Message]:
    """The teacher's conversation: the messages, then the question; joined to a user's message that ends them.

    >>> full_conversation([{"role": "user", "content": "A text."}], "Why?")
    [{'role': 'user', 'content': ['A text.', '\\n\\n', 'Why?']}]
    """
    if messages[-1]["role"] != "user":
        return [*messages, {"role": "user", "content": question}]
    parts = message_parts(messages[-1]["content"])
    return [*messages[:-1], {**messages[-1], "content": [*parts, "\n\n", question]}]


def find_rows(prompt: PromptEmbeds, rows: Float[Tensor, "tokens hidden"]) -> slice:
    """Where rows stand in a prompt: the first place, bit by bit.

    >>> from embedspace.prompt import Recipe
    >>> prompt = PromptEmbeds(torch.eye(3), torch.tensor([True] * 3), "a space", Recipe.of("example", {}))
    >>> find_rows(prompt, torch.eye(3)[1:])
    slice(1, 3, None)

    Raises:
        ValueError: nowhere.
    """
    wanted = rows.to(prompt.vectors)
    for start in (prompt.vectors == wanted[0]).all(dim=1).nonzero().flatten().tolist():
        if torch.equal(prompt.vectors[start : start + len(rows)], wanted):
            return slice(start, start + len(rows))
    raise ValueError(f"the {len(rows)} rows do not stand in the prompt of {len(prompt)} rows")


def in_place_of(rows: Float[Tensor, "tokens hidden"]) -> Placement:
    """The placement of parameters where these rows stand in each prompt."""

    def place(prompt: PromptEmbeds, parameters: Tensor) -> Tensor:
        where = find_rows(prompt, rows)
        vectors = prompt.vectors.to(parameters)
        return torch.cat([vectors[: where.start], parameters, vectors[where.stop :]])

    return place
