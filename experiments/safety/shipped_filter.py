"""Trains the shipped filter: fitted on the training texts, calibrated on benign texts of other sources."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from embedspace import EmbeddingSpace, SafetyFilter
from embedspace.safety import LayerName
from experiments.safety.data import Example, examples, sources, training
from experiments.safety.packages import PINS

SEALED = (
    "The texts were written by hand (`configs/data/safety/acceptance`) before any filter was scored on them, and "
    "independently of the training patterns, or are those of packages' sources that were set aside as a whole. No "
    "features, weights or thresholds were fitted to them, and near duplicates of them were left out of training and "
    "calibration. They are not held out from every choice: a first filter of this kind was scored on them once, and "
    "its totals led to the choice of layers and to more long and short calibration texts; earlier filters were "
    "evaluated on 18 of the 22 sealed sources, on 15 of them twice."
)
LIMITS = (
    "It judges whether a text tries to take over the assistant, not whether its topic is harmful. It reads each row as "
    "the nearest token, so an attacker who knows the filter can search for rows and wordings that it allows. Its "
    "training texts are in eleven languages; others are judged by chance. Most attacks inside long documents, and most "
    "in other languages than English, pass it, and some long documents without an attack are refused."
)


@dataclass(frozen=True)
class ShippedFilter:
    """Trains the filter that comes with the package."""

    model: str
    layers: Sequence[LayerName]
    rate: float
    """Share of benign prompts that may be refused."""
    target: str
    """Folder for the filter."""

    def run(self, folder: Path) -> str:
        """Fit, calibrate, save into ``target``.

        Raises:
            ValueError: a package with texts is not installed.
        """
        space = EmbeddingSpace.from_pretrained(self.model)
        texts = training()
        guard = fitted(space, texts, self.layers)
        guard = guard.calibrate([example.text for example in calibration_half()], self.rate)
        guard = replace(guard, card=self.card(texts))
        guard.save(self.target)
        size = sum(path.stat().st_size for path in Path(self.target).iterdir())
        return f"{self.target}: {size / 2**20:.1f} MiB, threshold {guard.threshold:.3f}, {guard.calibration}"

    def card(self, texts: Sequence[Example]) -> Mapping[str, Any]:
        """Sources and versions of the training data, stored in the filter's file."""
        return {
            "purpose": "tells prompts that try to take over an assistant (jailbreaks, injections) from benign ones",
            "model": self.model,
            "made_by": "make guard",
            "packages": {name: version for name, (_, version) in PINS.items()},
            "sources": [
                {
                    key: value
                    for key, value in asdict(source).items()
                    if key not in ("read", "options", "most", "characters", "looks", "doubtful")
                }
                | {"texts": sum(example.source == source for example in texts) or None}
                for source in sources()
            ],
            "split": SEALED,
            "figures": "docs/safety-evidence.md, by experiment=safety",
            "limits": LIMITS,
        }


def fitted(space: EmbeddingSpace, training: Sequence[Example], layers: Sequence[LayerName]) -> SafetyFilter:
    """A filter fitted on the training texts."""
    sides = {side: [e.text for e in training if e.source.side == side] for side in ("benign", "attack")}
    return SafetyFilter.fit(space, sides["benign"], sides["attack"], layers=layers)


def calibration_half() -> list[Example]:
    """The half of the calibration texts that the threshold is calibrated on; their order is independent of content."""
    return list(examples("calibration"))[::2]


def held_out_half() -> list[Example]:
    """The other half, on which the threshold's false-positive rate is measured."""
    return list(examples("calibration"))[1::2]
