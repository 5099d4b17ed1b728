"""Answers that a model gives to other prompts, as distributions that a style vector can learn."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from embedspace.distillation.likelihood import end_tokens
from embedspace.engines.batching import padded
from embedspace.prompt import PromptEmbeds, Rows, add_to_rows, row_mask, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.distillation.settings import Optimisation, Task
    from embedspace.engines import TransformersEngine

CANDIDATES = 64
"""Next tokens that a lesson keeps, the teacher's likeliest."""


@dataclass(frozen=True, eq=False)
class Lesson:
    """One prompt, and what the teacher says after it, token by token."""

    prompt: PromptEmbeds
    """What the student is asked; the style vector moves rows of it."""
    answer: Int[Tensor, " tokens"]
    """The teacher's greedy answer."""
    candidates: Int[Tensor, "tokens candidates"]
    """At each place of the answer, the tokens that the teacher might say there."""
    logprobs: Float[Tensor, "tokens candidates"]
    """Their log-probabilities; over the candidates they sum to one."""


def taught_task(
    positive: Sequence[str | PromptEmbeds], negative: Sequence[str | PromptEmbeds], settings: Optimisation
) -> Task:
    """Learning to answer the settings' prompts as the model answers the positive ones."""
    from embedspace.distillation.settings import Task, split

    sides = [[prompt for prompt in side if isinstance(prompt, PromptEmbeds)] for side in (positive, negative)]
    triples = sorted(
        zip(settings.prompts, *sides, strict=True), key=lambda t: [tensor_digest(p.vectors) for p in t]
    )
    asked, wanted, avoided = zip(*triples, strict=True)
    made = lessons(
        settings.engine,
        asked,
        wanted,
        avoided,
        guidance=settings.guidance,
        tokens=settings.answer_tokens,
        batch_size=settings.batch_size,
    )
    parts = split(made, settings)
    return Task(
        lambda chance: parts, lambda cases, vector: lesson_nats(settings.engine, cases, vector, settings.rows)
    )


def lessons(
    engine: TransformersEngine,
    prompts: Sequence[PromptEmbeds],
    wanted: Sequence[PromptEmbeds],
    avoided: Sequence[PromptEmbeds],
    *,
    guidance: float,
    tokens: int,
    batch_size: int,
) -> list[Lesson]:
    """What the model says to the wanted prompts, pushed further away from what it says to the avoided ones.

    The teacher's next-token distribution is that after ``wanted[i]`` times its ratio to that after ``avoided[i]``,
    to the power of ``guidance``, over the tokens that are likeliest after ``wanted[i]`` (Sanchez et al. 2023; the
    restriction to plausible tokens is that of contrastive decoding, Li et al. 2022).

    Args:
        engine: the model that answers.
        prompts: what the student will be asked.
        wanted: for each of them, the prompt whose answers are to be learnt.
        avoided: for each of them, a prompt whose answers are to be left behind.
        guidance: 0 takes the answers to ``wanted`` as they are.
        tokens: most tokens of an answer.
        batch_size: prompts at a time.
    """
    made = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        sides = [list(wanted[part])] if guidance == 0 else [list(wanted[part]), list(avoided[part])]
        taught = _decoded(engine, sides, guidance, tokens)
        made += [Lesson(prompt, *told) for prompt, told in zip(prompts[part], taught, strict=True)]
    return made


def lesson_nats(
    engine: TransformersEngine,
    taught: Sequence[Lesson],
    vector: Float[Tensor, " hidden"],
    rows: Rows = "content",
) -> Float[Tensor, " lessons"]:
    """Mean Kullback-Leibler divergence, in nats a token, from the teacher to the prompts that the vector moves."""
    longest = max(len(lesson.prompt) + len(lesson.answer) for lesson in taught) - 1
    made = []
    for lesson in taught:
        moved = add_to_rows(lesson.prompt, vector, rows)
        said = (
            engine.space.lookup(lesson.answer[:-1].tolist()).to(vector)
            if len(lesson.answer) > 1
            else moved[:0]
        )
        both = torch.cat([moved, said])
        made.append(F.pad(both, (0, 0, 0, longest - len(both))))
    # Rows that all share, the head of the chat template, come before every moved row and take no gradient.
    shared = _shared_rows(taught, rows)
    stacked = torch.stack(made).to(engine.dtype)
    logits = _continued_logits(engine, stacked, shared, min(len(lesson.prompt) for lesson in taught) - 1)
    first = longest - logits.shape[1]
    divergences = []
    for lesson, own in zip(taught, logits, strict=True):
        begin = len(lesson.prompt) - 1 - first
        said = own[begin : begin + len(lesson.answer)].float().log_softmax(dim=-1)
        told = lesson.logprobs.to(said)
        likely = said.gather(1, lesson.candidates.to(said.device))
        divergences.append((told.exp() * (told - likely)).sum(dim=1).mean())
    return torch.stack(divergences)


