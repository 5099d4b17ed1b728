"""Attack and benign texts with what each may be used for, near duplicates once."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np
import yaml

from experiments.safety.packages import package_folder
from experiments.safety.sources import CONFIGS, READERS

Side = Literal["attack", "benign"]
Use = Literal["training", "calibration", "sealed"]

LONGEST = 2000
"""Characters of a text that count: several windows, so that one document is not a source by itself."""
SIMILAR = 0.8
"""Cosine of two texts' counts of five-letter groups from which they are near duplicates."""


@dataclass(frozen=True, eq=False)
class Source:
    """Where texts come from, and what they may be used for."""

    name: str
    package: str
    licence: str
    side: Side
    use: Use
    read: str
    """Name of one of the readers of :mod:`experiments.safety.sources`."""
    options: Mapping[str, Any]
    hard: bool
    """A benign text that looks like an attack, or an attack that stands politely in a document or tool result."""
    most: int
    looks: int
    """How often a sealed source had been looked at before."""
    doubtful: str | None
    """Mark of training attacks of which some are ordinary requests; sources of like kind share one."""

    def texts(self) -> list[str]:
        """The texts, cut to ``LONGEST``, in an order that has nothing to do with what they say."""
        folder = CONFIGS if self.package == "none" else package_folder(self.package)
        found = {text[:LONGEST].strip() for text in READERS[self.read](folder, **self.options)}
        return sorted((text for text in found if len(text) > 3), key=_order)[: self.most]


@dataclass(frozen=True)
class Example:
    """A text with where it comes from."""

    text: str
    source: Source


@cache
def sources() -> tuple[Source, ...]:
    """All of ``configs/data/safety/sources.yaml``."""
    named = ("name", "package", "licence", "read", "hard", "most", "looks", "doubtful")
    return tuple(
        Source(
            entry["name"],
            entry["package"],
            entry["licence"],
            side,
            use,
            entry["read"],
            {key: value for key, value in entry.items() if key not in named},
            entry.get("hard", False),
            entry.get("most", 400),
            entry.get("looks", 0),
            entry.get("doubtful"),
        )
        for side, uses in yaml.safe_load((CONFIGS / "sources.yaml").read_text()).items()
        for use, entries in uses.items()
        for entry in entries
    )


@cache
def examples(use: Use) -> tuple[Example, ...]:
    """All texts for one use, near duplicates once, and without any that is a near duplicate of a sealed text.

    Raises:
        ValueError: a package is not installed (the message says how to install it).
    """
    found = [Example(text, source) for source in sources() if source.use == use for text in source.texts()]
    others = [example.text for example in examples("sealed")] if use != "sealed" else []
    keep = distinct([example.text for example in found], others)
    return tuple(example for example, kept in zip(found, keep, strict=True) if kept)


DOUBT = 0.35
"""Probability below which a text of a doubtful source counts as an ordinary request."""


@cache
def training() -> tuple[Example, ...]:
    """The training texts, without those of doubtful sources that a model of all other sources takes for benign.

    Labels that a model fitted without them contradicts are mostly wrong (Northcutt et al. 2021).
    """
    from embedspace.safety.layers.ngrams import counts, regression

    found = examples("training")
    vectors = counts([example.text for example in found])
    labels = np.array([example.source.side == "attack" for example in found])
    keep = np.ones(len(found), dtype=bool)
    for mark in {example.source.doubtful for example in found} - {None}:
        own = np.array([example.source.doubtful == mark for example in found])
        model = regression().fit(vectors[~own], labels[~own])
        keep[own] = model.predict_proba(vectors[own])[:, 1] >= DOUBT
    return tuple(example for example, kept in zip(found, keep, strict=True) if kept)


def distinct(texts: Sequence[str], others: Sequence[str]) -> list[bool]:
    """For each text whether none before it, and none of the others, is a near duplicate of it."""
    from sklearn.feature_extraction.text import HashingVectorizer

    counts = HashingVectorizer(analyzer="char_wb", ngram_range=(5, 5), n_features=2**20, alternate_sign=False)
    vectors = counts.transform([*others, *texts])
    keep: list[bool] = []
    for start in range(len(others), len(others) + len(texts), 512):
        rows = vectors[start : start + 512]
        similar = (rows @ vectors[: start + rows.shape[0]].T).tocoo()
        earlier = set(similar.row[(similar.data > SIMILAR) & (similar.col < similar.row + start)].tolist())
        keep += [number not in earlier for number in range(rows.shape[0])]
    return keep


def _order(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()
