"""What the shipped filter refuses and allows, on texts of sources that nothing of it was made or chosen on."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from embedspace import EmbeddingSpace, SafetyFilter
from embedspace.metrics import Interval, share_interval
from embedspace.progress import progress
from embedspace.provenance import provenance
from embedspace.safety.calibration import conformal_threshold
from embedspace.safety.neighbours import Neighbours
from embedspace.safety.reading import Reading
from embedspace.safety.views import training_views
from experiments.safety_data import Example, examples
from experiments.safety_filter import LIMITS, SEALED, fitted, fresh, thresholding

if TYPE_CHECKING:
    from embedspace.safety.filter import LayerName

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
    page: str
    """File that gets the tables."""
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
        tables = self.tables(guard, measured)
        Path(self.page).write_text(_page(tables, guard, provenance()))
        return f"{tables}\nwritten to {self.page}; scores in {folder / 'scores.jsonl'}"

    def ways(self, guard: SafetyFilter) -> dict[str, Scores]:
        """The filter, its layers of opinion, the filter without the own patterns, and what people do instead."""
        training = examples("training")
        layers = {
            layer.name: replace(guard, layers=(layer,), weights={layer.name: 1.0}) for layer in guard.layers
        }
        neighbours = next(layer for layer in guard.layers if isinstance(layer, Neighbours))
        return {
            "shipped filter": _chunked(guard),
            "without own patterns": _chunked(_without_own(guard, training)),
            **{f"its {name} alone": _chunked(layers[name]) for name in guard.weights},
            "MiniLM neighbours of the plain text": neighbours.probabilities,
            "TF-IDF and logistic regression": _tfidf(training),
            "keyword rules": lambda texts: [float(bool(KEYWORDS.search(text))) for text in texts],
            "mean row-wise cosine to safe ones": _rowwise(guard.space, training, self.references),
        }

    def tables(self, guard: SafetyFilter, measured: Mapping[str, Measured]) -> str:
        """All figures, in Markdown."""
        ways = [
            [
                "way",
                "AUROC",
                "recall at 1%",
                "recall at 5%",
                "benign allowed at 1%",
                "hard benign allowed at 1%",
            ]
        ]
        for name, way in measured.items():
            strict, loose = way.threshold(0.01), way.threshold(0.05)
            ways.append([
                name, f"{way.auroc():.3f}",
                f"{way.refused('attack', strict):.2f}", f"{way.refused('attack', loose):.2f}",
                f"{way.allowed(strict):.3f}", f"{way.allowed(strict, hard=True):.3f}",
            ])  # fmt: skip
        own = measured["shipped filter"]
        assert guard.threshold is not None
        sources = [["source", "side", "texts", "refused at 1%", "refused at 5%"]]
        for source in dict.fromkeys(example.source for example in own.examples):
            rows = [example.source == source for example in own.examples]
            side = ("hard " if source.hard else "") + source.side
            sources.append([
                f"{source.name} ({source.package})", side, str(sum(rows)),
                f"{own.share(rows, guard.threshold):.2f}", f"{own.share(rows, own.threshold(0.05)):.2f}",
            ])  # fmt: skip
        rate = share_interval(int((own.rest > guard.threshold).sum()), len(own.rest))
        calibration = guard.calibration
        assert calibration is not None
        polite = own.refused("attack", guard.threshold, hard=True)
        return "\n".join([
            "## Against what one would do without it\n", _markdown(ways),
            "Direct attacks against all benign texts of sealed sources. Each way has the threshold that the same "
            "benign texts give it.\n",
            "## By source\n", _markdown(sources),
            "## Attacks that stand politely in documents and tool results\n",
            f"Refused at the calibrated threshold: {polite:.2f} of {polite.items}.\n",
            "## Calibration\n",
            f"The threshold {guard.threshold:.3f} was found on {calibration.prompts} benign texts for a rate of at "
            f"most {calibration.rate:g}; its true rate lies between {calibration.low:.4f} and {calibration.high:.4f} "
            f"with 95% confidence. On {rate.items} fresh texts of the same sources it refuses {rate.estimate:.4f} "
            f"({rate.low:.4f} to {rate.high:.4f}).\n",
        ])  # fmt: skip


@dataclass(frozen=True, eq=False)
class Measured:
    """What one way says of the sealed texts, and of the two halves of the calibration texts."""

    examples: Sequence[Example]
    scores: np.ndarray
    half: np.ndarray
    rest: np.ndarray

    def threshold(self, rate: float) -> float:
        """The conformal threshold on the first half."""
        return conformal_threshold([float(score) for score in self.half], rate)[0]

    def rows(self, side: str, *, hard: bool | None) -> list[bool]:
        """Which texts are of a side, and hard or not where that is asked for."""
        return [e.source.side == side and hard in (None, e.source.hard) for e in self.examples]

    def share(self, rows: Sequence[bool], threshold: float) -> Interval:
        """Share of some texts whose score is above a threshold."""
        picked = self.scores[np.asarray(rows)]
        return share_interval(int((picked > threshold).sum()), len(picked))

    def refused(self, side: str, threshold: float, *, hard: bool = False) -> Interval:
        """Share of texts of a side that are refused; attacks are direct ones unless ``hard``."""
        return self.share(self.rows(side, hard=hard), threshold)

    def allowed(self, threshold: float, *, hard: bool | None = None) -> Interval:
        """Share of benign texts that are allowed."""
        refused = self.share(self.rows("benign", hard=hard), threshold)
        return Interval(1 - refused.estimate, 1 - refused.high, 1 - refused.low, refused.items)

    def auroc(self, resamples: int = 1000, seed: int = 0) -> Interval:
        """Probability that a direct attack scores higher than a benign text, with a bootstrap over texts."""
        attacks = np.sort(self.scores[np.asarray(self.rows("attack", hard=False))])
        benign = np.sort(self.scores[np.asarray(self.rows("benign", hard=None))])
        draw = np.random.default_rng(seed)
        values = [
            _auroc(draw.choice(attacks, len(attacks)), draw.choice(benign, len(benign)))
            for _ in range(resamples)
        ]
        low, high = np.quantile(values, [0.025, 0.975])
        return Interval(_auroc(attacks, benign), float(low), float(high), len(attacks) + len(benign))


def _auroc(attacks: np.ndarray, benign: np.ndarray) -> float:
    """Mann and Whitney's statistic (1947), ties counting half."""
    ordered = np.sort(benign)
    below, up_to = np.searchsorted(ordered, attacks, "left"), np.searchsorted(ordered, attacks, "right")
    return float((below + up_to).mean() / (2 * len(benign)))


