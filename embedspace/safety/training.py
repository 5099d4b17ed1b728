"""Which windows of labelled prompts the layers learn from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from embedspace.safety.reading import Reading

ROUNDS = 2
"""How often the windows of attacks are chosen anew."""
HARD_WINDOWS = 4
"""Windows of a benign prompt that layers with an encoder learn from: those most like attacks."""


def windows_to_learn(
    safe: Sequence[Reading], unsafe: Sequence[Reading]
) -> tuple[list[Reading], list[Reading]]:
    """Labelled prompts narrowed to windows: the unsafe ones to those that look like an attack, and the safe ones to
    those that look most like one, for layers that cannot learn from all.

    Most windows of a long attack are benign text, so only those count that look like an attack to a model of the other
    prompts, and at least one of each (multiple-instance learning, Andrews et al. 2003). A regression of n-grams is
    fitted on one half of the prompts and scores the windows of the other, twice over. With too few prompts for two
    halves all windows are kept.
    """
    from embedspace.safety.layers.ngrams import counts, regression

    readings = [*safe, *unsafe]
    sizes = np.array([len(reading.windows) for reading in readings])
    owner = np.repeat(np.arange(len(readings)), sizes)
    attack = owner >= len(safe)
    # The plain canonical text of a window comes first among its views.
    texts = [dict(reversed(reading.canonical)) for reading in readings]
    vectors = counts([own[window] for own, size in zip(texts, sizes, strict=True) for window in range(size)])
    half = np.random.default_rng(0).permutation(len(readings))[owner] % 2 == 0
    kept = np.ones(len(owner), dtype=bool)
    scores = np.zeros(len(owner))
    for _ in range(ROUNDS):
        weights = 1 / np.maximum(np.bincount(owner[kept], minlength=len(readings)), 1)[owner]
        for side in (half, ~half):
            used = kept & ~side
            if len(set(attack[used].tolist())) < 2:
                return list(safe), list(unsafe)
            model = regression().fit(vectors[used], attack[used], sample_weight=weights[used])
            scores[side] = model.decision_function(vectors[side])
        highest = np.full(len(readings), -np.inf)
        np.maximum.at(highest, owner, scores)
        kept = ~attack | (scores > 0) | (scores == highest[owner])
    own_scores = np.split(scores, np.cumsum(sizes)[:-1])
    own_kept = np.split(kept, np.cumsum(sizes)[:-1])
    hard = [np.sort(np.argsort(-each, kind="stable")[:HARD_WINDOWS]) for each in own_scores[: len(safe)]]
    attacking = [np.flatnonzero(each) for each in own_kept[len(safe) :]]
    return (
        [reading.narrowed(chosen.tolist()) for reading, chosen in zip(safe, hard, strict=True)],
        [reading.narrowed(chosen.tolist()) for reading, chosen in zip(unsafe, attacking, strict=True)],
    )
