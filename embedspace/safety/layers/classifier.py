"""A text classifier of the caller as a layer, on the read-back text."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from embedspace.safety.reading import Reading


@dataclass(frozen=True, eq=False)
class Classifier:
    """The highest probability of an attack that a classifier gives to a window's read-back text."""

    name: str
    classify: Callable[[Sequence[str]], Sequence[float]]
    """Probabilities of an attack for texts."""
    window: int | None = None
    """Rows that it reads at once, all of a prompt in turn; None: the filter's windows, the most suspicious ones."""

    @property
    def costly(self) -> bool:
        """Whether it reads the most suspicious windows only."""
        return self.window is None

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt.

        Raises:
            ValueError: the classifier returns another number of values, or one outside [0, 1].
        """
        if self.window is not None:
            readings = [reading.in_windows(self.window) for reading in readings]
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


def guard_model(
    name: str, unsafe_labels: Sequence[str], *, revision: str | None = None, device: str = "cpu"
) -> Callable[[Sequence[str]], list[float]]:
    """A guard model of ``transformers`` as a function from texts to probabilities of an attack.

    Its weights are read from safetensors and from nothing else, and no code of its repository is run.

    Args:
        name: hub id or folder of a sequence classifier, such as ``meta-llama/Llama-Prompt-Guard-2-86M`` (labels
            ``LABEL_0`` and, for attacks, ``LABEL_1``; its licence has to be accepted on the hub).
        unsafe_labels: the labels that mean an attack, as the model's configuration spells them.
        revision: branch, tag or commit on the hub.
        device: as for ``torch.device``.

    Raises:
        ValueError: the model cannot be loaded (what the hub or ``transformers`` said follows), or has none of these
            labels.
    """
    from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision)
        model = AutoModelForSequenceClassification.from_pretrained(
            name, revision=revision, use_safetensors=True
        )
    except (OSError, ValueError) as error:
        raise ValueError(f"the guard model {name!r} cannot be loaded: {error}") from error
    made = pipeline("text-classification", model=model, tokenizer=tokenizer, device=device)
    return from_pipeline(made, unsafe_labels)
