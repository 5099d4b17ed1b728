"""The copied programs make the view's prompt."""

import re
import shlex

import pytest
from hydra.utils import instantiate

from embedspace.playground.applied import Workbench
from embedspace.playground.code import python_code
from embedspace.playground.engines import EngineChoice
from embedspace.playground.hydra_command import hydra_command
from embedspace.playground.view import View
from tests.unit.test_configs import composed

TEXTS = ['Say "hi" to \\ and \\" it\'s €5, [a] {b: c} #1', "Two\nlines?", "<script>alert(1)</script>"]


@pytest.fixture(scope="module")
def bench(materials):
    return Workbench(materials)


def views(style, soft):
    yield View()
    yield from (View(system="Be 'kind'.", user=text) for text in TEXTS)
    yield View(style=style, alpha=-0.7)
    yield View(soft=soft, noise=0.3, seed=5)
    yield View(
        user="A lamp costs $4 in May. It is red.\nHow much?",
        ratio=2.0,
        question="How much?",
        keep="red\n\nMay",
    )
    yield View(second=TEXTS[0], t=0.35, system="Be brief.")
    yield View(soft=soft, second="What is jazz?", t=0.5, ratio=1.5, style=style, noise=0.1)


def test_the_copied_python_makes_the_prompt_of_the_same_digest(bench, style, soft):
    for view in views(style, soft):
        code = python_code(bench, view, EngineChoice())
        program, _ = code.split("\nengine = ")
        names: dict = {}
        exec(compile(program, "copied", "exec"), names)
        applied = bench.apply(view)
        assert names["prompt"].recipe == applied.moved.recipe
        assert (names["prompt"].vectors == applied.moved.vectors).all()
        assert applied.moved.recipe.digest in program


def test_a_changed_program_fails_by_its_own_check(bench):
    program, _ = python_code(bench, View(noise=0.5), EngineChoice()).split("\nengine = ")
    with pytest.raises(AssertionError):
        exec(program.replace("scale=0.5", "scale=0.6"), {})


def test_the_copied_python_asks_the_engine_of_the_page(bench):
    assert "VLLMClient('http://localhost:8000'" in python_code(
        bench, View(), EngineChoice("vllm", "http://localhost:8000")
    )


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("change", [{}, {"second": TEXTS[0], "t": 0.25}])
def test_a_hydra_command_runs_an_experiment_that_makes_the_view_s_prompt(bench, smollm2, text, change):
    view = View(user=text, **change)
    made = hydra_command(view, smollm2, EngineChoice())
    words = shlex.split(made.command)
    assert words[:2] == ["python", "experiments/run.py"]
    config = composed(*words[2:])
    cases = instantiate(config.experiment).cases(smollm2)
    digests = {case.recipe.digest for case in cases if case.recipe.operation != "token_ids"}
    assert bench.apply(view).moved.recipe.digest in digests


@pytest.mark.parametrize(
    "change",
    [
        {"system": "Be kind."},
        {"noise": 0.1},
        {"ratio": 2.0},
        {"second": "Why?", "t": 1.0},
        {"user": "${oc.env:HOME}"},
    ],
)
def test_a_view_that_no_experiment_asks_has_a_reason_in_place_of_a_command(smollm2, change):
    made = hydra_command(View(**change), smollm2, EngineChoice())
    assert made.command is None
    assert re.match(r"No experiment makes this prompt: .+\. Copy it as Python\.", made.note)


def test_the_command_names_the_server_of_the_page(smollm2):
    made = hydra_command(View(), smollm2, EngineChoice("vllm", "http://localhost:8000"))
    assert "engine=vllm engine.url=http://localhost:8000" in made.command
