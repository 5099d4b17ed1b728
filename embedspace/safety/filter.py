"""SafetyFilter: layers of growing cost that together allow a prompt or refuse it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, get_args

from embedspace.safety.calibration import Calibration, conformal_threshold
from embedspace.safety.layers.classifier import Classifier
from embedspace.safety.layers.lora import Adapted
from embedspace.safety.layers.manifold import Manifold
from embedspace.safety.layers.neighbours import Neighbours
from embedspace.safety.layers.ngrams import NGramHead
from embedspace.safety.layers.pooled import PooledHead
from embedspace.safety.layers.references import References
from embedspace.safety.layers.structural import Structural
from embedspace.safety.reading import Reading
from embedspace.safety.verdict import Explanation, Finding, Verdict

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

LayerName = Literal["structural", "manifold", "pooled", "references", "ngrams", "neighbours", "adapted"]
QUICK: tuple[LayerName, ...] = ("structural", "manifold", "pooled", "references", "ngrams", "neighbours")
"""Those that are fitted in seconds."""
WEIGHTS: Mapping[str, float] = {
    "pooled": 0.15,
    "references": 0.05,
    "ngrams": 0.4,
    "neighbours": 0.4,
    "adapted": 0.4,
}
"""Shares of the layers of opinion in the score, before those that a filter lacks are left out."""
_HEADS: dict[LayerName, Callable[[list[Reading], list[Reading]], Layer]] = {
    "pooled": PooledHead.fit,
    "references": References.fit,
    "ngrams": NGramHead.fit,
    "neighbours": Neighbours.fit,
    "adapted": Adapted.fit,
}


class Layer(Protocol):
    """Looks at prompts from one side."""

    @property
    def name(self) -> str:
        """Names it in reasons and explanations."""

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""


@dataclass(frozen=True, eq=False)
class SafetyFilter:
    """Allows or refuses prompts by what their vectors and their read-back text look like.

    Two layers of rules (structural, manifold) refuse by themselves. The layers of opinion (pooled rows, references,
    character n-grams, sentence neighbours, an adapted sentence encoder) each give a share of 1; their weighted mean is
    the prompt's score, and a text classifier of the caller's counts where it is higher. The filter refuses a score
    above the threshold, which :meth:`calibrate` finds. It fails closed: a layer that raises, or gives no number, is a
    refusal.
    """

    space: EmbeddingSpace
    layers: tuple[Layer, ...]
    """Cheapest first."""
    weights: Mapping[str, float]
    """Share of each layer of opinion in the score, by its name; they sum to 1."""
    threshold: float | None = None
    """None until it is calibrated."""
    calibration: Calibration | None = None
    card: Mapping[str, object] = field(default_factory=dict)
    """What the filter was made from, for the reader of its file."""

    @classmethod
    def fit(
        cls,
        space: EmbeddingSpace,
        safe: Iterable[PromptEmbeds | str],
        unsafe: Iterable[PromptEmbeds | str],
        *,
        transformed: Iterable[PromptEmbeds] = (),
        layers: Sequence[LayerName] = QUICK,
        most_rows: int | None = None,
    ) -> SafetyFilter:
        """A filter from labelled prompts; calibrate it before use.

        Args:
            space: of the model that it guards.
            safe: benign prompts or texts, of the kinds that will come, hard ones (about attacks, say) among them.
            unsafe: attacks.
            transformed: benign prompts as the deployment's own transforms make them; the manifold layer allows rows
                as far from the vocabulary as theirs.
            layers: which ones take part; by default all but ``adapted``, whose training takes minutes and ``peft``.
            most_rows: the longest prompt; by default the model's context.

        Raises:
            ValueError: no safe or no unsafe prompts, a prompt on both sides, a prompt of another space, or unknown
                layers.
        """
        unknown = [name for name in layers if name not in get_args(LayerName)]
        if unknown or not layers:
            raise ValueError(f"layers must be some of {', '.join(get_args(LayerName))}; got {list(layers)}")
        sides = [[Reading.of(space, prompt) for prompt in side] for side in (safe, unsafe)]
        _require_sides(*sides)
        made: dict[str, Layer] = {
            "structural": Structural.fit(space, most_rows=most_rows),
            "manifold": Manifold.fit([Reading.of(space, prompt) for prompt in transformed]),
        }
        made |= {name: fit(*sides) for name, fit in _HEADS.items() if name in layers}
        chosen = tuple(made[name] for name in get_args(LayerName) if name in layers)
        return cls(space, chosen, _shares([layer.name for layer in chosen]))

    def with_transforms(self, transformed: Iterable[PromptEmbeds], *, margin: float = 1.1) -> SafetyFilter:
        """The filter with a manifold layer that allows what a deployment's own transforms make.

        The threshold stays: it bounds the layers of opinion. Calibrate again on transformed prompts where those are
        most of the traffic, since their read-back text may differ.

        Args:
            transformed: benign prompts after the style shift, blend, projection or compression in use.
            margin: times the largest deviation among them.
        """
        manifold = Manifold.fit([Reading.of(self.space, prompt) for prompt in transformed], margin=margin)
        layers = tuple(manifold if layer.name == Manifold.name else layer for layer in self.layers)
        return dataclasses.replace(self, layers=layers)

    def with_classifier(
        self, name: str, classify: Callable[[Sequence[str]], Sequence[float]]
    ) -> SafetyFilter:
        """The filter with a text classifier that reads the prompt's read-back text; it needs a new calibration.

        Args:
            name: for reasons and explanations.
            classify: probabilities of an attack for texts; :func:`~embedspace.safety.layers.classifier.from_pipeline`
                makes
                one of a ``transformers`` pipeline (Prompt Guard 2, say).

        Raises:
            ValueError: a layer has that name.
        """
        if name in [layer.name for layer in self.layers]:
            raise ValueError(f"the filter has a layer {name!r}; give the classifier another name")
        layers = (*self.layers, Classifier(name, classify))
        return dataclasses.replace(self, layers=layers, threshold=None, calibration=None)

    def calibrate(
        self, benign: Iterable[PromptEmbeds | str], max_false_positive_rate: float = 0.01
    ) -> SafetyFilter:
        """The filter with the threshold that refuses at most a given share of benign prompts.

        Split-conformal: for a new benign prompt from the same source as ``benign`` (exchangeable with it, none of it
        used in ``fit``), the probability of a refusal is at most the rate, whatever the distribution of scores. With
        n prompts at least ``1 / rate - 1`` are needed. The guarantee is over the draw of the calibration set;
        ``calibration`` holds the 95% range of the rate of the one that was drawn. It says nothing of prompts of
        another kind, nor of attacks that are let through.

        Raises:
            ValueError: too few prompts for the rate (the message says how many are needed), or more of them than the
                rate allows are refused by a layer of rules.
        """
        scores = self.score_many(list(benign))
        threshold, calibration = conformal_threshold(scores, max_false_positive_rate)
        if threshold > 1:
            refused = sum(score > 1 for score in scores)
            raise ValueError(
                f"{refused} of {len(scores)} calibration prompts are refused by a layer of rules or by an error, so no "
                f"threshold keeps to {max_false_positive_rate:g}; look at explain() of one, and declare transforms "
                "with with_transforms"
            )
        return dataclasses.replace(self, threshold=threshold, calibration=calibration)

    def check(self, prompt: PromptEmbeds | Tensor | str) -> Verdict:
        """The verdict on one prompt, on bare rows as they came over the wire, or on a text.

        Raises:
            ValueError: the filter is not calibrated, or the prompt lives in another space.
        """
        return self.check_many([prompt])[0]

    def check_many(self, prompts: Iterable[PromptEmbeds | Tensor | str]) -> list[Verdict]:
        """The verdicts on many prompts, in order; what the layers do for all of them they do together."""
        threshold = self._calibrated()
        readings = [Reading.of(self.space, prompt) for prompt in prompts]
        return [self._verdict(findings, threshold) for findings in self._run(readings, threshold)]

    def score(self, prompt: PromptEmbeds | Tensor | str) -> float:
        """The whole score of one prompt, whatever the threshold; higher is more suspicious."""
        return self.score_many([prompt])[0]

    def score_many(self, prompts: Iterable[PromptEmbeds | Tensor | str]) -> list[float]:
        """The whole scores of many prompts."""
        readings = [Reading.of(self.space, prompt) for prompt in prompts]
        return [self._bounds(findings)[0] for findings in self._run(readings, None)]

    def explain(self, prompt: PromptEmbeds | Tensor | str) -> Explanation:
        """The verdict with what every layer found, on which rows, and how those read.

        Layers after a refusal by rules are left out: they cannot look at a prompt of a wrong shape.
        """
        reading = Reading.of(self.space, prompt)
        findings = self._run([reading], None)[0]
        texts = {}
        for name, finding in findings.items():
            if finding.rows is not None:
                start, stop = finding.rows
                texts[name] = self.space.tokenizer.decode(reading.tokens.ids[start:stop].tolist())
        return Explanation(self._verdict(findings, self._calibrated()), findings, texts)

    def save(self, folder: str | Path) -> None:
        """Write ``filter.json`` and ``filter.safetensors`` into a folder.

        Raises:
            ValueError: the filter has a classifier of the caller's, which no file can hold.
        """
        from embedspace.safety.file import write_filter

        write_filter(self, Path(folder))

    @classmethod
    def from_pretrained(cls, name: str | Path, space: EmbeddingSpace) -> SafetyFilter:
        """A filter from a folder that :meth:`save` wrote, or one that comes with the package.

        Args:
            name: ``smollm2-injection``, or a folder.
            space: of the model that it guards.

        Raises:
            ValueError: nothing has that name, a damaged file, or a filter of another space.
        """
        from embedspace.safety.file import read_filter

        return read_filter(name, space)

    def _calibrated(self) -> float:
        if self.threshold is None:
            raise ValueError(
                "the filter has no threshold; find one with filter.calibrate(benign, max_false_positive_rate=0.01)"
            )
        return self.threshold

    def _run(self, readings: Sequence[Reading], threshold: float | None) -> list[dict[str, Finding]]:
        """Findings by layer for each prompt, as far as they are needed to compare its score with the threshold."""
        found: list[dict[str, Finding]] = [{} for _ in readings]
        open_ones = list(range(len(readings)))
        for layer in self.layers:
            for number, finding in zip(
                open_ones, _guarded(layer, [readings[n] for n in open_ones]), strict=True
            ):
                found[number][layer.name] = finding
            open_ones = [number for number in open_ones if not self._decided(found[number], threshold)]
            if not open_ones:
                break
        return found

    def _decided(self, findings: Mapping[str, Finding], threshold: float | None) -> bool:
        low, high = self._bounds(findings)
        if threshold is None:
            return math.isinf(low) and low > 0
        return low > threshold or high <= threshold

    def _bounds(self, findings: Mapping[str, Finding]) -> tuple[float, float]:
        """The least and the most that the score can be with these findings, whatever the other layers say."""
        mean = sum(self.weights[name] * findings[name].score for name in self.weights if name in findings)
        missing = sum(share for name, share in self.weights.items() if name not in findings)
        rules = [finding.score for name, finding in findings.items() if name not in self.weights]
        low = max([mean, *rules])
        certain = all(layer.name in findings or layer.name in self.weights for layer in self.layers)
        return low, max([mean + missing, *rules]) if certain else math.inf

    def _verdict(self, findings: Mapping[str, Finding], threshold: float) -> Verdict:
        low, _ = self._bounds(findings)
        allowed = low <= threshold
        worth = {name: finding.score * self.weights.get(name, 1.0) for name, finding in findings.items()}
        name = max(worth, key=worth.__getitem__)
        reason = "nothing suspicious was found" if allowed else f"{name}: {findings[name].reason}"
        return Verdict(allowed, low, threshold, reason)


def _guarded(layer: Layer, readings: Sequence[Reading]) -> list[Finding]:
    """A layer's findings; where it raises, each prompt by itself, and a refusal for the one that it fails on."""
    try:
        found = layer.scores(readings)
        if len(found) != len(readings):
            raise ValueError(f"it gave {len(found)} findings for {len(readings)} prompts")
        return found
    except Exception as error:  # whatever goes wrong in a layer, the prompt must not pass
        if len(readings) > 1:
            return [_guarded(layer, [reading])[0] for reading in readings]
        return [Finding(math.inf, f"the layer failed: {type(error).__name__}: {error}")]


def _shares(names: Sequence[str]) -> dict[str, float]:
    total = sum(WEIGHTS.get(name, 0.0) for name in names)
    return {name: WEIGHTS[name] / total for name in names if name in WEIGHTS}


def _require_sides(safe: Sequence[Reading], unsafe: Sequence[Reading]) -> None:
    if not safe or not unsafe:
        raise ValueError(
            f"a filter is fitted on safe and unsafe prompts; got {len(safe)} safe and {len(unsafe)} unsafe ones"
        )
    from embedspace.prompt import tensor_digest

    both = {tensor_digest(r.rows) for r in safe} & {tensor_digest(r.rows) for r in unsafe}
    if both:
        raise ValueError(f"{len(both)} prompts are both safe and unsafe; every prompt needs one label")
