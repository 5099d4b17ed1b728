"""The structural layer: faults that the server does not detect, or detects too late."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.prompt import describe_nonfinite_rows
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from embedspace.safety.reading import Reading
    from embedspace.space import EmbeddingSpace


@dataclass(frozen=True)
class Structural:
    """Shape, dtype, finiteness, length and norms. The score is infinite with a fault and 0 without."""

    name: ClassVar[str] = "structural"
    costly: ClassVar[bool] = False
    stored: ClassVar[dict[str, torch.dtype]] = {}

    most_rows: int
    """Most rows of a prompt."""
    largest_norm: float
    """Largest norm of a row."""

    @classmethod
    def fit(
        cls, space: EmbeddingSpace, *, most_rows: int | None = None, norm_ratio: float = 8.0
    ) -> Structural:
        """Bounds for a space: the model's context length, and a multiple of the vocabulary's largest norm.

        Args:
            space: of the model that is protected.
            most_rows: in place of the model's context length.
            norm_ratio: largest norm of a row, as a multiple of the vocabulary's largest.
        """
        rows = most_rows or space.context_length or 1_000_000
        return cls(rows, norm_ratio * float(space.norms.max()))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """Infinite with a fault, 0 without."""
        fault = self.fault(reading.vectors, reading.space.hidden_size)
        return (
            Finding(float("inf"), fault)
            if fault
            else Finding(0.0, "shape, dtype, length and norms are sound")
        )

    def fault(self, vectors: torch.Tensor, hidden_size: int) -> str | None:
        """The first fault of a tensor as the rows of a prompt, in words, or None."""
        if vectors.layout != torch.strided or vectors.device.type == "meta":
            return f"rows must be a dense tensor with values, got layout {vectors.layout} on {vectors.device}"
        if not vectors.is_floating_point():
            return f"rows must be floating-point numbers, got {vectors.dtype}"
        if vectors.ndim != 2 or vectors.shape[1] != hidden_size or not len(vectors):
            return f"rows must have shape [tokens, {hidden_size}] with at least one row, got {list(vectors.shape)}"
        if len(vectors) > self.most_rows:
            return f"{len(vectors)} rows are more than the {self.most_rows} that are allowed"
        if fault := describe_nonfinite_rows(vectors):
            return fault
        norms = vectors.detach().float().norm(dim=1)
        if not bool((norms <= self.largest_norm).all()):
            row = int(norms.argmax())
            return f"row {row} has norm {float(norms[row]):.3g}, more than the {self.largest_norm:.3g} that is allowed"
        return None
