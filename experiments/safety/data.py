"""Attack and benign texts with their permitted uses, without near duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from experiments.safety.acceptance import acceptance_texts
from experiments.safety.packages import package_folder
from experiments.safety.patterns import CONFIGS, Side, patterns
from experiments.safety.sources import READERS

Use = Literal["training", "calibration", "sealed"]

MAX_CHARACTERS = 2000
"""Length to which texts are cut unless their source says otherwise: several windows, no document dominates."""
WHOLE_CHARACTERS = 16_000
"""Length to which own calibration texts are cut: about 3,000 tokens of English, a document as a whole."""
DUPLICATE_COSINE = 0.8
"""Cosine of two texts' character 5-gram counts above which they are near duplicates."""


@dataclass(frozen=True, eq=False)
class Source:
    """One source of texts."""

    name: str
    package: str
    licence: str
    side: Side
    use: Use
    read: str
    """Name of one of the readers of :mod:`experiments.safety.sources`."""
    options: Mapping[str, Any]
    kind: str
    """What the texts are, such as ``email``; for groups of figures and for leaving out whole kinds."""
    language: str
    """A code such as ``de``; ``mixed`` for several."""
    hard: bool = False
    """Benign texts that resemble attacks, or attacks embedded in documents and tool results."""
    most: int = 400
    """Largest number of texts, drawn by hash."""
    characters: int = MAX_CHARACTERS
    """Length to which texts are cut."""
    looks: int = 0
    """How often earlier filters were evaluated on a sealed source."""
    doubtful: str | None = None
    """Mark of training attacks of which some are ordinary requests; similar sources share one."""

    @property
    def own(self) -> bool:
        """Whether the texts are of this project's own patterns."""
        return self.package == "none"

    def texts(self) -> list[str]:
        """The texts, cut to ``characters``, in an order independent of their content."""
        folder = CONFIGS if self.own else package_folder(self.package)
        found = {text[: self.characters].strip() for text in READERS[self.read](folder, **self.options)}
        return sorted((text for text in found if len(text) > 1), key=_order)[: self.most]


@dataclass(frozen=True)
class Example:
    """A text with its source."""

    text: str
    source: Source


@cache
def sources() -> tuple[Source, ...]:
    """All sources of ``configs/data/safety/sources.yaml``, each kind of a file of own patterns as one source."""
    content = yaml.safe_load((CONFIGS / "sources.yaml").read_text())
    own = content.pop("own")
    named = {field.name for field in fields(Source)}
    listed = tuple(
        Source(
            **{name: value for name, value in entry.items() if name in named},
            side=side,
            use=use,
            options={name: value for name, value in entry.items() if name not in named},
        )
        for side, uses in content.items()
        for use, entries in uses.items()
        for entry in entries
    )
    return listed + tuple(
        source
        for side, entries in own.items()
        for entry in entries
        for source in own_sources(side=side, **entry)
    )


def own_sources(
    file: str,
    side: Side,
    count: int,
    held_out: Sequence[str] | Literal["all"] = (),
    counts: Mapping[str, int] | None = None,
    long_count: int = 0,
    planted: Mapping[str, Sequence[str]] | None = None,
    planted_count: int = 0,
) -> tuple[Source, ...]:
    """The sources of one file of own patterns.

    Args:
        file: its path below ``configs/data/safety``.
        side: the label of its texts.
        count: number of texts of each kind.
        held_out: kinds for calibration.
        counts: number of texts of single kinds, in place of ``count``.
        long_count: number of long documents of each kind that is held out, made of further texts of the kind.
        planted: for attacks, the benign files and kinds in whose texts instructions are planted.
        planted_count: number of those texts.

    Raises:
        ValueError: a kind that the file does not have.
    """
    content = patterns(file)
    if held_out != "all" and (unknown := set(held_out) - set(content["kinds"])):
        raise ValueError(
            f"{file} has no kinds {sorted(unknown)} to hold out, it has {sorted(content['kinds'])}"
        )

    def source(kind: str, read: str, options: Mapping[str, Any], most: int, hard: bool) -> Source:
        held = held_out == "all" or kind in (*held_out, "long documents")
        use: Use = "calibration" if held else "training"
        whole = WHOLE_CHARACTERS if use == "calibration" else MAX_CHARACTERS
        name = (
            f"own {side}s, {kind}, {Path(file).stem}"
            if side == "attack"
            else f"own, {kind}, {Path(file).stem}"
        )
        return Source(
            name, "none", "Apache-2.0", side, use, read, options, kind, content["language"], hard, most, whole
        )

    numbers = dict.fromkeys(content["kinds"], count) | dict(counts or {})
    found = [
        source(kind, "own", {"file": file, "kind": kind, "count": most}, most, side == "benign")
        for kind, most in numbers.items()
    ]
    if long_count:
        kinds = list(content["kinds"]) if held_out == "all" else list(held_out)
        options = {"file": file, "kinds": kinds, "count": long_count}
        found.append(source("long documents", "long_documents", options, len(kinds) * long_count, hard=True))
    if planted:
        options = {"file": file, "carriers": planted, "count": planted_count}
        found.append(source("planted", "planted", options, planted_count, hard=True))
    return tuple(found)


