"""Objectives that a style vector is optimised for: the likelihood of given texts, or another prompt's distribution."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from embedspace.distillation.answer_logits import Placement, added_to, answer_logits
from embedspace.distillation.settings import Optimisation
from embedspace.engines.batching import padded
from embedspace.prompt import PromptEmbeds, Rows, tensor_digest

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine

MAX_CANDIDATES = 64
"""Next tokens that a teacher sequence keeps at each position, the likeliest."""


@dataclass(frozen=True, eq=False)
class Objective:
    """Training cases, and the loss of a vector on them."""

    draw: Callable[[random.Random], tuple[Sequence[Any], Sequence[Any]]]
    """Training and held-out cases; the split is fixed, the answers may be drawn anew in each call."""
    losses: Callable[[Sequence[Any], Tensor], Tensor]
    """Loss of each case under a vector, in nats, with gradients to the vector."""


@dataclass(frozen=True, eq=False)
class AnswerPair:
    """One prompt with the token ids of a better and a worse answer."""

    prompt: PromptEmbeds
    positive: list[int]
    negative: list[int]


@dataclass(frozen=True, eq=False)
class TeacherSequence:
    """One prompt, and the teacher's next-token distributions along its answer."""

    prompt: PromptEmbeds
    """The student's prompt, in which the parameters are placed."""
    answer: Int[Tensor, " tokens"]
    """The teacher's answer."""
    candidates: Int[Tensor, "tokens candidates"]
    """The teacher's likeliest tokens at each position of the answer."""
    logprobs: Float[Tensor, "tokens candidates"]
    """Their log-probabilities, normalised over the candidates."""


def supervised_objective(
    positive: Sequence[str | PromptEmbeds], negative: Sequence[str | PromptEmbeds], settings: Optimisation
) -> Objective:
    """Likelihood of given texts: openings, of which each prompt draws one, or one whole answer for each prompt."""
    better, worse = ([str(text) for text in side] for side in (positive, negative))
    tokenize = settings.engine.space.tokenize
    end = end_tokens(settings.engine)[:1] if settings.answers == "whole" else []

    def key(prompt: PromptEmbeds) -> str:
        return tensor_digest(prompt.vectors)

    if settings.answers == "whole":
        triples = sorted(zip(settings.prompts, better, worse, strict=True), key=lambda t: (key(t[0]), *t[1:]))
        pools = [(prompt, [high], [low]) for prompt, high, low in triples]
    else:
        shared = sorted(better), sorted(worse)
        pools = [(prompt, *shared) for prompt in sorted(settings.prompts, key=key)]
    training, held_out = _split(pools, settings)

    def drawn(part: Sequence[Any], rng: random.Random) -> list[AnswerPair]:
        return [
            AnswerPair(prompt, tokenize(rng.choice(high)) + end, tokenize(rng.choice(low)) + end)
            for prompt, high, low in part
        ]

    def draw(rng: random.Random) -> tuple[list[AnswerPair], list[AnswerPair]]:
        # Held-out cases are drawn first: for a given generator they do not depend on the number of training cases.
        fixed = drawn(held_out, rng)
        return drawn(training, rng), fixed

    return Objective(draw, lambda cases, vector: _supervised_losses(settings, cases, vector))


def distillation_objective(
    positive: Sequence[str | PromptEmbeds], negative: Sequence[str | PromptEmbeds], settings: Optimisation
) -> Objective:
    """Divergence from the model's next-token distributions after the positive prompts."""
    sides = [[prompt for prompt in side if isinstance(prompt, PromptEmbeds)] for side in (positive, negative)]
    triples = sorted(
        zip(settings.prompts, *sides, strict=True), key=lambda t: [tensor_digest(p.vectors) for p in t]
    )
    prompts, teachers, opposites = zip(*triples, strict=True)
    sequences = teacher_sequences(
        settings.engine,
        prompts,
        teachers,
        opposites,
        guidance=settings.guidance,
        max_tokens=settings.answer_tokens,
        batch_size=settings.batch_size,
    )
    parts = _split(sequences, settings)
    return Objective(
        lambda rng: parts,
        lambda cases, vector: teacher_divergence(settings.engine, cases, vector, added_to(settings.rows)),
    )


def _split(cases: Sequence[Any], settings: Optimisation) -> tuple[list[Any], list[Any]]:
    """Training and held-out cases; ``cases`` stand in an order that depends on the prompts alone."""
    shuffled = list(cases)
    random.Random(settings.seed).shuffle(shuffled)
    count = min(max(1, round(settings.held_out * len(shuffled))), len(shuffled) - 1)
    return shuffled[count:], shuffled[:count]


def _supervised_losses(
    settings: Optimisation, cases: Sequence[AnswerPair], vector: Tensor
) -> Float[Tensor, " cases"]:
    """NLL per token of the positive answers, plus the contrast: softplus of its excess over the negative ones."""
    engine, rows = settings.engine, settings.rows
    likely = answer_nll(engine, [(case.prompt, case.positive) for case in cases], vector, rows)
    if not settings.contrast:
        return likely
    unlikely = answer_nll(engine, [(case.prompt, case.negative) for case in cases], vector, rows)
    return likely + settings.contrast * F.softplus(likely - unlikely)


