"""What the table of coverage says follows from the populations, and its truths are true."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from experiments.coverage.experiment import Coverage, held_of, updated
from experiments.coverage.populations import POPULATIONS, Population

PAGE = Path(__file__).parents[3] / "docs" / "evidence.md"


@pytest.mark.parametrize("population", POPULATIONS, ids=lambda p: f"{p.interval}: {p.items}")
def test_the_stated_truth_of_a_population_is_the_mean_of_estimates(population: Population) -> None:
    rng = np.random.default_rng(1)
    estimates = [population.sample(rng, 200).estimate for _ in range(15)]
    error = np.std(estimates, ddof=1) / len(estimates) ** 0.5
    assert abs(np.mean(estimates) - population.truth) < 4 * error + 0.002


def test_of_six_items_a_mean_has_no_interval_and_a_share_has() -> None:
    mean, share = POPULATIONS[0], next(p for p in POPULATIONS if p.interval == "share_interval, exact")
    assert held_of(mean, 6, 20, seed=0) is None
    held = held_of(share, 6, 200, seed=0)
    assert held is not None
    assert held >= 0.9 * 200


def test_clusters_that_are_ignored_make_intervals_far_too_narrow() -> None:
    ignored = next(p for p in POPULATIONS if "ignored" in p.interval)
    held = held_of(ignored, 40, 100, seed=0)
    assert held is not None
    assert held < 85


def test_a_run_replaces_its_section_of_a_page_and_leaves_the_others(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# Evidence\n\nBefore.\n\n## Coverage of the intervals\n\nbygone\n\n## After\n\nrest\n")
    printed = Coverage([6], draws=2, seed=0, page=str(page)).run(tmp_path / "run")
    text = page.read_text()
    assert "bygone" not in text
    assert re.findall(r"^#+ .*", text, re.MULTILINE) == [
        "# Evidence",
        "## Coverage of the intervals",
        "## After",
    ]
    assert str(page) in printed
    assert len(json.loads((tmp_path / "run" / "coverage.json").read_text())["held"]) == len(POPULATIONS)
    assert updated("", "## Coverage of the intervals\n\nnew") == "## Coverage of the intervals\n\nnew\n"
