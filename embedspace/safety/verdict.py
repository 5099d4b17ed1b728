"""What a filter says about a prompt, and what each of its layers found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """What one layer says about one prompt."""

    score: float
    """Higher is more suspicious. A layer of opinion gives a share of 1; a layer of rules gives 0 or more than 1."""
    reason: str
    """In words, for the person who reads a refusal; never the prompt's own text."""
    rows: tuple[int, int] | None = None
    """First row of the stretch that the score rests on, and the one after its last; None for the whole prompt."""
    reference: str | None = None
    """The stored example that is most like it, where the layer compares."""

    def __post_init__(self) -> None:
        if not self.score >= 0:  # NaN is not, either
            raise ValueError(f"a layer's score must be 0 or more, got {self.score} ({self.reason})")


@dataclass(frozen=True)
class Verdict:
    """Whether a prompt may go to the model.

    ``allowed`` is ``score <= threshold``. The layers run cheapest first and stop as soon as no other one can
    change the answer, so the score of a prompt is a lower bound; ``SafetyFilter.score`` gives the whole one.
    """

    allowed: bool
    score: float
    """Higher is more suspicious; infinite where the prompt cannot be judged at all."""
    threshold: float
    reason: str
    """The layer that decided and what it found."""


@dataclass(frozen=True)
class Explanation:
    """A verdict with what every layer found."""

    verdict: Verdict
    findings: Mapping[str, Finding]
    """By the layer's name, in the order in which the layers run."""
    texts: Mapping[str, str]
    """By the layer's name: the read-back text of the rows that its score rests on."""
