"""Evaluation of the shipped filter and of simpler methods on sources that took no part in its training or design."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import torch

from embedspace import EmbeddingSpace, SafetyFilter
from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from experiments.safety.acceptance import LENGTHS
from experiments.safety.data import Example, training
from experiments.safety.evidence import EvidenceText, evidence_texts
from experiments.safety.guard_network import guard_network
from experiments.safety.metrics import SHIPPED, TFIDF, Measured
from experiments.safety.report import as_card, as_page, evidence
from experiments.safety.shipped_filter import calibration_half, held_out_half
from experiments.sealed_sets import Ledger, Look

Scorer = Callable[[Sequence[str]], Sequence[float]]
Value = TypeVar("Value")

BATCH = 64
"""Texts that the filter scores together."""

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
    page: str
    """File for the tables."""
    card: str | None
    """File for the model card."""
    references: int
    """Safe references of the mean row-wise cosine method."""
    diluted: int
    """Attacks that are hidden in documents, at each length and position."""
    obfuscated: int
    """Attacks that are disguised, in each form."""
    network_every: int | None
    """Of the other texts every so-manieth is also scored by a published guard network; None: none is."""

    def run(self, folder: Path) -> str:
        """Score all texts, write the scores into ``folder`` and the tables into ``page``."""
        folder.mkdir(parents=True, exist_ok=True)
        space = EmbeddingSpace.from_pretrained(self.model)
        guard = SafetyFilter.from_pretrained(self.filter, space)
        assert guard.calibration is not None, "a filter is calibrated before it is evaluated"
        texts = evidence_texts(lambda text: len(space.tokenize(text)), self.diluted, self.obfuscated)
        groups = [[each.text for each in group] for group in (texts, calibration_half(), held_out_half())]
        rows = [[len(space.tokenize(text)) for text in group] for group in groups]
        rate = guard.calibration.rate
        with progress("scoring", sum(map(len, groups))) as advance:
            found = [_of_filter(guard, group, advance) for group in groups]
        scores = {name: [each[name] for each in found] for name in found[0]}
        scores |= {
            name: [list(score(group)) for group in groups] for name, score in self.simpler(space).items()
        }
        measured = {name: measured_at(rate, texts, rows, own) for name, own in scores.items()}
        with (folder / "scores.jsonl").open("w") as file:
            for number, each in enumerate(texts):
                line = {key: value for key, value in asdict(each).items() if key != "text"}
                own = {name: float(values[0][number]) for name, values in scores.items()}
                file.write(json.dumps(line | {"rows": rows[0][number], "scores": own}) + "\n")
        beside = (
            with_network(rate, texts, groups, rows, scores[SHIPPED], step)
            if (step := self.network_every)
            else {}
        )
        self.count_look(guard, [each.text for each in texts if each.part == "written"])
        tables = evidence(guard, measured, beside, _speed(guard, texts, rows[0]))
        Path(self.page).write_text(as_page(tables, provenance()))
        if self.card:
            Path(self.card).write_text(as_card(guard, measured, self.page))
        return f"{tables}\nwritten to {self.page}; scores in {folder / 'scores.jsonl'}"

    def count_look(self, guard: SafetyFilter, texts: Sequence[str]) -> None:
        """Count a look at the texts written for acceptance; a filter that was evaluated before is the same look."""
        what = f"filter {self.filter}, threshold {guard.threshold:.6f}"
        look = Look(datetime.now().astimezone().isoformat(timespec="seconds"), 0, what, what)
        Ledger.default().look(texts, look)

    def simpler(self, space: EmbeddingSpace) -> dict[str, Scorer]:
        """Simpler methods."""
        texts = training()
        return {
            TFIDF: _tfidf(texts),
            "keyword rules": lambda texts: [float(bool(KEYWORDS.search(text))) for text in texts],
            "mean row-wise cosine to safe ones": _rowwise_cosine(space, texts, self.references),
        }


def measured_at(
    rate: float,
    texts: Sequence[EvidenceText],
    rows: Sequence[Sequence[int]],
    scores: Sequence[Sequence[float]],
) -> Measured:
    """Margins of a method's scores of texts, calibration texts and fresh texts, of lengths ``rows``."""
    own, calibration, fresh = zip(scores, rows, strict=True)
    return Measured.of(texts, own[1], own[0], calibration, fresh, rate)


def with_network(
    rate: float,
    texts: Sequence[EvidenceText],
    groups: Sequence[Sequence[str]],
    rows: Sequence[Sequence[int]],
    own: Sequence[Sequence[float]],
    step: int,
) -> dict[str, Measured]:
    """A published guard network beside the filter: by itself, as a layer, and as a share of the score.

    Of each group every ``step``-th text is scored, since the network takes long.
    """
    part = [row for row, each in enumerate(texts) if each.part in ("written", "packages")][::step]
    places = [part, range(0, len(groups[1]), step), range(0, len(groups[2]), step)]
    classify = guard_network()
    network = []
    with progress("scoring with the network", sum(map(len, places))) as advance:
        for group, chosen in zip(groups, places, strict=True):
            found: list[float] = []
            for row in chosen:
                found += classify([group[row]])
                advance()
            network.append(found)
    filtered, lengths = _picked(own, places), _picked(rows, places)

    def both(combine: Callable[[float, float], float]) -> list[list[float]]:
        return [list(map(combine, *pair)) for pair in zip(filtered, network, strict=True)]

    ways = {
        SHIPPED: filtered,
        "guard network": network,
        "filter with the network as a layer": both(max),
        "filter with a quarter of the network's logit": both(lambda a, b: _logit(a) + _logit(b) / 4),
    }
    chosen_texts = [texts[row] for row in part]
    return {name: measured_at(rate, chosen_texts, lengths, found) for name, found in ways.items()}


def _picked(groups: Sequence[Sequence[Value]], places: Sequence[Sequence[int]]) -> list[list[Value]]:
    """Of each group the values at the given places."""
    return [[values[place] for place in chosen] for values, chosen in zip(groups, places, strict=True)]


def _of_filter(
    guard: SafetyFilter, texts: Sequence[str], advance: Callable[[], None]
) -> dict[str, list[float]]:
    """Scores of the filter and of each of its scoring layers; 2 where a prompt is refused whatever the threshold."""
    found: list[dict[str, float]] = []
    for start in range(0, len(texts), BATCH):
        for each in guard.explain_many(texts[start : start + BATCH]):
            advance()
            layers = {
                f"layer {name} alone": each.findings[name].score if name in each.findings else math.inf
                for name in guard.weights
            }
            found.append({SHIPPED: each.verdict.score, **layers})
    return {name: [min(scores[name], 2.0) for scores in found] for name in found[0]}


def _logit(probability: float) -> float:
    bounded = min(max(probability, 1e-6), 1 - 1e-6)
    return math.log(bounded / (1 - bounded))


def _speed(guard: SafetyFilter, texts: Sequence[EvidenceText], rows: Sequence[int]) -> str:
    """How long a check takes, of one text after the other, on the processor of this run."""
    documents = [
        (length, each.text)
        for length, each in zip(rows, texts, strict=True)
        if each.side == "benign" and each.part == "diluted"
    ]
    found = []
    for wanted in LENGTHS:
        length, text = min(documents, key=lambda pair: abs(pair[0] - wanted))
        guard.check(text)
        times = []
        for _ in range(5):
            start = time.process_time()
            guard.check(text)
            times.append(time.process_time() - start)
        found.append(f"{1000 * min(times):.0f} ms for {length:,} tokens")
    return f"A check takes {', '.join(found)} of processor time."


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
