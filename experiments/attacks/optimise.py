"""Optimises rows so that a frozen model says a harmless marker, by gradient or by exchanging tokens."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import torch
import torch.nn.functional as F

from embedspace._util.progress import progress
from embedspace.safety import vocabulary_spread
from embedspace.space import nearest_tokens
from experiments.attacks.attacked_prompts import AttackedPrompts, Evasion

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace import EmbeddingSpace

Hold = Literal["nothing", "start", "vocabulary", "tokens"]


@dataclass(frozen=True)
class Attacker:
    """Constraints and budget of an attacker that controls the last rows of the user's message.

    The rows are optimised with Adam so that the marker becomes likely (soft prompt attacks: Schwinn et al. 2024), or
    exchanged token by token (Zou et al. 2023).

    Raises:
        ValueError: a setting is out of its range.
    """

    hold: Hold
    """``nothing``: unconstrained. ``start``: each row stays within ``radius`` of its initial row. ``vocabulary``: each
    row is projected to within ``radius`` of its nearest vocabulary row, and the gradient there is applied to the
    unprojected row (straight-through; Wen et al. 2023). ``tokens``: vocabulary rows only."""
    steps: int
    radius: float | None = None
    """In units of the vocabulary's root mean square distance from its mean row; None: as far as the evaded filter
    allows."""
    learning_rate: float = 0.05
    """Length of Adam's first step, in the same unit."""
    candidates: int = 16
    """Exchanges that are evaluated in each step of ``tokens``."""
    evades: str | None = None
    """Name of the filter that the attacker evades; see :class:`~experiments.attacks.attacked_prompts.Evasion`."""
    weight: float = 4.0
    """Of the filter's score in the loss; the marker's negative log-likelihood per token has weight 1."""

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
    target: AttackedPrompts, attacker: Attacker, evasion: Evasion | None, *, title: str, seed: int = 0
) -> Float[Tensor, "prompts rows hidden"]:
    """The best rows for each prompt: the most likely marker among rows that pass the evaded filter, if there is one.

    If none passes, the rows with the lowest loss including the filter's score.
    """
    with progress(title, attacker.steps) as advance:
        if attacker.hold == "tokens":
            return _exchange_tokens(target, attacker, evasion, advance, torch.Generator().manual_seed(seed))
        return _move_rows(target, attacker, evasion, advance)


_QUERIES = 10
"""How often, over all steps, an attacker by gradient queries the whole filter."""


