"""Judges of texts: similarity in meaning, and log-odds of a style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

from embedspace.encoders import load_sentence_encoder, sentence_vectors

if TYPE_CHECKING:
    from jaxtyping import Float
    from numpy import ndarray


class SentenceSimilarity:
    """Cosine similarity of texts under a sentence encoder, which is loaded on first use.

    >>> cosines = SentenceSimilarity().cosines(["A cat sleeps.", "A cat sleeps."], ["A cat is asleep.", "Buy shares."])
    >>> cosines[0] > 0.9 > 0.2 > cosines[1]
    True

    Args:
        encoder: packaged name, local folder or hub id of a sentence-transformers model.
    """

    def __init__(self, encoder: str = "all-minilm-l6-v2") -> None:
        self.encoder = encoder
        self._cached: dict[str, ndarray] = {}

    def vectors(self, texts: Sequence[str]) -> Float[ndarray, "texts features"]:
        """Unit vectors of texts; equal texts are encoded once."""
        import numpy as np

        new = [text for text in dict.fromkeys(texts) if text not in self._cached]
        if new:
            vectors = sentence_vectors(load_sentence_encoder(self.encoder), new)
            self._cached.update(zip(new, vectors.double().numpy(), strict=True))
        return np.stack([self._cached[text] for text in texts])

    def cosines(self, a: Sequence[str], b: Sequence[str]) -> list[float]:
        """Cosine of each text of ``a`` with the one at its position in ``b``; 0 if either is empty."""
        if not a:
            return []
        products = (self.vectors(a) * self.vectors(b)).sum(axis=1)
        return [float(cosine) if left.strip() and right.strip() else 0.0
                for cosine, left, right in zip(products, a, b, strict=True)]  # fmt: skip


@dataclass(frozen=True, eq=False)
class StyleJudge:
    """Log-odds that a text is in a style rather than its opposite: a logistic regression on sentence vectors."""

    encoder: SentenceSimilarity
    classifier: Any

    @classmethod
    def trained(cls, encoder: SentenceSimilarity, pairs: Sequence[Sequence[str]]) -> Self:
        """Trained on pairs of texts of equal meaning, the first in the style, the second in its opposite.

        Raises:
            ValueError: fewer than two pairs, or an entry that is not a pair.
        """
        from sklearn.linear_model import LogisticRegression

        if len(pairs) < 2 or any(len(pair) != 2 for pair in pairs):
            raise ValueError(
                f"a judge needs at least two pairs of texts, got {len(pairs)} entries: {list(pairs)[:2]}"
            )
        sides = [encoder.vectors([pair[side] for pair in pairs]) for side in (0, 1)]
        return cls(encoder, LogisticRegression(C=10, max_iter=1000).fit(
            [*sides[0], *sides[1]], [1] * len(pairs) + [0] * len(pairs)
        ))  # fmt: skip

    def log_odds(self, texts: Sequence[str]) -> list[float]:
        """Log-odds of the style over its opposite for each text, in nats."""
        return [float(value) for value in self.classifier.decision_function(self.encoder.vectors(texts))]
