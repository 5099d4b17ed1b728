"""A judge of another kind than the classifier of sentence vectors: a language model that is asked for the style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine


@dataclass(frozen=True)
class InstructedJudge:
    """Log-odds of the one word over the other as a language model's answer to which of both styles a text has.

    It shares neither the training texts nor the encoder of :class:`~embedspace.metrics.StyleJudge`; what it always
    prefers falls out of differences of the same questions.

    >>> judge = InstructedJudge("smollm2-135m-instruct", "cheerful", "gloomy")
    >>> len(judge.log_odds(["What a lovely day!", "What a lovely day!"]))
    2
    """

    model: str
    """Packaged name, local folder or hub id of an instruction-tuned model."""
    positive: str
    """Name of the style."""
    negative: str
    """Name of its opposite."""

    def question(self, text: str) -> str:
        """What the model is asked."""
        names = f"{self.positive} or {self.negative}"
        return f"Is the following text {names}?\n\n{text}\n\nAnswer with one word, {names}."

    def log_odds(self, texts: Sequence[str]) -> list[float]:
        """Log-odds of the style over its opposite for each text, in nats; equal texts are asked for once."""
        engine = _engine(self.model)
        different = list(dict.fromkeys(texts))
        asked = [engine.space.embed_chat([{"role": "user", "content": self.question(t)}]) for t in different]
        scores = engine.score_all([(prompt, [self.positive, self.negative]) for prompt in asked])
        found = {
            text: float(own.sum() - other.sum()) for text, (own, other) in zip(different, scores, strict=True)
        }
        return [found[text] for text in texts]


@cache
def _engine(model: str) -> TransformersEngine:
    """One for all styles of a process."""
    from embedspace.engines import TransformersEngine

    return TransformersEngine(model)