@cache
def examples(use: Use) -> tuple[Example, ...]:
    """All texts for one use, without near duplicates of a sealed or an acceptance text, or of each other.

    This project's own texts are compared within their source only: sources share no sentences by construction.

    Raises:
        ValueError: a package is not installed (the message says how to install it).
    """
    sealed: list[str] = []
    if use != "sealed":
        sealed = [*(each.text for each in examples("sealed")), *(each.text for each in acceptance_texts())]
    wanted = [source for source in sources() if source.use == use]
    listed = [Example(text, source) for source in wanted if not source.own for text in source.texts()]
    own: list[Example] = []
    for source in (source for source in wanted if source.own):
        texts = source.texts()
        own += [Example(text, source) for text, kept in zip(texts, distinct(texts), strict=True) if kept]
    first = distinct([example.text for example in listed])
    found = [*(example for example, kept in zip(listed, first, strict=True) if kept), *own]
    keep = unlike([example.text for example in found], sealed)
    return tuple(example for example, kept in zip(found, keep, strict=True) if kept)


MIN_ATTACK_PROBABILITY = 0.35
"""Probability below which a text of a doubtful source is treated as an ordinary request."""


@cache
def training() -> tuple[Example, ...]:
    """The training texts, without those of doubtful sources that a model of all other sources classifies as benign.

    Labels contradicted by a model that was fitted without them are mostly wrong (Northcutt et al. 2021).
    """
    from embedspace.safety.layers.ngrams import counts, regression

    found = examples("training")
    vectors = counts([example.text for example in found])
    labels = np.array([example.source.side == "attack" for example in found])
    keep = np.ones(len(found), dtype=bool)
    for mark in {example.source.doubtful for example in found} - {None}:
        own = np.array([example.source.doubtful == mark for example in found])
        model = regression().fit(vectors[~own], labels[~own])
        keep[own] = model.predict_proba(vectors[own])[:, 1] >= MIN_ATTACK_PROBABILITY
    return tuple(example for example, kept in zip(found, keep, strict=True) if kept)


def distinct(texts: Sequence[str]) -> list[bool]:
    """For each text whether it is a near duplicate of no earlier one."""
    vectors = _ngram_counts(texts)
    keep: list[bool] = []
    for start in range(0, len(texts), 512):
        rows = vectors[start : start + 512]
        similar = (rows @ vectors[: start + rows.shape[0]].T).tocoo()
        earlier = set(
            similar.row[(similar.data > DUPLICATE_COSINE) & (similar.col < similar.row + start)].tolist()
        )
        keep += [number not in earlier for number in range(rows.shape[0])]
    return keep


def unlike(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """For each text whether it is a near duplicate of none of ``others``."""
    if not texts or not others:
        return [True] * len(texts)
    vectors, references = _ngram_counts(texts), _ngram_counts(others)
    keep: list[bool] = []
    for start in range(0, len(texts), 512):
        nearest = (vectors[start : start + 512] @ references.T).max(axis=1).toarray()
        keep += (nearest[:, 0] <= DUPLICATE_COSINE).tolist()
    return keep


def _ngram_counts(texts: Sequence[str]) -> Any:
    """Sparse unit vectors of the counts of character 5-grams."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(
        analyzer="char_wb", ngram_range=(5, 5), n_features=2**20, alternate_sign=False, dtype=np.float32
    )
    return counts.transform(texts)


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
