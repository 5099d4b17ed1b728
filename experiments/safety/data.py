"""Attack and benign texts with their permitted uses, without near duplicates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cache
from typing import Any, Literal

import numpy as np
import yaml

from experiments.safety.packages import package_folder
from experiments.safety.sources import CONFIGS, READERS

Side = Literal["attack", "benign"]
Use = Literal["training", "calibration", "sealed"]

MAX_CHARACTERS = 2000
"""Length to which texts are cut: several windows, so that no single document dominates a source."""
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
    hard: bool = False
    """Benign texts that resemble attacks, or attacks embedded in documents and tool results."""
    most: int = 400
    """Largest number of texts, drawn by hash."""
    looks: int = 0
    """How often earlier filters were evaluated on a sealed source."""
    doubtful: str | None = None
    """Mark of training attacks of which some are ordinary requests; similar sources share one."""

    def texts(self) -> list[str]:
        """The texts, cut to ``MAX_CHARACTERS``, in an order independent of their content."""
        folder = CONFIGS if self.package == "none" else package_folder(self.package)
        found = {text[:MAX_CHARACTERS].strip() for text in READERS[self.read](folder, **self.options)}
        return sorted((text for text in found if len(text) > 3), key=_order)[: self.most]


@dataclass(frozen=True)
class Example:
    """A text with its source."""

    text: str
    source: Source


@cache
def sources() -> tuple[Source, ...]:
    """All sources of ``configs/data/safety/sources.yaml``."""
    named = {field.name for field in fields(Source)}
    return tuple(
        Source(
            **{name: value for name, value in entry.items() if name in named},
            side=side,
            use=use,
            options={name: value for name, value in entry.items() if name not in named},
        )
        for side, uses in yaml.safe_load((CONFIGS / "sources.yaml").read_text()).items()
        for use, entries in uses.items()
        for entry in entries
    )


@cache
def examples(use: Use) -> tuple[Example, ...]:
    """All texts for one use, without near duplicates of each other or of a sealed text.

    Raises:
        ValueError: a package is not installed (the message says how to install it).
    """
    found = [Example(text, source) for source in sources() if source.use == use for text in source.texts()]
    others = [example.text for example in examples("sealed")] if use != "sealed" else []
    keep = distinct([example.text for example in found], others)
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


def distinct(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """For each text whether it is a near duplicate neither of an earlier one nor of ``others``."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), n_features=2**20, alternate_sign=False)
    vectors = counts.transform([*others, *texts])
    keep: list[bool] = []
    for start in range(len(others), len(others) + len(texts), 512):
        rows = vectors[start : start + 512]
        similar = (rows @ vectors[: start + rows.shape[0]].T).tocoo()
        earlier = set(
            similar.row[(similar.data > DUPLICATE_COSINE) & (similar.col < similar.row + start)].tolist()
        )
        keep += [number not in earlier for number in range(rows.shape[0])]
    return keep


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
