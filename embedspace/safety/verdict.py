"""What a filter decides about a prompt, and what each of its layers found."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape

from embedspace._util.notebook import block, table


@dataclass(frozen=True)
class Finding:
    """What one layer found in one prompt.

    >>> Finding(0.93, "text like that of attacks", rows=(12, 140)).score
    0.93
    """

    score: float
    """Higher is more suspicious. A scoring layer gives a number in [0, 1]; a rule layer gives 0, or more than 1."""
    reason: str
    """For the person who reads a refusal; never quotes the prompt."""
    rows: tuple[int, int] | None = None
    """First row of the window that the score rests on, and the one after its last; None for the whole prompt."""
    reference: str | None = None
    """The stored example that is most similar, where the layer compares."""
    windows: tuple[float, ...] = field(default=(), repr=False, compare=False)
    """Scores of the prompt's windows, of a layer that scores windows."""

    def __post_init__(self) -> None:
        if not self.score >= 0:  # also false for NaN
            raise ValueError(f"a layer's score must be 0 or more, got {self.score} ({self.reason})")


@dataclass(frozen=True)
class Verdict:
    """Whether a prompt may go to the model.

    ``allowed`` is ``score <= threshold``. The layers run cheapest first and stop as soon as no other layer can
    change the answer, so ``score`` is a lower bound; ``SafetyFilter.score`` computes the full score.

    >>> Verdict(allowed=False, score=0.9, threshold=0.5, reason="ngrams: text like that of attacks").allowed
    False
    """

    allowed: bool
    score: float
    """Higher is more suspicious; infinite where the prompt cannot be scored at all."""
    threshold: float
    reason: str
    """The layer that decided and what it found."""
    findings: Mapping[str, Finding] = field(default_factory=dict, repr=False, compare=False)
    """Of the layers that ran, by name."""

    def _repr_html_(self) -> str:
        """For notebooks: the decision and the layers that ran."""
        return block(verdict_html(self, self.findings))


@dataclass(frozen=True)
class Explanation:
    """A verdict with the findings of every layer, from :meth:`SafetyFilter.explain`.

    >>> finding = Finding(0.2, "mean row like those of attacks: 0.20", rows=(0, 5))
    >>> verdict = Verdict(True, 0.2, 0.5, "nothing suspicious was found")
    >>> Explanation(verdict, {"pooled": finding}, {"pooled": "What is a fern?"}).findings["pooled"].rows
    (0, 5)
    """

    verdict: Verdict
    findings: Mapping[str, Finding]
    """By the layer's name, in the order in which the layers run."""
    texts: Mapping[str, str]
    """By the layer's name: the read-back text of the rows that its score rests on."""

    def html(self) -> str:
        """The decision, and every layer with the text that its score rests on; escaped."""
        return verdict_html(self.verdict, self.findings, self.texts)

    def _repr_html_(self) -> str:
        return block(self.html())


def verdict_html(
    verdict: Verdict, findings: Mapping[str, Finding], texts: Mapping[str, str] | None = None
) -> str:
    """HTML of a verdict, escaped.

    >>> verdict_html(Verdict(True, 0.1, 0.5, "nothing suspicious was found"), {})[:46]
    '<p class="verdict allowed"><b>allowed</b> with'

    Args:
        verdict: the decision.
        findings: by the layer's name.
        texts: by the layer's name, the read-back text that its score rests on.
    """
    word = "allowed" if verdict.allowed else "refused"
    lines = [
        f'<p class="verdict {word}"><b>{word}</b> with a score of {_number(verdict.score)}; '
        f"the threshold is {_number(verdict.threshold)}. {escape(verdict.reason.capitalize())}.</p>"
    ]
    if findings:
        shown = [
            [name, _number(found.score), found.reason, (texts or {}).get(name, "") if found.score else ""]
            for name, found in findings.items()
        ]
        if any(row[3] for row in shown):
            lines.append(
                table(
                    ["layer", "score", "what it found", "where"],
                    [[*row[:3], _short(row[3])] for row in shown],
                )
            )
        else:
            lines.append(table(["layer", "score", "what it found"], [row[:3] for row in shown]))
    return "".join(lines)


def _number(value: float) -> str:
    return "∞" if math.isinf(value) else f"{value:.2f}"


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}…"
