"""Prompts under attack: the model's loss on the attacker's rows, and their distance from passing a filter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from embedspace.prompt import PromptEmbeds
from embedspace.safety import Manifold, PooledHead, Reading, References, measures, window_means
from embedspace.space import nearest_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace import EmbeddingSpace, SafetyFilter
    from embedspace.engines import TransformersEngine
    from embedspace.prompt import Recipe


@dataclass(frozen=True, eq=False)
class AttackedPrompts:
    """Prompts whose last content rows an attacker controls, with the marker that the model should say.

    Raises:
        ValueError: no prompts, fewer content rows than the attacker's, prompts of another space, prompts that end
            in different templates, or a marker without tokens.
    """

    engine: TransformersEngine
    prompts: Sequence[PromptEmbeds]
    rows: int
    """Rows of each prompt that the attacker controls."""
    marker: str

    def __post_init__(self) -> None:
        if not self.prompts or self.rows < 1:
            raise ValueError(f"an attack needs prompts and rows; got {len(self.prompts)} and {self.rows}")
        if not self.target:
            raise ValueError(f"the marker {self.marker!r} has no tokens; give a word")
        for number, prompt in enumerate(self.prompts):
            self.engine.space.require(prompt)
            runs = prompt.content_runs
            if not runs or runs[-1].stop - runs[-1].start < self.rows:
                raise ValueError(f"prompt {number} has fewer than {self.rows} rows in its last message; give a longer "
                                 "start or fewer rows")  # fmt: skip
            if not torch.equal(prompt.vectors[runs[-1].stop :], self._suffix):
                raise ValueError(f"prompt {number} ends in another template than the first one")

    @property
    def space(self) -> EmbeddingSpace:
        """Of all prompts."""
        return self.engine.space

    @cached_property
    def target(self) -> list[int]:
        """Tokens of the marker."""
        return self.space.tokenize(self.marker)

    @cached_property
    def initial_rows(self) -> Float[Tensor, "prompts rows hidden"]:
        """The attacker's rows before the attack."""
        ends = [prompt.content_runs[-1].stop for prompt in self.prompts]
        found = [p.vectors[end - self.rows : end] for p, end in zip(self.prompts, ends, strict=True)]
        return torch.stack(found).float()

    def with_rows(
        self, rows: Float[Tensor, "prompts rows hidden"], recipes: Sequence[Recipe | None] | None = None
    ) -> list[PromptEmbeds]:
        """The prompts with the attacker's rows in them."""
        recipes = recipes or [None] * len(self.prompts)
        return [
            prompt.with_content(torch.cat([prompt.content_vectors[: -self.rows].float(), own]), recipe)
            for prompt, own, recipe in zip(self.prompts, rows.detach(), recipes, strict=True)
        ]

    def marker_nll(
        self, rows: Float[Tensor, "batch rows hidden"], copies: int = 1
    ) -> Float[Tensor, " batch"]:
        """Mean negative log-likelihood of the marker's tokens, in nats; differentiable in the rows.

        Args:
            rows: ``copies`` of the attacker's rows for each prompt, prompt after prompt.
            copies: variants of each prompt.
        """
        marker = self.space.lookup(self.target[:-1]).float()
        after = torch.cat([self._suffix.float(), marker]).expand(len(rows), -1, -1)
        inputs = torch.cat([rows, after], dim=1).to(self.engine.dtype)
        length, wanted = inputs.shape[1], len(self.target)
        cache, mask, lengths = self._prefix
        cache = copy.copy(cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:  # appending creates new tensors, so the cached ones are unchanged
            layer.keys, layer.values = (
                each.repeat_interleave(copies, 0) for each in (layer.keys, layer.values)
            )
        seen = torch.cat([mask, mask.new_ones(len(mask), length)], dim=1)
        logits = self.engine.model(
            inputs_embeds=inputs,
            attention_mask=seen.repeat_interleave(copies, 0),
            position_ids=(lengths[:, None] + torch.arange(length)).repeat_interleave(copies, 0),
            past_key_values=cache,
            use_cache=True,
            # Indices make a contiguous copy, so the product with the vocabulary is one fast matrix product.
            logits_to_keep=torch.arange(length - wanted, length),
        ).logits
        targets = torch.tensor(self.target).expand(len(rows), -1)
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        return losses.mean(dim=1)

    @property
    def _suffix(self) -> Float[Tensor, "tokens hidden"]:
        return self.prompts[0].vectors[self.prompts[0].content_runs[-1].stop :]

    @cached_property
    @torch.no_grad()
    def _prefix(self) -> tuple[Any, Tensor, Tensor]:
        """Keys and values of the rows before the attacker's, which no step changes; padded on the left."""
        parts = [p.vectors[: p.content_runs[-1].stop - self.rows] for p in self.prompts]
        longest = max(map(len, parts))
        padded = torch.stack([F.pad(part, (0, 0, longest - len(part), 0)) for part in parts])
        lengths = torch.tensor([len(part) for part in parts])
        mask = (torch.arange(longest) >= longest - lengths[:, None]).long()
        cache = self.engine.model(
            inputs_embeds=padded.to(self.engine.dtype),
            attention_mask=mask,
            position_ids=(mask.cumsum(1) - 1).clamp_min(0),
            use_cache=True,
            logits_to_keep=1,
        ).past_key_values
        return cache, mask, lengths


@dataclass(frozen=True, eq=False)
class Evasion:
    """How far attacked prompts are from passing a filter.

    ``penalty`` covers the layers with a gradient: the rows' excess over the manifold layer's bound, and that of the
    pooled and the reference layer's probability over the threshold. The layers on read-back text have no gradient:
    ``scores`` queries the whole filter.
    """

    guard: SafetyFilter
    target: AttackedPrompts

    @cached_property
    def _readings(self) -> list[Reading]:
        return [Reading.of(self.target.space, prompt, self.guard.window) for prompt in self.target.prompts]

    def penalty(self, rows: Float[Tensor, "batch rows hidden"], copies: int = 1) -> Float[Tensor, " batch"]:
        """0 where the layers with a gradient allow the rows; differentiable in the rows."""
        return torch.stack([self._penalty(number // copies, own) for number, own in enumerate(rows)])

    def scores(self, rows: Float[Tensor, "prompts rows hidden"]) -> Float[Tensor, " prompts"]:
        """The whole filter's score of each prompt, relative to its threshold: prompts up to 1 pass."""
        threshold = self.guard.threshold
        assert threshold is not None, "an uncalibrated filter refuses to check"
        found = [verdict.score for verdict in self.guard.check_many(self.target.with_rows(rows))]
        return torch.tensor(found) / max(threshold, 1e-9)

    def _penalty(self, number: int, own: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        space, reading = self.target.space, self._readings[number]
        end = self.target.prompts[number].content_runs[-1].stop
        whole = torch.cat([reading.rows[: end - len(own)], own, reading.rows[end:]])
        means = window_means(space, whole, reading.windows)
        total = own.new_zeros(())
        weights, score = 0.0, own.new_zeros(())
        for layer in self.guard.layers:
            weight = self.guard.weights.get(layer.name, 0.0)
            match layer:
                case Manifold():
                    total = total + F.relu(_deviation(layer, space, own, len(whole)) - 1)
                case PooledHead():
                    weights, score = weights + weight, score + weight * layer.logits(means).max().sigmoid()
                case References():
                    weights, score = weights + weight, score + weight * layer.probability(means)
                case _:
                    pass
        return total + (F.relu(score / weights - (self.guard.threshold or 0.0)) if weights else 0.0)


def _deviation(layer: Manifold, space: EmbeddingSpace, own: Tensor, rows: int) -> Float[Tensor, ""]:
    """Largest ratio of a manifold measure to its maximum; all rows but ``own`` are rows of the vocabulary."""
    found = measures(space, own, nearest_tokens(space, own.detach()))
    share = len(own) / rows  # of the means, to which the other rows contribute 0
    return (found * torch.tensor([1.0, share, 1.0, share, 1.0]) / layer.allowed).max()
