"""Prompts under attack: what a frozen model makes of the attacker's rows, and how far those are from passing."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

from embedspace.prompt import PromptEmbeds
from embedspace.safety.layers.manifold import Manifold, measures
from embedspace.safety.layers.pooled import PooledHead, window_means
from embedspace.safety.layers.references import References
from embedspace.safety.reading import Reading
from embedspace.space import nearest_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace import EmbeddingSpace, SafetyFilter
    from embedspace.engines import TransformersEngine
    from embedspace.prompt import Recipe


@dataclass(frozen=True, eq=False)
class Victims:
    """Prompts of which the last content rows are the attacker's, with the answer that it wants.

    Raises:
        ValueError: no prompts, fewer content rows than the attacker's, prompts of another space, prompts that end
            in different templates, or a marker of no tokens.
    """

    engine: TransformersEngine
    prompts: Sequence[PromptEmbeds]
    rows: int
    """The attacker's rows in each prompt."""
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
            if not torch.equal(prompt.vectors[runs[-1].stop :], self._ending):
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
    def starts(self) -> Float[Tensor, "prompts rows hidden"]:
        """The attacker's rows before the attack."""
        ends = [prompt.content_runs[-1].stop for prompt in self.prompts]
        found = [p.vectors[end - self.rows : end] for p, end in zip(self.prompts, ends, strict=True)]
        return torch.stack(found).float()

    def attacked(
        self, rows: Float[Tensor, "prompts rows hidden"], recipes: Sequence[Recipe | None] | None = None
    ) -> list[PromptEmbeds]:
        """The prompts with the attacker's rows in them."""
        recipes = recipes or [None] * len(self.prompts)
        return [
            prompt.with_content(torch.cat([prompt.content_vectors[: -self.rows].float(), own]), recipe)
            for prompt, own, recipe in zip(self.prompts, rows.detach(), recipes, strict=True)
        ]

    def nats(self, rows: Float[Tensor, "batch rows hidden"], copies: int = 1) -> Float[Tensor, " batch"]:
        """Mean negative log-probability of the marker's tokens, in nats, with gradients to the rows.

        Args:
            rows: ``copies`` of the attacker's rows for each prompt, prompt after prompt.
            copies: tries for each prompt.
        """
        said = self.space.lookup(self.target[:-1]).float()
        after = torch.cat([self._ending.float(), said]).expand(len(rows), -1, -1)
        inputs = torch.cat([rows, after], dim=1).to(self.engine.dtype)
        length, wanted = inputs.shape[1], len(self.target)
        cache, mask, lengths = self._beginning
        cache = copy.copy(cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:  # continuing a layer makes new tensors, so what is kept stays
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
            # Indices make a contiguous copy: the product with the vocabulary is then one of two matrices, and fast.
            logits_to_keep=torch.arange(length - wanted, length),
        ).logits
        targets = torch.tensor(self.target).expand(len(rows), -1)
        losses = F.cross_entropy(logits.float().transpose(1, 2), targets, reduction="none")
        return losses.mean(dim=1)

    @property
    def _ending(self) -> Float[Tensor, "tokens hidden"]:
        return self.prompts[0].vectors[self.prompts[0].content_runs[-1].stop :]

    @cached_property
    @torch.no_grad()
    def _beginning(self) -> tuple[Any, Tensor, Tensor]:
        """Keys and values of what stands before the attacker's rows, which no step changes: padded at the left."""
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

    ``penalty`` holds the layers that have a gradient: how far the rows are from the manifold layer's bound, and the
    pooled and the reference layer's probability above the threshold. The layers on read-back text have none: they are
    asked as a whole, with all others, by ``scores``, and steps that pass are preferred.
    """

    guard: SafetyFilter
    victims: Victims

    @cached_property
    def _readings(self) -> list[Reading]:
        return [Reading.of(self.victims.space, prompt) for prompt in self.victims.prompts]

    def penalty(self, rows: Float[Tensor, "batch rows hidden"], copies: int = 1) -> Float[Tensor, " batch"]:
        """0 where the layers with a gradient let rows pass; differentiable in the rows."""
        return torch.stack([self._penalty(number // copies, own) for number, own in enumerate(rows)])

    def scores(self, rows: Float[Tensor, "prompts rows hidden"]) -> Float[Tensor, " prompts"]:
        """The whole filter's score of each prompt, as a share of its threshold: it passes up to 1."""
        threshold = self.guard.threshold
        assert threshold is not None, "an uncalibrated filter refuses to check"
        found = [verdict.score for verdict in self.guard.check_many(self.victims.attacked(rows))]
        return torch.tensor(found) / max(threshold, 1e-9)

    def _penalty(self, number: int, own: Float[Tensor, "rows hidden"]) -> Float[Tensor, ""]:
        space, reading = self.victims.space, self._readings[number]
        end = self.victims.prompts[number].content_runs[-1].stop
        whole = torch.cat([reading.rows[: end - len(own)], own, reading.rows[end:]])
        means = window_means(space, whole, reading.windows)
        total = own.new_zeros(())
        weight, opinion = 0.0, own.new_zeros(())
        for layer in self.guard.layers:
            share = self.guard.weights.get(layer.name, 0.0)
            match layer:
                case Manifold():
                    total = total + F.relu(_deviation(layer, space, own, len(whole)) - 1)
                case PooledHead():
                    probability = (means @ layer.coefficients + layer.intercept).max().sigmoid()
                    weight, opinion = weight + share, opinion + share * probability
                case References():
                    cosines = F.normalize(means, dim=1) @ layer.directions.T
                    margins = cosines[:, layer.unsafe].amax(1) - cosines[:, ~layer.unsafe].amax(1)
                    probability = (layer.steepness * (margins.max() + margins.mean()) / 2).sigmoid()
                    weight, opinion = weight + share, opinion + share * probability
                case _:
                    pass
        return total + (F.relu(opinion / weight - (self.guard.threshold or 0.0)) if weight else 0.0)


def _deviation(layer: Manifold, space: EmbeddingSpace, own: Tensor, rows: int) -> Float[Tensor, ""]:
    """``Manifold.distance`` of a prompt of which only some rows are not the vocabulary's, without a look at others."""
    found = measures(space, own, nearest_tokens(space, own.detach()))
    share = len(own) / rows  # of the means, to which all other rows add nothing
    return (found * torch.tensor([1.0, share, 1.0, share, 1.0]) / layer.allowed).max()
