"""Attacks on a frozen model through its embeddings: rows found by gradient that make it say a harmless marker."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F

from embedspace._util.progress import progress
from embedspace.space import nearest_tokens
from experiments.attacks.victims import Evasion, Victims

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace import EmbeddingSpace

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
    """In units of the vocabulary's root mean square distance from its mean row; None is as far as the filter that is
    evaded allows."""
    learning_rate: float = 0.05
    """Length of Adam's first step, in the same unit."""
    candidates: int = 16
    """Exchanges that are tried a step, for ``tokens``."""
    evades: str | None = None
    """Name of the filter that the attacker knows and evades; see :class:`~experiments.attacks.victims.Evasion`."""
    weight: float = 4.0
    """Of the filter's score in the loss, where nats a token of the marker count 1."""

    def __post_init__(self) -> None:
        checks = {
            "hold": (self.hold in get_args(Hold), " or ".join(get_args(Hold))),
            "steps": (self.steps >= 1, "at least 1"),
            "radius": (
                _fits(self.hold, self.radius, self.evades),
                "0 or more for start and vocabulary (None with evades), None for the others",
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
        return evades is not None
    return math.isfinite(radius) and radius >= 0


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
    share: Tensor = (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)
    return centres + moved * share
