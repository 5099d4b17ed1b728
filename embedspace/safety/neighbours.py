"""The sentence layer: the nearest labelled examples of the canonical read-back text under a sentence encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.safety.verdict import Finding
from embedspace.safety.views import most, training_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float
    from torch import Tensor

    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Share of attacks among the nearest labelled examples, nearer ones weighing more; the highest over windows counts.

    Weights are exp((cosine - 1) / temperature). The prior weighs as an example that is safe, so that a text unlike
    everything that is known counts as safe.
    """

    name: ClassVar[str] = "neighbours"

    vectors: Float[Tensor, "examples features"]
    """Of length 1."""
    unsafe: Bool[Tensor, " examples"]
    encoder: str = "all-minilm-l6-v2"
    k: int = 8
    temperature: float = 0.05
    prior: float = 1e-5

    @classmethod
    def fit(
        cls, safe: Sequence[Reading], unsafe: Sequence[Reading], *, encoder: str = "all-minilm-l6-v2"
    ) -> Neighbours:
        """Keeps the vector of every canonical text of every prompt.

        Args:
            safe, unsafe: the two sides.
            encoder: packaged name, local folder or hub id of a sentence-transformers model.
        """
        texts, labels, _ = training_views(safe, unsafe)
        return cls(_encoded(encoder, texts).half().float(), torch.tensor(labels).bool(), encoder)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt; all texts are encoded together."""
        return most(readings, self.probabilities, "meaning near that of known attacks")

    def score(self, reading: Reading) -> Finding:
        """Share of attacks near the window that looks worst."""
        return self.scores([reading])[0]

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of canonical texts."""
        cosines, found = (_encoded(self.encoder, texts) @ self.vectors.T).topk(
            min(self.k, len(self.vectors)), dim=1
        )
        weights = ((cosines - 1) / self.temperature).exp()
        shares = (weights * self.unsafe[found]).sum(dim=1) / (weights.sum(dim=1) + self.prior)
        return [float(share) for share in shares]


def _encoded(encoder: str, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    from embedspace.metrics import sentence_encoder

    made = sentence_encoder(encoder).encode(
        list(texts), normalize_embeddings=True, show_progress_bar=False, convert_to_tensor=True
    )
    return torch.as_tensor(made).cpu().float()
