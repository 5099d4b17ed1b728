"""The reference layer: centred cosine of windows to safe and unsafe prompts, of any lengths."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.safety.layers.pooled import window_means
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class References:
    """How much nearer a prompt's windows are to unsafe references than to safe ones.

    A window's margin is its highest centred cosine to an unsafe reference minus that to a safe one; the score is the
    mean of the highest margin and of the windows' mean margin, through a logistic curve.
    """

    name: ClassVar[str] = "references"

    directions: Float[Tensor, "references hidden"]
    """Mean centred rows of the references' windows, of length 1."""
    unsafe: Bool[Tensor, " references"]
    owners: tuple[str, ...]
    """What each direction comes from: ``safe 3`` is the fourth of the safe prompts."""
    steepness: float = 8.0

    @classmethod
    def fit(cls, safe: Sequence[Reading], unsafe: Sequence[Reading]) -> References:
        """Keeps the direction of every window of every prompt."""
        means, labels, owners = [], [], []
        for side, readings in (("safe", safe), ("unsafe", unsafe)):
            for number, reading in enumerate(readings):
                means.append(window_means(reading.space, reading.rows, reading.windows))
                labels += [side == "unsafe"] * len(means[-1])
                owners += [f"{side} {number}"] * len(means[-1])
        directions = torch.nn.functional.normalize(torch.cat(means), dim=1).half().float()
        return cls(directions, torch.tensor(labels), tuple(owners))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """From the window that looks worst and from all of them."""
        means = window_means(reading.space, reading.rows, reading.windows)
        cosines = torch.nn.functional.normalize(means, dim=1) @ self.directions.T
        near, found = cosines.masked_fill(~self.unsafe, -1).max(dim=1)
        margins = near - cosines.masked_fill(self.unsafe, -1).max(dim=1).values
        worst = int(margins.argmax())
        score = float((self.steepness * (margins.max() + margins.mean()) / 2).sigmoid())
        owner = self.owners[int(found[worst])]
        reason = f"centred cosine {float(near[worst]):.2f} to {owner}, {float(margins[worst]):+.2f} against safe ones"
        return Finding(score, reason, reading.windows[worst], owner)