def _shared_rows(taught: Sequence[Lesson], rows: Rows) -> int:
    """Number of leading rows that no vector moves and that are the same in all prompts."""
    still = min(int(row_mask(lesson.prompt, rows).int().argmax()) for lesson in taught)
    head = taught[0].prompt.vectors[:still]
    for lesson in taught[1:]:
        same = (lesson.prompt.vectors[:still] == head).all(dim=1)
        still = int(same.int().cumprod(0).sum())
        head = head[:still]
    return still


def _continued_logits(engine: TransformersEngine, rows: Tensor, shared: int, first: int) -> Tensor:
    """Logits [prompts, rows from ``first`` on, vocabulary]; the shared rows are computed once."""
    from transformers import DynamicCache

    cache = None
    if shared:
        cache = DynamicCache(config=engine.model.config)
        with torch.no_grad():
            engine.model(
                inputs_embeds=rows[:1, :shared].detach().to(engine.device),
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
        cache.batch_repeat_interleave(len(rows))
    kept = torch.arange(first - shared, rows.shape[1] - shared, device=engine.device)
    output = engine.model(
        inputs_embeds=rows[:, shared:].to(engine.device),
        past_key_values=cache,
        use_cache=cache is not None,
        logits_to_keep=kept,
    )
    logits: Tensor = output.logits
    return logits


@torch.no_grad()
def _decoded(
    engine: TransformersEngine, sides: Sequence[Sequence[PromptEmbeds]], guidance: float, tokens: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Greedy answers, candidates and log-probabilities of the guided distribution."""
    count, ends = len(sides[0]), torch.tensor(end_tokens(engine), device=engine.device)
    embeddings, seen = padded([prompt.vectors.to(engine.dtype) for side in sides for prompt in side])
    inputs, cache = {"inputs_embeds": embeddings.to(engine.device)}, None
    seen = seen.to(engine.device)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    going = torch.ones(count, dtype=torch.bool, device=engine.device)
    lengths = torch.zeros(count, dtype=torch.long, device=engine.device)
    while len(steps) < tokens and bool(going.any()):
        new = next(iter(inputs.values())).shape[1]
        output = engine.model(
            **inputs,
            attention_mask=seen,
            position_ids=(seen.cumsum(dim=1) - 1).clamp(min=0)[:, -new:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        candidates, logprobs = _guided(output.logits[:, -1].float().log_softmax(dim=-1), count, guidance)
        chosen = candidates.gather(1, logprobs.argmax(dim=1, keepdim=True))
        steps.append((chosen[:, 0], candidates, logprobs))
        lengths += going
        going = going & ~torch.isin(chosen[:, 0], ends)
        inputs, seen = {"input_ids": chosen.repeat(len(sides), 1)}, F.pad(seen, (0, 1), value=1)
    told = [torch.stack(part, dim=1).cpu() for part in zip(*steps, strict=True)]
    for number, length in enumerate(lengths.tolist()):
        answer, candidates, logprobs = (part[number, :length].clone() for part in told)
        yield answer, candidates, logprobs


def _guided(logprobs: Tensor, count: int, guidance: float) -> tuple[Tensor, Tensor]:
    wanted, candidates = logprobs[:count].topk(min(CANDIDATES, logprobs.shape[1]), dim=1)
    if guidance:
        wanted = wanted + guidance * (wanted - logprobs[count:].gather(1, candidates))
    return candidates, wanted.log_softmax(dim=1)
