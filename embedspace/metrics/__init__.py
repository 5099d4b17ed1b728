"""Metrics: paired measures with intervals, likelihoods, judges of texts, transitions, and control prompts."""

from embedspace.metrics.clusters import kept_share, ratio_interval
from embedspace.metrics.controls import (
    mean_rows,
    noisy_rows,
    random_rows,
    shuffle_rows,
    vocabulary_radius,
    zero_padded,
)
from embedspace.metrics.detection import SourceScores, auroc, macro_average, recall_difference
from embedspace.metrics.intervals import (
    CONFIDENCE,
    MIN_ITEMS,
    Condition,
    Effect,
    Interval,
    Measure,
    bootstrap_bounds,
    mean_interval,
    share_interval,
)
from embedspace.metrics.judges import SentenceSimilarity, StyleJudge
from embedspace.metrics.likelihood import Score, common_prefix, log_odds
from embedspace.metrics.significance import equivalence_p, holm, non_inferiority_p, superiority_p
from embedspace.metrics.transition import MIN_STEPS, STRAIGHT_WIDTH, Transition
from embedspace.metrics.verdicts import (
    Standing,
    StrengthVerdict,
    compare_strength,
    compare_strengths,
    standing,
)

__all__ = [
    "CONFIDENCE",
    "MIN_ITEMS",
    "MIN_STEPS",
    "STRAIGHT_WIDTH",
    "Condition",
    "Effect",
    "Interval",
    "Measure",
    "Score",
    "SentenceSimilarity",
    "SourceScores",
    "Standing",
    "StrengthVerdict",
    "StyleJudge",
    "Transition",
    "auroc",
    "bootstrap_bounds",
    "common_prefix",
    "compare_strength",
    "compare_strengths",
    "equivalence_p",
    "holm",
    "kept_share",
    "log_odds",
    "macro_average",
    "mean_interval",
    "mean_rows",
    "noisy_rows",
    "non_inferiority_p",
    "random_rows",
    "ratio_interval",
    "recall_difference",
    "share_interval",
    "shuffle_rows",
    "standing",
    "superiority_p",
    "vocabulary_radius",
    "zero_padded",
]
