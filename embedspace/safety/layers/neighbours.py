"""The sentence layer: nearest labelled examples and a regression in the space of a sentence encoder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.encoders import load_sentence_encoder, sentence_vectors
from embedspace.safety.reading import highest_scoring_windows, training_views
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The mean of two probabilities of an attack from one sentence vector; a prompt gets its windows' highest.

    One is the share of attacks among the nearest labelled examples, weighted by exp((cosine - 1) / temperature). The
    prior is the weight of an additional safe example, so that a text unlike all examples counts as safe. The other is
    a logistic regression, which generalises to attacks far from all examples.
    """

    name: ClassVar[str] = "neighbours"
    costly: ClassVar[bool] = True
    stored: ClassVar[dict[str, torch.dtype]] = {
        "vectors": torch.float16,
        "unsafe": torch.bool,
        "coefficients": torch.float32,
        "intercept": torch.float32,
    }

    vectors: Float[Tensor, "examples features"]
    """Of length 1."""
    unsafe: Bool[Tensor, " examples"]
    coefficients: Float[Tensor, " features"]
    intercept: Float[Tensor, ""]
    encoder: str = "all-minilm-l6-v2"
    k: int = 8
    temperature: float = 0.05
    prior: float = 1e-5

    @classmethod
    def fit(
        cls,
        safe: Sequence[Reading],
        unsafe: Sequence[Reading],
        *,
        encoder: str = "all-minilm-l6-v2",
        strength: float = 10.0,
    ) -> Neighbours:
        """Keeps the vector of every canonical text of every prompt, and fits the regression on them.

        Args:
            safe, unsafe: the two classes.
            encoder: packaged name, local folder or hub id of a sentence-transformers model.
            strength: inverse of the regression's regularisation, scikit-learn's ``C``.
        """
        from sklearn.linear_model import LogisticRegression

        texts, labels, weights = training_views(safe, unsafe)
        vectors = _encode(encoder, texts).half().float()  # as they are stored
        fitted = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(
            vectors.numpy(), labels, sample_weight=weights
        )
        coefficients = torch.from_numpy(fitted.coef_[0]).float()
        intercept = torch.tensor(float(fitted.intercept_[0]))
        return cls(vectors, torch.tensor(labels).bool(), coefficients, intercept, encoder)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt; all texts are encoded together."""
        return highest_scoring_windows(readings, self._classify, "meaning near that of known attacks")

    def shares(self, texts: Sequence[str]) -> list[float]:
        """Weighted shares of attacks among the nearest examples alone."""
        return [float(value) for value in self._neighbours(_encode(self.encoder, texts))[0]]

    def _classify(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        vectors = _encode(self.encoder, texts)
        shares, nearest = self._neighbours(vectors)
        regressed = (vectors @ self.coefficients + self.intercept).sigmoid()
        return [
            (float(value), f"{'unsafe' if self.unsafe[number] else 'safe'} example {number}")
            for value, number in zip((shares + regressed) / 2, nearest.tolist(), strict=True)
        ]

    def _neighbours(
        self, vectors: Float[Tensor, "texts features"]
    ) -> tuple[Float[Tensor, " texts"], Int[Tensor, " texts"]]:
        """Weighted shares of attacks among the nearest examples, and the nearest example's index."""
        cosines, found = (vectors @ self.vectors.T).topk(min(self.k, len(self.vectors)), dim=1)
        weights = ((cosines - 1) / self.temperature).exp()
        shares = (weights * self.unsafe[found]).sum(dim=1) / (weights.sum(dim=1) + self.prior)
        return shares, found[:, 0]


def _encode(encoder: str, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    return sentence_vectors(load_sentence_encoder(encoder), texts)
