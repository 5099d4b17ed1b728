"""The gallery keeps the figures that it names, as files that stand alone, and says where they come from."""

import json
from xml.etree import ElementTree

import pytest

from embedspace.metrics import Interval
from embedspace.reporting.figures import Line, line_figure
from embedspace.reporting.report import Report, Section
from experiments.gallery import EXHIBITS, as_page, write_figures
from tests.unit.test_configs import composed


def report():
    points = {0.0: Interval(1, 0.5, 1.5, 3), 1.0: Interval(2, 1.5, 2.5, 3)}
    figures = [
        line_figure([Line(name, points)], x_label="t", y_label=name, caption=f"What {name} does")
        for name in "ab"
    ]
    return Report(
        "", "", [Section("", "", "", figures=figures[:1]), Section("", "", "", figures=figures[1:])]
    )


def test_figures_are_counted_over_the_sections_and_stand_alone(tmp_path):
    captions = write_figures(report(), {"second": 1}, tmp_path)
    assert captions == {"second.svg": "What b does"}
    text = (tmp_path / "second.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "--series-1: #" in text
    assert "prefers-color-scheme: dark" in text


def test_a_figure_that_a_report_does_not_have_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"has 2 figures.*'third': 2"):
        write_figures(report(), {"third": 2}, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_two_exhibits_write_one_file():
    names = [name for exhibit in EXHIBITS.values() for name in exhibit.figures]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", EXHIBITS)
def test_every_exhibit_is_a_configuration(name):
    assert composed(*EXHIBITS[name].overrides, "engine=transformers", "out=unused").experiment


def test_the_page_tells_command_commit_versions_and_duration():
    note = {
        "command": "python experiments/run.py experiment=x", "seconds": 90, "figures": {"x.svg": "What x does"},
        "git": {"commit": "0123456789abcdef", "dirty": True},
        "machine": {"cores": 2, "processor": "a processor", "memory_gib": 23.5},
        "packages": {"torch": "2.13.0"},
    }  # fmt: skip
    page = as_page(json.loads(json.dumps({"x": note})))
    for words in (
        "experiment=x",
        "1.5 minutes; 2 cores",
        "torch 2.13.0",
        "`0123456789ab` with local changes",
        "(x.svg)",
    ):
        assert words in page
