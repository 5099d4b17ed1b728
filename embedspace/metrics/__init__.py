"""Metrics: paired measures with intervals, likelihoods, judges of texts, transitions, and control prompts."""

from embedspace.metrics.clusters import ratio_interval
from embedspace.metrics.controls import (
    mean_rows,
    noisy_rows,
    random_rows,
    shuffle_rows,
    vocabulary_radius,
    zero_padded,
)
from embedspace.metrics.intervals import (
    CONFIDENCE,
    MIN_ITEMS,
    Condition,
    Effect,
    Interval,
    Measure,
    kept_share,
    mean_interval,
    share_interval,
)
from embedspace.metrics.judges import SentenceSimilarity, StyleJudge
from embedspace.metrics.likelihood import Score, common_prefix, log_odds
from embedspace.metrics.transition import STRAIGHT_WIDTH, Transition
from embedspace.metrics.verdicts import StrengthVerdict, compare_strength

__all__ = [
    "CONFIDENCE",
    "MIN_ITEMS",
    "STRAIGHT_WIDTH",
    "Condition",
    "Effect",
    "Interval",
    "Measure",
    "Score",
    "SentenceSimilarity",
    "StrengthVerdict",
    "StyleJudge",
    "Transition",
    "common_prefix",
    "compare_strength",
    "kept_share",
    "log_odds",
    "mean_interval",
    "mean_rows",
    "noisy_rows",
    "random_rows",
    "ratio_interval",
    "share_interval",
    "shuffle_rows",
    "vocabulary_radius",
    "zero_padded",
]
