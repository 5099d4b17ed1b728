"""Likelihoods of continuations of a prompt, and their log-odds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """Likelihood of one continuation of a prompt.

    >>> Score(logprob=-6.0, tokens=3).per_token
    -2.0
    """

    logprob: float
    """Sum of the tokens' log-probabilities, in nats."""
    tokens: int

    def __post_init__(self) -> None:
        if not math.isfinite(self.logprob) or self.tokens < 1:
            raise ValueError(f"a score needs a finite logprob and at least one token, got {self}")

    @property
    def per_token(self) -> float:
        """Mean log-probability of a token, in nats."""
        return self.logprob / self.tokens


def log_odds(scores: Mapping[str, Score], positive: Iterable[str], negative: Iterable[str]) -> float:
    """Log-odds, in nats, of any of the positive continuations over any of the negative ones.

    >>> log_odds({"yes": Score(-1.0, 1), "no": Score(-3.0, 1)}, positive=["yes"], negative=["no"])
    2.0
    """
    return _log_sum(scores[name].logprob for name in positive) - _log_sum(
        scores[name].logprob for name in negative
    )


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that two sequences share.

    >>> common_prefix([1, 2, 3], [1, 2, 4, 5])
    2
    """
    for position, (left, right) in enumerate(zip(a, b, strict=False)):
        if left != right:
            return position
    return min(len(a), len(b))


def _log_sum(logprobs: Iterable[float]) -> float:
    values = list(logprobs)
    top = max(values)
    return top + math.log(sum(math.exp(value - top) for value in values))
