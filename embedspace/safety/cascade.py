"""The layers of a filter one after another: what each finds, and when the rest need not run."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedspace.safety.reading import Layer, Reading
from embedspace.safety.verdict import Finding

Limit = Callable[[Reading, Mapping[str, Finding]], float]
"""The threshold of a prompt, given what was found so far."""


@dataclass(frozen=True)
class Cascade:
    """Rule layers refuse on their own; the weighted mean of the scoring layers is a prompt's score."""

    layers: tuple[Layer, ...]
    """Cheapest first."""
    weights: Mapping[str, float]
    """Of the scoring layers; they sum to 1."""
    costly_windows: int | None
    """Most windows of a prompt that a costly layer reads; None: all."""

    def run(self, readings: Sequence[Reading], limit: Limit | None = None) -> list[dict[str, Finding]]:
        """Findings by layer for each prompt; with its threshold, until the comparison with it is decided."""
        found: list[dict[str, Finding]] = [{} for _ in readings]
        undecided = list(range(len(readings)))
        for layer in self.layers:
            seen = [
                self._suspicious(readings[number], found[number]) if layer.costly else readings[number]
                for number in undecided
            ]
            for number, finding in zip(undecided, _fail_closed(layer, seen), strict=True):
                found[number][layer.name] = finding
            undecided = [
                number for number in undecided if not self._decided(readings[number], found[number], limit)
            ]
            if not undecided:
                break
        return found

    def bounds(self, findings: Mapping[str, Finding]) -> tuple[float, float]:
        """Lower and upper bound of the score, given the findings of some layers."""
        mean = sum(self.weights[name] * findings[name].score for name in self.weights if name in findings)
        missing = sum(weight for name, weight in self.weights.items() if name not in findings)
        rules = [finding.score for name, finding in findings.items() if name not in self.weights]
        low = max([mean, *rules])
        bounded = all(layer.name in findings or layer.name in self.weights for layer in self.layers)
        return low, max([mean + missing, *rules]) if bounded else math.inf

    def _suspicious(self, reading: Reading, findings: Mapping[str, Finding]) -> Reading:
        """The windows that the layers before found most suspicious."""
        scored = [
            (self.weights[name], finding.windows)
            for name, finding in findings.items()
            if name in self.weights and finding.windows
        ]
        most = self.costly_windows
        if not scored or most is None or len(scored[0][1]) <= most:
            return reading
        totals = [sum(weight * scores[n] for weight, scores in scored) for n in range(len(scored[0][1]))]
        worst = sorted(range(len(totals)), key=lambda number: -totals[number])[:most]
        return reading.narrowed(sorted(worst))

    def _decided(self, reading: Reading, findings: Mapping[str, Finding], limit: Limit | None) -> bool:
        low, high = self.bounds(findings)
        if limit is None or math.isinf(low):
            return math.isinf(low)
        threshold = limit(reading, findings)
        return low > threshold or high <= threshold


def _fail_closed(layer: Layer, readings: Sequence[Reading]) -> list[Finding]:
    """A layer's findings; if it raises, prompts are retried one by one, and those it fails on are refused."""
    try:
        found = layer.scores(readings)
        if len(found) != len(readings):
            raise ValueError(f"it returned {len(found)} findings for {len(readings)} prompts")
        return found
    except Exception as error:  # whatever goes wrong in a layer, the prompt must not pass
        if len(readings) > 1:
            return [_fail_closed(layer, [reading])[0] for reading in readings]
        return [Finding(math.inf, f"the layer failed: {type(error).__name__}: {error}")]