def _chunked(guard: SafetyFilter, size: int = 64) -> Scores:
    def scores(texts: Sequence[str]) -> list[float]:
        found: list[float] = []
        for start in range(0, len(texts), size):
            found += guard.score_many(texts[start : start + size])
        return [score if math.isfinite(score) else 2.0 for score in found]

    return scores


def _without_own(guard: SafetyFilter, training: Sequence[Example]) -> SafetyFilter:
    """The filter as it would be without this project's own patterns; sentence vectors are left out, not made again."""
    others = [example for example in training if example.source.package != "none"]
    cheap: list[LayerName] = [layer for layer in ("pooled", "ngrams") if layer in guard.weights]
    made = {layer.name: layer for layer in fitted(guard.space, others, cheap).layers}
    ordered = [e for side in ("benign", "attack") for e in training if e.source.side == side]
    kept = [
        example.source.package != "none"
        for example in ordered
        for _ in training_views([Reading.of(guard.space, example.text)], [])[0]
    ]
    layers = []
    for layer in guard.layers:
        if isinstance(layer, Neighbours):
            keep = torch.tensor(kept)
            layers.append(replace(layer, vectors=layer.vectors[keep], unsafe=layer.unsafe[keep]))
        else:
            layers.append(made.get(layer.name, layer))
    return replace(guard, layers=tuple(layers))


def _tfidf(training: Sequence[Example]) -> Scores:
    """The usual first classifier: words and pairs of words, nothing canonical, no windows."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2),
        LogisticRegression(C=10, max_iter=1000, class_weight="balanced"),
    ).fit([e.text for e in training], [e.source.side == "attack" for e in training])
    return lambda texts: [float(value) for value in model.predict_proba(texts)[:, 1]]


def _rowwise(space: EmbeddingSpace, training: Sequence[Example], count: int) -> Scores:
    """The rule to allow what has a mean row-wise cosine above 0.9 to any safe reference, the mean row left in."""
    unit = torch.nn.functional.normalize
    safe = [e.text for e in training if e.source.side == "benign"]
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


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join(lines) + "\n"


def _page(tables: str, guard: SafetyFilter, origin: Mapping[str, object]) -> str:
    git, machine = origin["git"], origin["machine"]
    commit = f"commit `{git['commit'][:12]}`" if isinstance(git, dict) else "no checkout"
    assert isinstance(machine, dict)
    return (
        "# What the shipped filter refuses\n\n"
        f"`smollm2-injection` on texts of sealed sources. {SEALED} Made by "
        f"`python experiments/run.py experiment=safety` on {machine['cores']} cores of {machine['processor']}; "
        f"{commit}. Brackets are 95% intervals. {LIMITS}\n\n"
        f"{tables}"
    )
