"""Attacks on a frozen model through its embeddings: rows found by gradient that make it say a harmless marker."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, get_args

import torch
import torch.nn.functional as F

from embedspace.progress import progress
from embedspace.prompt import PromptEmbeds
from embedspace.safety.manifold import Manifold, measures
from embedspace.safety.pooled import PooledHead, window_means
from embedspace.safety.reading import Reading
from embedspace.safety.references import References
from embedspace.vocabulary_rows import nearest_tokens

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace import EmbeddingSpace, SafetyFilter
    from embedspace.engines import TransformersEngine
    from embedspace.recipe import Recipe

Hold = Literal["nothing", "start", "vocabulary", "tokens"]


@dataclass(frozen=True)
class Attacker:
    """What an attacker may send, and how long it tries.

    The last rows of the user's message are the attacker's. They are moved by Adam until the model finds the marker
    likely (soft prompts as attacks: Schwinn et al. 2024), or exchanged token by token (Zou et al. 2023).

    Raises:
        ValueError: a setting is out of its range.
    """

    hold: Hold
    """``nothing``: rows go where they like. ``start``: each stays within ``radius`` of the word's row that it began
    as. ``vocabulary``: after every step each is pulled to within ``radius`` of its nearest vocabulary row; the gradient
    there moves the row as it was before (straight through; Wen et al. 2023). ``tokens``: vocabulary rows only."""
    steps: int
    radius: float | None = None
    """In units of the vocabulary's root mean square distance from its mean row; None, for ``vocabulary``, is as far as
    the filter allows."""
    learning_rate: float = 0.05
    """Length of Adam's first step, in the same unit."""
    candidates: int = 16
    """Exchanges that are tried a step, for ``tokens``."""
    evades: str | None = None
    """Name of the filter that the attacker knows and wants to pass; see :class:`Evasion`."""
    weight: float = 4.0
    """Of the filter's score in the loss, where nats a token of the marker count 1."""

    def __post_init__(self) -> None:
        checks = {
            "hold": (self.hold in get_args(Hold), " or ".join(get_args(Hold))),
            "steps": (self.steps >= 1, "at least 1"),
            "radius": (
                _fits(self.hold, self.radius, self.evades),
                "0 or more for start and vocabulary (None for vocabulary with evades), None for the others",
            ),
            "learning_rate": (math.isfinite(self.learning_rate) and self.learning_rate > 0, "above 0"),
            "candidates": (self.candidates >= 1, "at least 1"),
            "weight": (math.isfinite(self.weight) and self.weight >= 0, "0 or more"),
        }
        for name, (fits, allowed) in checks.items():
            if not fits:
                raise ValueError(f"Attacker.{name} is {getattr(self, name)!r}; it must be {allowed}")


def _fits(hold: Hold, radius: float | None, evades: str | None) -> bool:
    if hold in ("nothing", "tokens"):
        return radius is None
    if radius is None:
        return hold == "vocabulary" and evades is not None
    return math.isfinite(radius) and radius >= 0


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


def attack(
    victims: Victims, attacker: Attacker, evasion: Evasion | None, *, title: str, seed: int = 0
) -> Float[Tensor, "prompts rows hidden"]:
    """The attacker's best rows for each prompt: of those that pass the filter, where it is known, else of all.

    Best is where the marker is likeliest; where none passes, where the loss with the filter's part is lowest.
    """
    with progress(title, attacker.steps) as advance:
        if attacker.hold == "tokens":
            return _exchanged(victims, attacker, evasion, advance, torch.Generator().manual_seed(seed))
        return _moved(victims, attacker, evasion, advance)


def unit(space: EmbeddingSpace) -> float:
    """Root mean square distance of the vocabulary's rows from their mean: what radii are counted in."""
    return float((space.norms.square().mean() - space.mean.square().sum()).sqrt())


_QUERIES = 10
"""How often, over all steps, an attacker by gradient asks the whole filter."""


