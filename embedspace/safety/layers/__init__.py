"""The layers of a safety filter, each with the dtypes in which its tensors are stored."""

from typing import Any

from embedspace.safety.layers.classifier import Classifier, from_pipeline, guard_model
from embedspace.safety.layers.lora import AdaptedEncoder
from embedspace.safety.layers.manifold import MEASURES, Manifold, measures, vocabulary_spread
from embedspace.safety.layers.neighbours import Neighbours
from embedspace.safety.layers.ngrams import NGramHead
from embedspace.safety.layers.pooled import PooledHead, References, window_means
from embedspace.safety.layers.structural import Structural

_SCORING: tuple[Any, ...] = (PooledHead, References, NGramHead, Neighbours, AdaptedEncoder)
SCORING_LAYERS = {each.name: each for each in _SCORING}
"""The layers that give a number in [0, 1], by name, cheapest first."""

__all__ = [
    "MEASURES",
    "SCORING_LAYERS",
    "AdaptedEncoder",
    "Classifier",
    "Manifold",
    "Neighbours",
    "PooledHead",
    "References",
    "Structural",
    "from_pipeline",
    "guard_model",
    "measures",
    "vocabulary_spread",
    "window_means",
]
