"""Screening of prompts that are vectors: see :class:`embedspace.SafetyFilter` and docs/safety.md."""

from embedspace.safety.calibration import Calibration, conformal_threshold
from embedspace.safety.filter import LayerName, SafetyFilter
from embedspace.safety.layers import (
    Manifold,
    Neighbours,
    PooledHead,
    References,
    from_pipeline,
    guard_model,
    measures,
    vocabulary_spread,
    window_means,
)
from embedspace.safety.reading import Reading
from embedspace.safety.verdict import Explanation, Finding, Verdict

__all__ = [
    "Calibration",
    "Explanation",
    "Finding",
    "LayerName",
    "Manifold",
    "Neighbours",
    "PooledHead",
    "Reading",
    "References",
    "SafetyFilter",
    "Verdict",
    "conformal_threshold",
    "from_pipeline",
    "guard_model",
    "measures",
    "vocabulary_spread",
    "window_means",
]
