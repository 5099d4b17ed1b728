"""The shipped filter has the figures of its card, and its texts have the properties that are claimed."""

import re
from pathlib import Path

import numpy as np
import pytest

from embedspace import SafetyFilter
from embedspace.metrics import Interval
from experiments.safety.acceptance import acceptance_texts
from experiments.safety.data import examples, sources, unlike
from experiments.safety.evidence import evidence_texts
from experiments.safety.goals import Goal, goals
from experiments.safety.metrics import Measured

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "embedspace/safety/weights/smollm2-injection"
FIGURE = re.compile(r"^\| ([^|]+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| (\d+) \| [\d.]+ \|", re.MULTILINE)
EVERY = 5


def figures_of(text: str) -> dict[str, Interval]:
    return {
        name: Interval(float(value), float(low), float(high), int(items))
        for name, value, low, high, items in FIGURE.findall(text)
    }


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "README.md").read_text()


def test_the_shipped_filter_keeps_to_its_card_on_a_sample_of_its_evidence(smollm2, card):
    guard = SafetyFilter.from_pretrained("smollm2-injection", smollm2)
    texts = evidence_texts(lambda text: len(smollm2.tokenize(text)), diluted=18, obfuscated=0)
    written = [each for each in texts if each.part == "written"]
    sample = [*written[::EVERY], *(each for each in texts if each.part == "diluted")]
    verdicts = guard.check_many([each.text for each in sample])
    margins = np.array([verdict.score - verdict.threshold for verdict in verdicts])
    card_figures, compared = figures_of(card), 0
    for goal in goals(Measured(sample, margins, np.zeros(0))):
        figure = goal.figure
        # Single kinds have too few texts in the sample; which kind is the worst one is chance.
        if figure.items >= 18 and "worst" not in goal.measure:
            assert figure.low <= card_figures[goal.measure].high, goal.measure
            assert card_figures[goal.measure].low <= figure.high, goal.measure
            compared += 1
    assert compared >= 8


def test_page_and_card_have_the_same_figures(card):
    card_figures = figures_of(card)
    assert len(card_figures) == 11
    assert card_figures == figures_of((ROOT / "docs/safety-evidence.md").read_text())
    summary = (ROOT / "docs/safety.md").read_text()
    for name, figure in card_figures.items():
        assert f"{figure:.2f}" in summary, name


def test_a_goal_says_whether_the_texts_suffice_to_tell():
    rows = [
        Goal("x", figure, 0.75).row[-1]
        for figure in (
            Interval(0.8, 0.7, 0.9, 50),
            Interval(0.8, 0.76, 0.84, 500),
            Interval(0.7, 0.6, 0.8, 50),
            Interval(0.6, 0.5, 0.7, 90),
        )
    ]
    assert rows == [
        "reached, not certain at this size",
        "reached",
        "missed, not certain at this size",
        "missed",
    ]


def test_the_filter_with_its_card_is_at_most_8_mb():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_no_source_has_two_uses_and_the_card_names_all(card):
    names = [source.name for source in sources()]
    assert len(set(names)) == len(names)
    for source in sources():
        name = f"own patterns, {source.kind}" if source.own else source.name
        assert f"| {name} |" in card


def test_training_and_calibration_have_no_near_duplicate_of_a_sealed_or_an_acceptance_text():
    sealed = [*(example.text for example in examples("sealed")), *(each.text for each in acceptance_texts())]
    for use in ("training", "calibration"):
        others = [example.text for example in examples(use)][::20]
        assert all(unlike(others, sealed))