def answer_nll(
    engine: TransformersEngine,
    cases: Sequence[tuple[PromptEmbeds, list[int]]],
    vector: Tensor,
    rows: Rows = "content",
) -> Float[Tensor, " cases"]:
    """Mean negative log-likelihood per token of each answer after its prompt, whose rows the vector moves."""
    answers = [torch.tensor(answer) for _, answer in cases]
    logits = answer_logits(engine, [prompt for prompt, _ in cases], answers, vector, added_to(rows))
    return torch.stack(
        [F.cross_entropy(own, answer.to(own.device)) for own, answer in zip(logits, answers, strict=True)]
    )


def end_tokens(engine: TransformersEngine) -> list[int]:
    """Tokens with which the model ends its turn."""
    ends = engine.model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]


def teacher_sequences(
    engine: TransformersEngine,
    prompts: Sequence[PromptEmbeds],
    teachers: Sequence[PromptEmbeds],
    opposites: Sequence[PromptEmbeds],
    *,
    guidance: float,
    max_tokens: int,
    batch_size: int,
) -> list[TeacherSequence]:
    """Greedy answers to the teacher prompts with their next-token distributions, guided away from the opposites.

    The teacher's distribution is that after ``teachers[i]`` times its ratio to that after ``opposites[i]``, to the
    power of ``guidance``, over the tokens that are likeliest after ``teachers[i]`` (Sanchez et al. 2023; the
    restriction to plausible tokens is that of contrastive decoding, Li et al. 2022).

    Args:
        engine: the model that answers.
        prompts: the student's prompts.
        teachers: for each of them, the prompt whose answers are to be imitated.
        opposites: for each of them, a prompt whose answers are to be avoided.
        guidance: 0 takes the answers to ``teachers`` as they are.
        max_tokens: limit on the tokens of an answer.
        batch_size: prompts per forward pass.
    """
    found = []
    for start in range(0, len(prompts), batch_size):
        part = slice(start, start + batch_size)
        sides = [list(teachers[part])] if guidance == 0 else [list(teachers[part]), list(opposites[part])]
        decoded = _decode_greedily(engine, sides, guidance, max_tokens)
        found += [TeacherSequence(prompt, *each) for prompt, each in zip(prompts[part], decoded, strict=True)]
    return found


def teacher_divergence(
    engine: TransformersEngine,
    sequences: Sequence[TeacherSequence],
    parameters: Tensor,
    place: Placement,
) -> Float[Tensor, " sequences"]:
    """Mean Kullback-Leibler divergence, in nats per token, from the teacher to the model after the students' prompts.

    Args:
        engine: the student.
        sequences: the teacher, and the student's prompts.
        parameters: what is learnt, e.g. a vector or rows.
        place: puts them into a prompt.
    """
    logits = answer_logits(
        engine, [each.prompt for each in sequences], [each.answer for each in sequences], parameters, place
    )
    divergences = []
    for each, own in zip(sequences, logits, strict=True):
        teacher = each.logprobs.to(own)
        student = own.log_softmax(dim=-1).gather(1, each.candidates.to(own.device))
        divergences.append((teacher.exp() * (teacher - student)).sum(dim=1).mean())
    return torch.stack(divergences)


@torch.no_grad()
def _decode_greedily(
    engine: TransformersEngine, sides: Sequence[Sequence[PromptEmbeds]], guidance: float, max_tokens: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Greedy answers, candidates and log-probabilities of the guided distribution."""
    count, ends = len(sides[0]), torch.tensor(end_tokens(engine), device=engine.device)
    embeddings, mask = padded([prompt.vectors.to(engine.dtype) for side in sides for prompt in side])
    inputs, cache = {"inputs_embeds": embeddings.to(engine.device)}, None
    mask = mask.to(engine.device)
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    unfinished = torch.ones(count, dtype=torch.bool, device=engine.device)
    lengths = torch.zeros(count, dtype=torch.long, device=engine.device)
    while len(steps) < max_tokens and bool(unfinished.any()):
        new = next(iter(inputs.values())).shape[1]
        output = engine.model(
            **inputs,
            attention_mask=mask,
            position_ids=(mask.cumsum(dim=1) - 1).clamp(min=0)[:, -new:],
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        cache = output.past_key_values
        candidates, logprobs = _guided(output.logits[:, -1].float().log_softmax(dim=-1), count, guidance)
        chosen = candidates.gather(1, logprobs.argmax(dim=1, keepdim=True))
        steps.append((chosen[:, 0], candidates, logprobs))
        lengths += unfinished
        unfinished = unfinished & ~torch.isin(chosen[:, 0], ends)
        inputs, mask = {"input_ids": chosen.repeat(len(sides), 1)}, F.pad(mask, (0, 1), value=1)
    parts = [torch.stack(part, dim=1).cpu() for part in zip(*steps, strict=True)]
    for number, length in enumerate(lengths.tolist()):
        answer, candidates, logprobs = (part[number, :length].clone() for part in parts)
        yield answer, candidates, logprobs


def _guided(logprobs: Tensor, count: int, guidance: float) -> tuple[Tensor, Tensor]:
    """The likeliest tokens of the first ``count`` distributions, pushed away from the others, and their logprobs."""
    guided, candidates = logprobs[:count].topk(min(MAX_CANDIDATES, logprobs.shape[1]), dim=1)
    if guidance:
        guided = guided + guidance * (guided - logprobs[count:].gather(1, candidates))
    return candidates, guided.log_softmax(dim=1)
