"""The sentence layer: what a sentence encoder makes of the canonical read-back text, beside labelled examples."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch

from embedspace.encoders import load_sentence_encoder, sentence_vectors
from embedspace.safety.reading import most, training_views
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Bool, Float, Int
    from torch import Tensor

    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The mean of two probabilities of an attack from one sentence vector; the highest over windows counts.

    One is the share of attacks among the nearest labelled examples, with weights of exp((cosine - 1) / temperature).
    The prior weighs as an example that is safe, so that a text unlike everything that is known counts as safe. The
    other is a logistic regression, which knows what attacks far from all examples have in common.
    """

    name: ClassVar[str] = "neighbours"

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
            safe, unsafe: the two sides.
            encoder: packaged name, local folder or hub id of a sentence-transformers model.
            strength: inverse of the regression's regularisation, scikit-learn's ``C``.
        """
        texts, labels, weights = training_views(safe, unsafe)
        vectors = _encoded(encoder, texts).half().float()  # as they are stored
        return cls.of_vectors(
            vectors, torch.tensor(labels).bool(), weights, encoder=encoder, strength=strength
        )

    @classmethod
    def of_vectors(
        cls,
        vectors: Float[Tensor, "examples features"],
        unsafe: Bool[Tensor, " examples"],
        weights: Sequence[float],
        *,
        encoder: str,
        strength: float = 10.0,
    ) -> Neighbours:
        """From vectors of labelled texts, each with its weight in the regression."""
        from sklearn.linear_model import LogisticRegression

        fitted = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(
            vectors.numpy(), unsafe.int().numpy(), sample_weight=weights
        )
        coefficients = torch.from_numpy(fitted.coef_[0]).float()
        return cls(vectors, unsafe, coefficients, torch.tensor(float(fitted.intercept_[0])), encoder)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt; all texts are encoded together."""
        return most(readings, self._judged, "meaning near that of known attacks")

    def score(self, reading: Reading) -> Finding:
        """Probability of the window that looks worst."""
        return self.scores([reading])[0]

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of canonical texts."""
        return [probability for probability, _ in self._judged(texts)]

    def shares(self, texts: Sequence[str]) -> list[float]:
        """The neighbours' half of it alone."""
        return [float(value) for value in self._near(_encoded(self.encoder, texts))[0]]

    def _judged(self, texts: Sequence[str]) -> list[tuple[float, str]]:
        vectors = _encoded(self.encoder, texts)
        shares, nearest = self._near(vectors)
        likely = (vectors @ self.coefficients + self.intercept).sigmoid()
        return [
            (float(value), f"{'unsafe' if self.unsafe[number] else 'safe'} example {number}")
            for value, number in zip((shares + likely) / 2, nearest.tolist(), strict=True)
        ]

    def _near(
        self, vectors: Float[Tensor, "texts features"]
    ) -> tuple[Float[Tensor, " texts"], Int[Tensor, " texts"]]:
        """Shares of attacks among the nearest examples, and the nearest ones' numbers among the stored vectors."""
        cosines, found = (vectors @ self.vectors.T).topk(min(self.k, len(self.vectors)), dim=1)
        weights = ((cosines - 1) / self.temperature).exp()
        shares = (weights * self.unsafe[found]).sum(dim=1) / (weights.sum(dim=1) + self.prior)
        return shares, found[:, 0]


def _encoded(encoder: str, texts: Sequence[str]) -> Float[Tensor, "texts features"]:
    return sentence_vectors(load_sentence_encoder(encoder), texts)
