"""The n-gram head: a logistic regression on character and word n-grams of the canonical read-back text."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from embedspace.safety.reading import highest_scoring_windows, training_views
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.safety.reading import Reading

_CHARACTERS, _WORDS = 2**18, 2**17
"""Hash buckets of character and of word n-grams."""
STRENGTH = 30.0
"""Inverse of the regularisation, scikit-learn's ``C``."""


@dataclass(frozen=True, eq=False)
class NGramHead:
    """Probability of an attack from hashed n-grams; a prompt gets the highest over its windows and their views.

    N-grams of 2 to 5 characters within words, which match misspelt words too, and of 1 to 3 words. They are hashed
    instead of kept in a vocabulary (Weinberger et al. 2009), so no training text is stored.
    """

    name: ClassVar[str] = "ngrams"
    costly: ClassVar[bool] = False
    stored: ClassVar[dict[str, torch.dtype]] = {"coefficients": torch.float16, "intercept": torch.float32}

    coefficients: Float[Tensor, " columns"]
    intercept: Float[Tensor, ""]

    @classmethod
    def fit(
        cls, safe: Sequence[Reading], unsafe: Sequence[Reading], *, strength: float = STRENGTH
    ) -> NGramHead:
        """Fitted on the canonical texts; see :func:`training_views` for their weights.

        Args:
            safe, unsafe: the two classes.
            strength: inverse of the regularisation, scikit-learn's ``C``.
        """
        texts, labels, weights = training_views(safe, unsafe)
        fitted = regression(strength).fit(counts(texts), labels, sample_weight=weights)
        coefficients = torch.from_numpy(fitted.coef_[0]).half().float()  # as they are stored
        return cls(coefficients, torch.tensor(float(fitted.intercept_[0])))

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""
        return highest_scoring_windows(readings, self._classify, "text with the n-grams of attacks")

    def _classify(self, texts: Sequence[str]) -> list[tuple[float, None]]:
        logits = counts(texts) @ self.coefficients.numpy() + float(self.intercept)
        return [(float(value), None) for value in torch.from_numpy(logits).float().sigmoid()]


def regression(strength: float = STRENGTH) -> Any:
    """An unfitted logistic regression over :func:`counts`."""
    from sklearn.linear_model import LogisticRegression

    # The dual is several times quicker where there are more columns than texts.
    return LogisticRegression(
        C=strength, solver="liblinear", dual=True, tol=1e-2, class_weight="balanced", random_state=0
    )


def counts(texts: Sequence[str]) -> Any:
    """Sparse n-gram counts; the counts of each kind have norm 1 for a text."""
    from scipy.sparse import hstack

    return hstack([kind.transform(texts) for kind in _vectorizers()], format="csr")


@cache
def _vectorizers() -> tuple[Any, Any]:
    from sklearn.feature_extraction.text import HashingVectorizer

    characters = HashingVectorizer(
        analyzer="char_wb",
        ngram_range=(2, 5),
        n_features=_CHARACTERS,
        alternate_sign=False,
        lowercase=False,
    )
    words = HashingVectorizer(
        ngram_range=(1, 3), n_features=_WORDS, alternate_sign=False, token_pattern=r"\b\w+\b"
    )
    return characters, words