def _move_rows(
    target: AttackedPrompts, attacker: Attacker, evasion: Evasion | None, advance: Callable[[], None]
) -> Tensor:
    scale = vocabulary_spread(target.space)
    radius = (attacker.radius or 0.0) * scale
    rows = target.initial_rows.clone().requires_grad_()
    # Adam moves each coordinate by about the learning rate, and a row by that times the root of their number.
    rate = attacker.learning_rate * scale / math.sqrt(rows.shape[-1])
    optimiser = torch.optim.Adam([rows], lr=rate)
    best = _BestRows(target.initial_rows)
    every = max(1, attacker.steps // _QUERIES)
    for step in range(attacker.steps):
        optimiser.zero_grad()
        with torch.enable_grad():
            used = rows
            if attacker.hold == "vocabulary":
                with torch.no_grad():
                    projected = _projected(target, rows, radius)
                used = rows + (projected - rows).detach()
            nll = target.marker_nll(used)
            extra = evasion.penalty(used) if evasion else torch.zeros_like(nll)
            (nll + attacker.weight * extra).sum().backward()
        if evasion is None:
            best.update(used.detach(), nll.detach(), torch.zeros(len(rows)))
        elif step % every == every - 1 or step == attacker.steps - 1:
            best.update(used.detach(), nll.detach(), F.relu(evasion.scores(used) - 1))
        optimiser.step()
        if attacker.hold == "start":
            with torch.no_grad():
                rows.copy_(_clipped(rows, target.initial_rows, radius))
        advance()
    return best.rows


@torch.no_grad()
def _exchange_tokens(
    target: AttackedPrompts,
    attacker: Attacker,
    evasion: Evasion | None,
    advance: Callable[[], None],
    generator: torch.Generator,
) -> Tensor:
    """Greedy coordinate gradient: the gradient proposes exchanges, and the loss of a random sample decides."""
    space, size = target.space, attacker.candidates
    rows = target.initial_rows.clone()
    best = _BestRows(rows)
    batch = torch.arange(len(rows))
    for _ in range(attacker.steps):
        with torch.enable_grad():
            free = rows.clone().requires_grad_()
            loss = target.marker_nll(free)
            if evasion:
                loss = loss + attacker.weight * evasion.penalty(free)
            (gradient,) = torch.autograd.grad(loss.sum(), free)
        tokens = _proposed(space, gradient, 4 * size)
        place = torch.randint(rows.shape[1], (len(rows), size), generator=generator)
        choice = torch.randint(tokens.shape[2], (len(rows), size), generator=generator)
        replacements = tokens[batch[:, None], place, choice]
        tried = rows[:, None].repeat(1, size, 1, 1)
        tried[batch[:, None], torch.arange(size), place] = (
            space.lookup(replacements.flatten().tolist()).float().view(*replacements.shape, -1)
        )
        tried[:, 0] = rows  # no exchange is one of the choices
        flat = tried.flatten(0, 1)
        nll = target.marker_nll(flat, size).view(len(rows), size)
        losses = nll
        if evasion:
            losses = nll + attacker.weight * evasion.penalty(flat, size).view_as(nll)
        chosen = losses.argmin(dim=1)
        excess = torch.zeros(len(rows))
        if evasion:
            chosen, excess = _best_exchange(evasion, tried, losses, attacker.weight)
        rows = tried[batch, chosen]
        best.update(rows, nll[batch, chosen], excess)
        advance()
    return best.rows


_QUERIED = 3
"""Exchanges of the lowest losses in each step for which the whole filter is queried."""


def _best_exchange(
    evasion: Evasion, tried: Tensor, losses: Tensor, weight: float
) -> tuple[Int[Tensor, " prompts"], Float[Tensor, " prompts"]]:
    """The best exchange with the whole filter's score in its loss, and that score's excess over the threshold."""
    batch = torch.arange(len(tried))
    queried = losses.topk(min(_QUERIED, losses.shape[1]), largest=False).indices
    excesses = torch.stack([F.relu(evasion.scores(tried[batch, each]) - 1) for each in queried.T], dim=1)
    pick = (losses.gather(1, queried) + weight * excesses.clamp_max(10)).argmin(dim=1)
    return queried[batch, pick], excesses[batch, pick]


@dataclass(eq=False)
class _BestRows:
    """The best rows of each prompt so far: lowest excess over the threshold, then lowest negative log-likelihood."""

    rows: Tensor

    def __post_init__(self) -> None:
        self.rows = self.rows.clone()
        self.keys = [(math.inf, math.inf)] * len(self.rows)

    def update(self, rows: Tensor, nll: Tensor, excess: Tensor) -> None:
        for number, key in enumerate(zip(excess.tolist(), nll.tolist(), strict=True)):
            if key < self.keys[number]:
                self.keys[number], self.rows[number] = key, rows[number]


def _proposed(space: EmbeddingSpace, gradient: Tensor, count: int) -> Int[Tensor, "prompts rows count"]:
    """For each row the ordinary tokens that lower the loss most, to first order."""
    flat = gradient.flatten(0, 1)
    products = torch.cat([flat @ chunk.T for chunk in space.table.chunks()], dim=1)
    special = [number for number, token in space.tokenizer.added_tokens.items() if token.special]
    products[:, special] = math.inf
    return products.topk(count, dim=1, largest=False).indices.view(*gradient.shape[:2], count)


def _projected(target: AttackedPrompts, rows: Tensor, radius: float) -> Tensor:
    flat = rows.flatten(0, 1)
    ids = nearest_tokens(target.space, flat)
    return _clipped(flat, target.space.lookup(ids.tolist()).float(), radius).view_as(rows)


def _clipped(rows: Tensor, centres: Tensor, radius: float) -> Tensor:
    """Each row projected onto the ball around its centre."""
    moved = rows - centres
    share: Tensor = (radius / moved.norm(dim=-1, keepdim=True).clamp_min(1e-9)).clamp_max(1)
    return centres + moved * share
