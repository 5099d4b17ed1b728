"""The n-gram head: a logistic regression on the character n-grams of the canonical read-back text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from embedspace.safety.verdict import Finding
from embedspace.safety.views import most, training_views

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.safety.reading import Reading

_COLUMNS = 2**18


@dataclass(frozen=True, eq=False)
class NGramHead:
    """Probability of an attack from hashed character n-grams within words; the highest over windows and views counts.

    N-grams are hashed into columns instead of kept in a vocabulary (Weinberger et al. 2009), so no training text is
    stored.
    """

    name: ClassVar[str] = "ngrams"

    coefficients: Float[Tensor, " columns"]
    intercept: Float[Tensor, ""]

    @classmethod
    def fit(cls, safe: Sequence[Reading], unsafe: Sequence[Reading], *, strength: float = 30.0) -> NGramHead:
        """Fitted on the canonical texts of all windows, a prompt's windows weighing as much as one.

        Args:
            safe, unsafe: the two sides.
            strength: inverse of the regularisation, scikit-learn's ``C``.
        """
        from sklearn.linear_model import LogisticRegression

        texts, labels, weights = training_views(safe, unsafe)
        fitted = LogisticRegression(C=strength, max_iter=1000, class_weight="balanced").fit(
            _vectorizer().transform(texts), labels, sample_weight=weights
        )
        coefficients = torch.from_numpy(fitted.coef_[0]).half().float()  # as they are stored
        return cls(coefficients, torch.tensor(float(fitted.intercept_[0])))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return most(readings, self.probabilities, "text with the letter groups of attacks")

    def score(self, reading: Reading) -> Finding:
        """Probability of the view of a window that looks worst."""
        return self.scores([reading])[0]

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of canonical texts."""
        logits = _vectorizer().transform(texts) @ self.coefficients.numpy() + float(self.intercept)
        return [float(value) for value in torch.from_numpy(logits).float().sigmoid()]


@cache
def _vectorizer() -> Any:
    from sklearn.feature_extraction.text import HashingVectorizer

    return HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        n_features=_COLUMNS,
        alternate_sign=False,
        norm="l2",
        lowercase=False,
    )
