"""What the shipped filter refuses and allows, on texts of sources that nothing of it was made or chosen on."""

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
from embedspace.safety.layers.neighbours import Neighbours
from embedspace.safety.reading import Reading
from experiments.safety.data import Example, examples, training
from experiments.safety.metrics import SHIPPED, Measured
from experiments.safety.report import as_card, as_page, evidence
from experiments.safety.shipped_filter import fresh, thresholding

Scores = Callable[[Sequence[str]], Sequence[float]]

KEYWORDS = re.compile(
    r"(ignore|disregard|forget|override)\W+(\w+\W+){0,4}(instruction|rule|prompt|guideline|direction)s?|system prompt|"
    r"jailbreak|do anything now|\bDAN\b|developer mode|no restrictions|unfiltered|you are now",
    re.IGNORECASE,
)
"""The rules that people write first."""


@dataclass(frozen=True)
class Safety:
    """Measures a filter and what one would do without it."""

    model: str
    filter: str
    """Name of a shipped filter, or a folder."""
    without_own: str
    """The same, made without this project's own patterns."""
    page: str
    """File that gets the tables."""
    card: str | None
    """File beside the filter that gets its model card."""
    references: int
    """Safe references of the rule of mean row-wise cosine."""

    def run(self, folder: Path) -> str:
        """Score everything, write the scores into ``folder`` and the tables into ``page``."""
        folder.mkdir(parents=True, exist_ok=True)
        space = EmbeddingSpace.from_pretrained(self.model)
        guard = SafetyFilter.from_pretrained(self.filter, space)
        ways = self.ways(guard)
        sealed, half, rest = list(examples("sealed")), thresholding(), fresh()
        measured: dict[str, Measured] = {}
        with progress("scoring", len(ways)) as advance:
            for name, way in ways.items():
                made = [
                    np.asarray(way([example.text for example in group])) for group in (sealed, half, rest)
                ]
                measured[name] = Measured(sealed, *made)
                advance()
        with (folder / "scores.jsonl").open("w") as file:
            for number, example in enumerate(sealed):
                scores = {name: float(way.scores[number]) for name, way in measured.items()}
                line = {"source": example.source.name, "side": example.source.side, "scores": scores}
                file.write(json.dumps(line) + "\n")
        tables = evidence(guard, measured)
        Path(self.page).write_text(as_page(tables, provenance()))
        if self.card:
            Path(self.card).write_text(as_card(guard, measured[SHIPPED], self.page))
        return f"{tables}\nwritten to {self.page}; scores in {folder / 'scores.jsonl'}"

    def ways(self, guard: SafetyFilter) -> dict[str, Scores]:
        """The filter, its layers of opinion, the filter without the own patterns, and what people do instead.

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
            SHIPPED: _chunked(guard),
            "without own patterns": _chunked(SafetyFilter.from_pretrained(self.without_own, guard.space)),
            **{f"its {name} alone": _chunked(layers[name]) for name in guard.weights},
            "MiniLM neighbours of the plain text": Neighbours.fit(*sides).shares,
            "TF-IDF and logistic regression": _tfidf(texts),
            "keyword rules": lambda texts: [float(bool(KEYWORDS.search(text))) for text in texts],
            "mean row-wise cosine to safe ones": _rowwise(guard.space, texts, self.references),
        }


def _chunked(guard: SafetyFilter, size: int = 64) -> Scores:
    def scores(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), size):
            found += guard.score_many(texts[start : start + size])
        return [score if math.isfinite(score) else 2.0 for score in found]

    return scores


def _tfidf(examples: Sequence[Example]) -> Scores:
    """The usual first classifier: words and pairs of words, nothing canonical, no windows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000, class_weight="balanced"),
    ).fit([e.text for e in examples], [e.source.side == "attack" for e in examples])
    return lambda texts: [float(value) for value in model.predict_proba(texts)[:, 1]]


def _rowwise(space: EmbeddingSpace, examples: Sequence[Example], count: int) -> Scores:
    """The rule to allow what has a mean row-wise cosine above 0.9 to any safe reference, the mean row left in."""
    unit = torch.nn.functional.normalize
    safe = [e.text for e in examples if e.source.side == "benign"]
    references = [
        unit(space.embed(text).vectors.float(), dim=1) for text in safe[:: max(1, len(safe) // count)][:count]
    ]

    def scores(texts: Sequence[str]) -> list[float]:
        found = []
        for text in texts:
            rows = unit(space.embed(text).vectors.float(), dim=1)
            likeness = [
                float((rows[: len(other)] * other[: len(rows)]).sum(dim=1).mean()) for other in references
            ]
            found.append(1 - max(likeness))
        return found

    return scores
