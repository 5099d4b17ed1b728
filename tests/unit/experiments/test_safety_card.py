"""The shipped filter has the figures of its card, and its texts have the properties that are claimed."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from embedspace import SafetyFilter
from embedspace.metrics import Interval
from experiments.safety.attack_texts import planted
from experiments.safety.benign_texts import excerpts
from experiments.safety.data import distinct, examples, sources
from experiments.safety.metrics import MethodScores
from experiments.safety.packages import filled, package_folder
from experiments.safety.report import headline
from experiments.safety.sources import CONFIGS

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "embedspace/safety/weights/smollm2-injection"
FIGURE = re.compile(r"^\| ([^|]+) \| ([\d.]+) \(([\d.]+) to ([\d.]+)\) \| (\d+) \|$", re.MULTILINE)
EVERY = 12


def figures_of(text: str) -> dict[str, Interval]:
    return {
        name: Interval(float(value), float(low), float(high), int(items))
        for name, value, low, high, items in FIGURE.findall(text)
    }


@pytest.fixture(scope="module")
def card():
    return (FOLDER / "README.md").read_text()


def test_the_shipped_filter_keeps_to_its_card_on_a_sample_of_the_sealed_texts(smollm2, card):
    guard = SafetyFilter.from_pretrained("smollm2-injection", smollm2)
    sample = list(examples("sealed"))[::EVERY]
    rest = [example for example in examples("calibration") if not example.source.hard][1::EVERY]
    scores, held_out = (np.asarray(guard.score_many([e.text for e in each])) for each in (sample, rest))
    card_figures = figures_of(card)
    for name, found in headline(guard, MethodScores(sample, scores, held_out, held_out)).items():
        if found.items >= 20:
            assert found.low <= card_figures[name].high, name
            assert card_figures[name].low <= found.high, name


def test_page_and_card_have_the_same_figures(card):
    card_figures = figures_of(card)
    assert card_figures
    assert card_figures == figures_of((ROOT / "docs/safety-evidence.md").read_text())
    guard = json.loads((FOLDER / "filter.json").read_text())
    assert f"the threshold {guard['threshold']:.3f}" in card
    summary = (ROOT / "docs/safety.md").read_text()
    for name, figure in card_figures.items():
        if not name.startswith("fresh"):
            assert f"{figure:.2f}" in summary, name


def test_the_filter_with_its_card_is_at_most_8_mb():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_no_source_has_two_uses_and_the_card_names_all(card):
    names = [source.name for source in sources()]
    assert len(set(names)) == len(names)
    assert all(f"| {name} |" in card for name in names)


def test_training_and_calibration_have_no_near_duplicate_of_a_sealed_text():
    sealed = [example.text for example in examples("sealed")]
    for use in ("training", "calibration"):
        others = [example.text for example in examples(use)][::20]
        assert all(distinct(others, sealed))


def test_an_instruction_is_planted_between_the_sentences_of_a_document():
    carriers = "\n".join(excerpts(package_folder("inspect-evals")))
    made = list(planted(CONFIGS, "attacks.yaml", 40))
    assert made == list(planted(CONFIGS, "attacks.yaml", 40))
    for text in made:
        beginning, end = text[:25], text[-25:]
        assert beginning in carriers or end in carriers
        assert text.strip() not in carriers
        assert "{" not in re.sub(r"\{\"|\{[^a-z]", "", text) or "assistant_note" in text


def test_a_pattern_is_filled_with_slots_within_slots():
    import random

    slots = {"a": ["x {b}"], "b": ["y"]}
    assert filled("{a} {{kept}}", slots, random.Random(0)) == "x y {kept}"
