"""Screening of prompts before they are sent."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from embedspace.engines.base import Completion
from embedspace.engines.batching import Batch
from embedspace.prompt import PromptEmbeds


class Judgement(Protocol):
    """A filter's decision about a prompt; a :class:`~embedspace.Verdict` is one."""

    @property
    def allowed(self) -> bool: ...

    @property
    def score(self) -> float: ...

    @property
    def threshold(self) -> float: ...

    @property
    def reason(self) -> str: ...


class Guard(Protocol):
    """What screens prompts; a :class:`~embedspace.SafetyFilter` does."""

    def check_many(self, prompts: Sequence[PromptEmbeds]) -> Sequence[Judgement]:
        """One judgement for each prompt, in order."""
        ...


def admits(judgement: Judgement) -> bool:
    """Whether a prompt may pass; a NaN score counts as above the threshold."""
    return judgement.allowed and not math.isnan(judgement.score) and judgement.score <= judgement.threshold


def refusals(guard: Guard, prompts: Sequence[PromptEmbeds]) -> list[str | None]:
    """Why each prompt is refused, or None where it is not.

    Raises:
        ValueError: as the guard: it is not calibrated, or a prompt lives in another space.
    """
    judgements = guard.check_many(prompts)
    if len(judgements) != len(prompts):
        raise ValueError(f"the guard gave {len(judgements)} judgements of {len(prompts)} prompts")
    return [
        None
        if admits(judged)
        else f"the guard refused the prompt, score {judged.score:.3g} above {judged.threshold:.3g}: {judged.reason}"
        for judged in judgements
    ]


def conversation_refusal(guard: Guard, parts: Sequence[PromptEmbeds]) -> str | None:
    """Why a conversation is refused for its embedded parts: each by itself, and all of them read as one."""
    joined = [PromptEmbeds.concat([part.to(torch.float32) for part in parts])] if len(parts) > 1 else []
    return next(filter(None, refusals(guard, [*parts, *joined])), None) if parts else None


def guarded(batch: Batch, guard: Guard) -> Batch:
    """The batch without the embeddings that the guard refuses, which fail alone; token ids are not screened."""
    embedded = [prompt for _, prompt in batch.prompts if isinstance(prompt, PromptEmbeds)]
    if not embedded:
        return batch
    reasons = iter(refusals(guard, embedded))
    judged = [
        (position, prompt, next(reasons) if isinstance(prompt, PromptEmbeds) else None)
        for position, prompt in batch.prompts
    ]
    failed = [Completion.failed(position, reason) for position, _, reason in judged if reason]
    fit = tuple((position, prompt) for position, prompt, reason in judged if not reason)
    return Batch(fit, (*batch.failed, *failed))