def _moved(
    victims: Victims, attacker: Attacker, evasion: Evasion | None, advance: Callable[[], None]
) -> Tensor:
    scale = unit(victims.space)
    radius = (attacker.radius or 0.0) * scale
    rows = victims.starts.clone().requires_grad_()
    # Adam moves every coordinate by about its rate: a row by the rate times the root of their number.
    rate = attacker.learning_rate * scale / math.sqrt(rows.shape[-1])
    optimiser = torch.optim.Adam([rows], lr=rate)
    best = _Best(victims.starts)
    every = max(1, attacker.steps // _QUERIES)
    for step in range(attacker.steps):
        optimiser.zero_grad()
        with torch.enable_grad():
            used = rows
            if attacker.hold == "vocabulary":
                with torch.no_grad():
                    pulled = _near_vocabulary(victims, rows, radius)
                used = rows + (pulled - rows).detach()
            nats = victims.nats(used)
            extra = evasion.penalty(used) if evasion else torch.zeros_like(nats)
            (nats + attacker.weight * extra).sum().backward()
        if evasion is None:
            best.take(used.detach(), nats.detach(), torch.zeros(len(rows)))
        elif step % every == every - 1 or step == attacker.steps - 1:
            best.take(used.detach(), nats.detach(), F.relu(evasion.scores(used) - 1))
        optimiser.step()
        if attacker.hold == "start":
            with torch.no_grad():
                rows.copy_(_clipped(rows, victims.starts, radius))
        advance()
    return best.rows


@torch.no_grad()
def _exchanged(
    victims: Victims,
    attacker: Attacker,
    evasion: Evasion | None,
    advance: Callable[[], None],
    chance: torch.Generator,
) -> Tensor:
    """Greedy coordinate gradient: the gradient proposes tokens, the loss itself decides between some of them."""
    space, size = victims.space, attacker.candidates
    rows = victims.starts.clone()
    best = _Best(rows)
    everyone = torch.arange(len(rows))
    for _ in range(attacker.steps):
        with torch.enable_grad():
            free = rows.clone().requires_grad_()
            loss = victims.nats(free)
            if evasion:
                loss = loss + attacker.weight * evasion.penalty(free)
            (gradient,) = torch.autograd.grad(loss.sum(), free)
        tokens = _proposed(space, gradient, 4 * size)
        place = torch.randint(rows.shape[1], (len(rows), size), generator=chance)
        choice = torch.randint(tokens.shape[2], (len(rows), size), generator=chance)
        picked = tokens[everyone[:, None], place, choice]
        tried = rows[:, None].repeat(1, size, 1, 1)
        tried[everyone[:, None], torch.arange(size), place] = (
            space.lookup(picked.flatten().tolist()).float().view(*picked.shape, -1)
        )
        tried[:, 0] = rows  # to stay is one of the choices
        flat = tried.flatten(0, 1)
        nats = victims.nats(flat, size).view(len(rows), size)
        losses = nats
        if evasion:
            losses = nats + attacker.weight * evasion.penalty(flat, size).view_as(nats)
        chosen = losses.argmin(dim=1)
        excess = torch.zeros(len(rows))
        if evasion:
            chosen, excess = _passing(evasion, tried, losses, attacker.weight)
        rows = tried[everyone, chosen]
        best.take(rows, nats[everyone, chosen], excess)
        advance()
    return best.rows


_ASKED = 3
"""Of the exchanges that are tried, those of the lowest losses about which the whole filter is asked."""


def _passing(
    evasion: Evasion, tried: Tensor, losses: Tensor, weight: float
) -> tuple[Int[Tensor, " prompts"], Float[Tensor, " prompts"]]:
    """The choice with the whole filter's score in its loss, and by how much that score is above the threshold."""
    everyone = torch.arange(len(tried))
    asked = losses.topk(min(_ASKED, losses.shape[1]), largest=False).indices
    excesses = torch.stack([F.relu(evasion.scores(tried[everyone, each]) - 1) for each in asked.T], dim=1)
    pick = (losses.gather(1, asked) + weight * excesses.clamp_max(10)).argmin(dim=1)
    return asked[everyone, pick], excesses[everyone, pick]


@dataclass(eq=False)
class _Best:
    """The best rows so far of each prompt: those above the threshold by least, then those of the fewest nats."""

    rows: Tensor

    def __post_init__(self) -> None:
        self.rows = self.rows.clone()
        self.keys = [(math.inf, math.inf)] * len(self.rows)

    def take(self, rows: Tensor, nats: Tensor, excess: Tensor) -> None:
        for number, key in enumerate(zip(excess.tolist(), nats.tolist(), strict=True)):
            if key < self.keys[number]:
                self.keys[number], self.rows[number] = key, rows[number]


def _proposed(space: EmbeddingSpace, gradient: Tensor, count: int) -> Int[Tensor, "prompts rows count"]:
    """For each row the ordinary tokens that the gradient says lower the loss most."""
    flat = gradient.flatten(0, 1)
    products = torch.cat([flat @ chunk.T for chunk in space.table.chunks()], dim=1)
    special = [number for number, token in space.tokenizer.added_tokens.items() if token.special]
    products[:, special] = math.inf
    return products.topk(count, dim=1, largest=False).indices.view(*gradient.shape[:2], count)


def _near_vocabulary(victims: Victims, rows: Tensor, radius: float) -> Tensor:
    flat = rows.flatten(0, 1)
    ids = nearest_tokens(victims.space, flat)
    return _clipped(flat, victims.space.lookup(ids.tolist()).float(), radius).view_as(rows)


def _clipped(rows: Tensor, centres: Tensor, radius: float) -> Tensor:
    """Each row moved straight to its centre until it is within the radius."""
    moved = rows - centres
    return centres + moved * (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)
