"""A text classifier of the caller as a layer, on the read-back text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class Classifier:
    """The highest probability of an attack that a classifier gives to a window's read-back text."""

    costly: ClassVar[bool] = True

    name: str
    classify: Callable[[Sequence[str]], Sequence[float]]
    """Probabilities of an attack for texts."""

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt.

        Raises:
            ValueError: the classifier returns another number of values, or one outside [0, 1].
        """
        texts = [text for reading in readings for text in reading.window_texts]
        values = [float(value) for value in self.classify(texts)]
        if len(values) != len(texts) or not all(0 <= value <= 1 for value in values):
            raise ValueError(
                f"the classifier {self.name!r} must return a probability in [0, 1] for each of {len(texts)} texts, "
                f"it returned {values[:5]} ({len(values)} values)"
            )
        findings, start = [], 0
        for reading in readings:
            own = values[start : start + len(reading.windows)]
            start += len(own)
            worst = max(range(len(own)), key=own.__getitem__)
            findings.append(
                Finding(
                    own[worst], f"probability {own[worst]:.2f}", reading.windows[worst], windows=tuple(own)
                )
            )
        return findings


def from_pipeline(pipeline: Any, unsafe_labels: Sequence[str]) -> Callable[[Sequence[str]], list[float]]:
    """A ``transformers`` text-classification pipeline as a function from texts to probabilities of an attack.

    Args:
        pipeline: ``transformers.pipeline("text-classification", model=...)``.
        unsafe_labels: the labels that mean an attack, as the model's configuration spells them.

    Raises:
        ValueError: the model has none of these labels.
    """
    labels = set(pipeline.model.config.id2label.values())
    if not labels & set(unsafe_labels):
        raise ValueError(f"the model's labels are {sorted(labels)}; none of them is in {list(unsafe_labels)}")

    def classify(texts: Sequence[str]) -> list[float]:
        results = pipeline(list(texts), top_k=None, truncation=True)
        return [sum(each["score"] for each in scores if each["label"] in unsafe_labels) for scores in results]

    return classify
