"""The structural layer: what the server itself does not see, or sees too late."""

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
    """Shape, dtype, finiteness, length and norms. A fault makes the score infinite, a sound prompt's is 0."""

    name: ClassVar[str] = "structural"

    most_rows: int
    """Rows that a prompt may have."""
    largest_norm: float
    """Norm that a row may have."""

    @classmethod
    def fit(
        cls, space: EmbeddingSpace, *, most_rows: int | None = None, norm_ratio: float = 8.0
    ) -> Structural:
        """Bounds of a space: the model's context, and some times the largest norm of its vocabulary.

        Args:
            space: of the model that is guarded.
            most_rows: other than the model's context length.
            norm_ratio: how many times the largest norm of the vocabulary a row may have.
        """
        rows = most_rows or space.context_length or 1_000_000
        return cls(rows, norm_ratio * float(space.norms.max()))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return [self.score(reading) for reading in readings]

    def score(self, reading: Reading) -> Finding:
        """Infinite with the first fault, 0 without any."""
        fault = self.fault(reading.vectors, reading.space.hidden_size)
        return (
            Finding(float("inf"), fault)
            if fault
            else Finding(0.0, "shape, dtype, length and norms are sound")
        )

    def fault(self, vectors: torch.Tensor, hidden_size: int) -> str | None:
        """What is wrong with a tensor as the rows of a prompt, in words; None where nothing is."""
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
