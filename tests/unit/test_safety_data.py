"""The texts of the shipped filter are what they are said to be."""

import json
from pathlib import Path

from experiments.safety_data import distinct, examples, sources
from experiments.safety_sources import CONFIGS, excerpts, filled, package_folder, planted

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "embedspace/safety/weights/smollm2-injection"


def test_the_filter_is_at_most_8_mb():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 8_000_000


def test_no_source_has_two_uses_and_the_filter_names_all():
    names = [source.name for source in sources()]
    assert len(set(names)) == len(names)
    told = json.loads((FOLDER / "filter.json").read_text())["card"]["sources"]
    assert [source["name"] for source in told] == names


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


def test_a_pattern_is_filled_with_slots_within_slots():
    import random

    slots = {"a": ["x {b}"], "b": ["y"]}
    assert filled("{a} {{kept}}", slots, random.Random(0)) == "x y {kept}"
