"""Evaluation of the shipped filter and of simpler methods on sources that took no part in its training or design."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from embedspace import EmbeddingSpace, SafetyFilter
from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from embedspace.safety import Neighbours, Reading
from experiments.safety.data import Example, examples, training
from experiments.safety.metrics import SHIPPED, MethodScores
from experiments.safety.report import as_card, as_page, evidence
from experiments.safety.shipped_filter import calibration_half, held_out_half

Scorer = Callable[[Sequence[str]], Sequence[float]]

KEYWORDS = re.compile(
    r"(ignore|disregard|forget|override)\W+(\w+\W+){0,4}(instruction|rule|prompt|guideline|direction)s?|system prompt|"
    r"jailbreak|do anything now|\bDAN\b|developer mode|no restrictions|unfiltered|you are now",
    re.IGNORECASE,
)
"""A typical first set of keyword rules."""


@dataclass(frozen=True)
class Safety:
    """Evaluates a filter and simpler methods."""

    model: str
    filter: str
    """Name of a shipped filter, or a folder."""
    without_own: str
    """The same filter trained without this project's own patterns."""
    page: str
    """File for the tables."""
    card: str | None
    """File for the model card."""
    references: int
    """Safe references of the mean row-wise cosine method."""

    def run(self, folder: Path) -> str:
        """Score all texts, write the scores into ``folder`` and the tables into ``page``."""
        folder.mkdir(parents=True, exist_ok=True)
        space = EmbeddingSpace.from_pretrained(self.model)
        guard = SafetyFilter.from_pretrained(self.filter, space)
        methods = self.methods(guard)
        sealed = list(examples("sealed"))
        groups = (sealed, calibration_half(), held_out_half())
        measured: dict[str, MethodScores] = {}
        with progress("scoring", len(methods)) as advance:
            for name, score in methods.items():
                found = [np.asarray(score([example.text for example in group])) for group in groups]
                measured[name] = MethodScores(sealed, *found)
                advance()
        with (folder / "scores.jsonl").open("w") as file:
            for number, example in enumerate(sealed):
                scores = {name: float(method.scores[number]) for name, method in measured.items()}
                line = {"source": example.source.name, "side": example.source.side, "scores": scores}
                file.write(json.dumps(line) + "\n")
        tables = evidence(guard, measured)
        Path(self.page).write_text(as_page(tables, provenance()))
        if self.card:
            Path(self.card).write_text(as_card(guard, measured[SHIPPED], self.page))
        return f"{tables}\nwritten to {self.page}; scores in {folder / 'scores.jsonl'}"

    def methods(self, guard: SafetyFilter) -> dict[str, Scorer]:
        """The filter, its scoring layers, the filter without the project's own patterns, and simpler methods.

        Raises:
            ValueError: there is no filter without them.
        """
        texts = training()
        layers = {
            layer.name: replace(guard, layers=(layer,), weights={layer.name: 1.0}) for layer in guard.layers
        }
        sides = [
            [Reading.of(guard.space, example.text) for example in texts if example.source.side == side]
            for side in ("benign", "attack")
        ]
        return {
            SHIPPED: _in_batches(guard),
            "without own patterns": _in_batches(SafetyFilter.from_pretrained(self.without_own, guard.space)),
            **{f"layer {name} alone": _in_batches(layers[name]) for name in guard.weights},
            "MiniLM neighbours of the plain text": Neighbours.fit(*sides).shares,
            "TF-IDF and logistic regression": _tfidf(texts),
            "keyword rules": lambda texts: [float(bool(KEYWORDS.search(text))) for text in texts],
            "mean row-wise cosine to safe ones": _rowwise_cosine(guard.space, texts, self.references),
        }


def _in_batches(guard: SafetyFilter, size: int = 64) -> Scorer:
    def scores(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), size):
            found += guard.score_many(texts[start : start + size])
        return [score if math.isfinite(score) else 2.0 for score in found]

    return scores


def _tfidf(examples: Sequence[Example]) -> Scorer:
    """A common baseline: TF-IDF of words and word pairs of the plain text, without windows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000, class_weight="balanced"),
    ).fit([e.text for e in examples], [e.source.side == "attack" for e in examples])
    return lambda texts: [float(value) for value in model.predict_proba(texts)[:, 1]]


def _rowwise_cosine(space: EmbeddingSpace, examples: Sequence[Example], count: int) -> Scorer:
    """1 minus the highest mean row-wise cosine to any safe reference, without removing the mean row."""
    unit = torch.nn.functional.normalize
    safe = [e.text for e in examples if e.source.side == "benign"]
    references = [
        unit(space.embed(text, special_tokens=False).vectors.float(), dim=1)
        for text in safe[:: max(1, len(safe) // count)][:count]
    ]

    def scores(texts: Sequence[str]) -> list[float]:
        found = []
        for text in texts:
            rows = unit(space.embed(text, special_tokens=False).vectors.float(), dim=1)
            likeness = [
                float((rows[: len(other)] * other[: len(rows)]).sum(dim=1).mean()) for other in references
            ]
            found.append(1 - max(likeness))
        return found

    return scores
