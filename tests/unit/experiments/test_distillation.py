"""The distillation experiment: which cases it asks, and what its records say."""

import json

import pytest
from hydra.utils import instantiate

from embedspace import EmbeddingSpace
from embedspace.engines import Sampling
from embedspace.prompt import Recipe
from embedspace.runs import Record
from experiments.distillation.metrics import BESIDE, DISTILLED, FACTS, FULL, NONE, OTHER, RANDOM, Measured
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.test_configs import composed

PROMPTS = ["bullets", "prices"]


def experiment(**changes):
    config = composed("experiment=distillation", "data=everyday", "out=unused").experiment
    values = {
        "names": PROMPTS, "rows": [2, 4], "main_rows": 4, "training_questions": [3], "sealed_questions": 12,
        "settings": {"epochs": 1, "answer_tokens": 3}, "compressions": ["truncate"], "answer_tokens": 3,
    }  # fmt: skip
    for name, value in {**values, **changes}.items():
        config[name] = value
    return instantiate(config)


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def recorded(found, divergence, text="- one\n- two\n- three costs 14, 22, 5 euro"):
    for case in found:
        tags = {
            **case.labels,
            "rows": 9,
            "equal_tokens": 0.5,
            "divergence": divergence[case.labels["condition"]],
        }
        yield make_record(case, tags, text if tags["condition"] != NONE else "nothing")


def make_record(case, tags, text):
    return Record(
        key=case.key, choice=0, tags=tags, recipe=Recipe.of("made", {}), sampling=Sampling(), rows=9, space="",
        engine={}, text=text, token_ids=(1,), finish_reason="stop", seconds=0.0, scores={},
    )  # fmt: skip


def test_every_prompt_has_its_controls_at_the_main_number_of_rows(space):
    found = list(experiment().cases(space))
    assert len({case.key for case in found}) == len(found)
    for number, facts in enumerate([set(), {(FACTS, 0), (BESIDE, 4)}]):
        places = {
            (case.labels["condition"], case.labels["tokens"])
            for case in found
            if case.labels["prompt"] == number
        }
        assert places == {
            (FULL, 0), (NONE, 0), ("truncate", 2), ("truncate", 4), (RANDOM, 4), (OTHER, 4), (DISTILLED, 2),
            (DISTILLED, 4), *facts,
        }  # fmt: skip


def test_facts_are_a_part_of_their_prompt_and_stand_as_text_after_the_rows(space, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path))
    prompts = [prompt for prompt in experiment(names=None).chosen if "facts" in prompt]
    assert [prompt["name"] for prompt in prompts] == ["prices", "refusals", "manual", "programme"]
    assert all(prompt["facts"] in prompt["messages"][0]["content"] for prompt in prompts)
    asked = experiment(names=["prices"], rows=[4], sealed_questions=1, random_seed=None)
    cases = {case.labels["condition"]: case for case in asked.cases(space)}
    alone, beside = (space.read(cases[name].prompt) for name in (DISTILLED, BESIDE))
    assert prompts[0]["facts"] in beside
    assert prompts[0]["facts"] not in alone
    assert prompts[0]["facts"] in space.read(cases[FACTS].prompt)


def test_sealed_questions_are_learnt_from_by_no_prompt():
    for prompt in experiment(names=None).chosen:
        sealed = [each["question"] for each in prompt["sealed"]]
        assert len(prompt["training"]) == len(set(prompt["training"])) == 30, prompt["name"]
        assert len(sealed) == len(set(sealed)) == 20, prompt["name"]
        assert not {text.lower() for text in prompt["training"]} & {text.lower() for text in sealed}


def test_the_share_closed_and_the_strings_are_what_the_records_hold(space):
    asked = experiment()
    divergence = {
        FULL: 0.0,
        NONE: 2.0,
        DISTILLED: 0.5,
        BESIDE: 0.5,
        FACTS: 1.0,
        OTHER: 1.8,
        RANDOM: 2.2,
        "truncate": 1.0,
    }
    records = list(recorded(list(asked.cases(space)), divergence))
    measured = Measured.of(records, asked.chosen)
    place = (DISTILLED, 4.0, 3.0)
    assert measured.closed(place).estimate == pytest.approx(0.75)
    assert measured.form.mean(place).estimate == 1
    assert measured.form.mean((NONE, 0.0, 0.0)).estimate == 0
    assert 0 < measured.right.mean(place).estimate < 1
    assert measured.mean(measured.right, place, {1}).items == 12, "of one prompt the questions are the units"
    (section,) = asked.analyse(records).sections
    assert section.verdict == (
        "On 2 system prompts, 4 distilled rows bring the answers 75% of the way from those under no system prompt to "
        "those under the whole one: too few to say what they do after others."
    )
    assert "4 distilled rows close 75%" in section.finding
    assert "the best control of as many rows, truncate, closes 50%" in section.finding
    assert "With facts as text beside the rows (1 prompt)" in section.finding


def test_rows_are_learnt_once_and_divergence_is_measured_of_each_prompt(space, tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path))
    asked = experiment(names=["prices"], rows=[2], main_rows=2, sealed_questions=2, random_seed=None)
    tags = {}
    for case in asked.cases(space):
        tags[case.labels["condition"], case.labels["question"]] = case.tags
    assert tags[FULL, 0]["divergence"] == pytest.approx(0, abs=1e-5)
    assert tags[NONE, 0]["divergence"] > 0
    (config,) = tmp_path.glob("soft_prompts/*/soft_prompt.json")
    assert json.loads(config.read_text())["origin"]["content_rows"] > 2


def test_an_unknown_prompt_is_named(space):
    with pytest.raises(ValueError, match="'buccaneer'; known are persona, bullets"):
        list(experiment(names=["buccaneer"]).cases(space))
