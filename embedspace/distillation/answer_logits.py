"""The frozen model along given answers, after prompts some rows of which are parameters."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from embedspace.errors import EngineError
from embedspace.prompt import PromptEmbeds, Rows, add_to_rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine

Placement = Callable[[PromptEmbeds, "Tensor"], "Tensor"]
"""All rows of a prompt with the parameters in them, with gradients to the parameters."""


def added_to(rows: Rows) -> Placement:
    """The placement of one vector that is added to rows of every prompt."""
    return lambda prompt, vector: add_to_rows(prompt, vector, rows)


def as_they_are(prompt: PromptEmbeds, parameters: Tensor) -> Tensor:
    """The placement of no parameters at all."""
    return prompt.vectors.to(parameters)


def answer_logits(
    engine: TransformersEngine,
    prompts: Sequence[PromptEmbeds],
    answers: Sequence[Int[Tensor, " tokens"]],
    parameters: Tensor,
    place: Placement,
) -> list[Float[Tensor, "tokens vocabulary"]]:
    """For each prompt the logits, float32, at which each token of its answer is chosen.

    Leading rows that all prompts share are computed once, with their gradients.

    Raises:
        EngineError: the device ran out of memory.
    """
    try:
        return _answer_logits(engine, prompts, answers, parameters, place)
    except (torch.OutOfMemoryError, RuntimeError) as error:
        if not isinstance(error, torch.OutOfMemoryError) and "can't allocate memory" not in str(error):
            raise
        rows = max(len(prompt) + len(answer) for prompt, answer in zip(prompts, answers, strict=True))
        raise EngineError(
            f"{engine.device} ran out of memory with {len(prompts)} answers of up to {rows} rows at a time; lower "
            f"batch_size (now {len(prompts)}) or answer_tokens"
        ) from error


def _answer_logits(
    engine: TransformersEngine,
    prompts: Sequence[PromptEmbeds],
    answers: Sequence[Tensor],
    parameters: Tensor,
    place: Placement,
) -> list[Tensor]:
    placed = []
    for prompt, answer in zip(prompts, answers, strict=True):
        rows = place(prompt, parameters)
        if len(answer) > 1:
            rows = torch.cat([rows, engine.space.lookup(answer[:-1].tolist()).to(rows)])
        placed.append(rows)
    length = max(map(len, placed))
    # Padding comes last, where causal attention does not look.
    inputs = torch.stack([F.pad(rows, (0, 0, 0, length - len(rows))) for rows in placed]).to(engine.dtype)
    ends = [len(rows) - max(len(answer) - 1, 0) for rows, answer in zip(placed, answers, strict=True)]
    first = min(ends) - 1
    logits = _continued_logits(engine, inputs.to(engine.device), _common_rows(inputs[:, :first]), first)
    return [
        own[end - 1 - first : end - 1 - first + len(answer)].float()
        for own, end, answer in zip(logits, ends, answers, strict=True)
    ]


def _common_rows(inputs: Tensor) -> int:
    """Number of leading rows that are the same in all prompts."""
    same = (inputs == inputs[:1]).all(dim=2).all(dim=0)
    return int(same.int().cumprod(0).sum())


def _continued_logits(engine: TransformersEngine, inputs: Tensor, shared: int, first: int) -> Tensor:
    """Logits [prompts, rows from ``first`` on, vocabulary]; the shared rows are computed once."""
    from transformers import DynamicCache

    cache = None
    if shared and len(inputs) > 1:
        cache = DynamicCache(config=engine.model.config)
        engine.model(
            inputs_embeds=inputs[:1, :shared], past_key_values=cache, use_cache=True, logits_to_keep=1
        )
        cache.batch_repeat_interleave(len(inputs))
        inputs, first = inputs[:, shared:], first - shared
    # As positions, not as a count: a count makes a view, whose product with the vocabulary copies the whole table.
    kept = torch.arange(first, inputs.shape[1], device=engine.device)
    logits: Tensor = engine.model(
        inputs_embeds=inputs, past_key_values=cache, use_cache=cache is not None, logits_to_keep=kept
    ).logits
    return logits
