"""From prompts to the canonical texts that heads classify, and back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from embedspace.safety.reading import Reading


def training_views(
    safe: Sequence[Reading], unsafe: Sequence[Reading]
) -> tuple[list[str], list[int], list[float]]:
    """Canonical texts of labelled prompts, their labels (1 is unsafe), and weights that sum to 1 for each prompt.

    Of a long prompt the first and the last window: an attack is not in all of them, and a few long texts are not to
    outweigh many short ones.
    """
    texts, labels, weights = [], [], []
    for number, reading in enumerate([*safe, *unsafe]):
        ends = {0, len(reading.windows) - 1}
        found = [view for window, view in reading.canonical if window in ends]
        texts += found
        labels += [int(number >= len(safe))] * len(found)
        weights += [1 / len(found)] * len(found)
    return texts, labels, weights


def most(
    readings: Sequence[Reading],
    judge: Callable[[Sequence[str]], Sequence[tuple[float, str | None]]],
    meaning: str,
) -> list[Finding]:
    """For each prompt the finding of the window whose canonical text has the highest probability.

    All texts of all prompts are given in one call, equal ones once.

    Args:
        readings: the prompts.
        judge: from texts to probabilities of an attack, each with the example that it is most like, or None.
        meaning: of a high probability, for the reason.
    """
    texts = list(dict.fromkeys(view for reading in readings for _, view in reading.canonical))
    known = dict(zip(texts, judge(texts), strict=True))
    findings = []
    for reading in readings:
        worst, view = max(reading.canonical, key=lambda pair: known[pair[1]][0])
        probability, reference = known[view]
        findings.append(
            Finding(probability, f"{meaning}: {probability:.2f}", reading.windows[worst], reference)
        )
    return findings
