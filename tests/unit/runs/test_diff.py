"""Two runs differ in what they say they differ in, and in nothing else."""

import dataclasses
import json

import pytest
import torch

from embedspace import EmbeddingSpace, StyleVector
from embedspace.cli import main
from embedspace.engines import Sampling, TransformersEngine
from embedspace.runs.cases import Case
from embedspace.runs.diff import MAX_SHOWN, differences
from embedspace.runs.execution import execute
from embedspace.runs.records import read_records
from embedspace.runs.run import Run
from tests.checkpoints import make_tiny_checkpoint

CONFIG = {"questions": ["one", "two"], "sampling": {"max_tokens": 2}, "out": "here", "fresh": False}


@pytest.fixture(scope="module")
def space(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def made(tmp_path, space):
    """Makes a real run of texts under a configuration and returns its folder."""

    def run(name, texts, alpha=0.0, **config):
        prompts = [space.embed(text) for text in texts]
        if alpha:
            prompts = [StyleVector.random(space, norm=1.0, seed=0).apply(prompt, alpha) for prompt in prompts]
        cases = [Case(f"case {i}", prompt, continuations={"yes": "yes"}) for i, prompt in enumerate(prompts)]
        settings = {**CONFIG, "out": name, **config}
        with Run.open(tmp_path / name, settings, fingerprint=space.fingerprint) as opened:
            execute(opened, lambda: TransformersEngine(space), cases, Sampling(max_tokens=2), title="test")
        return tmp_path / name

    return run


def rewritten(folder, change):
    """The run with every record changed."""
    path = folder / "records.jsonl"
    records = [change(record) for record in read_records(path)]
    path.write_bytes(b"".join(record.to_json() for record in records))
    return folder


def kinds(first, second):
    return {(each.kind, each.name) for each in differences(first, second)}


def test_the_same_run_twice_is_the_same(made, capsys):
    first, second = made("a", ["one", "two"]), made("b", ["one", "two"])
    assert differences(first, second) == []
    assert main(["diff", str(first), str(second)]) == 0
    assert "the same" in capsys.readouterr().out


def test_prompts_and_answers_that_differ_are_named(made, capsys):
    first, second = (
        made("a", ["one", "two", "three"]),
        made("b", ["one", "other"], questions=["one", "other"]),
    )
    assert {
        ("configuration", "questions.1"),
        ("prompts", "case 1"),
        ("prompts", "only in the first"),
    } <= kinds(first, second)
    (changed,) = [
        each for each in differences(first, second) if each.name == "case 1" and each.kind == "prompts"
    ]
    assert ("text='two'" in changed.first, "text='other'" in changed.second) == (True, True)
    assert main(["diff", str(first), str(second)]) == 1
    shown = capsys.readouterr().out
    assert "questions.1" in shown
    assert "case 2" in shown
    assert ("prompts", "only in the second") in kinds(second, first)


def test_another_strength_is_another_prompt(made):
    assert ("prompts", "case 0") in kinds(made("a", ["one"], alpha=1.0), made("b", ["one"], alpha=2.0))


def test_other_rows_of_one_recipe_are_seen(made):
    first = made("a", ["one"])
    second = rewritten(made("b", ["one"]), lambda record: dataclasses.replace(record, prompt_sha256="0" * 64))
    (found,) = differences(first, second)
    assert found.first.startswith("same recipe, rows ")


def test_answers_alone_can_differ(made):
    first = made("a", ["one", "two"])
    second = rewritten(
        made("b", ["one", "two"]), lambda record: dataclasses.replace(record, text=f"{record.text}!")
    )
    assert kinds(first, second) == {("completions", "case 0"), ("completions", "case 1")}


def test_many_differences_are_counted_and_a_few_shown(made):
    texts = [f"text {i}" for i in range(MAX_SHOWN + 3)]
    second = rewritten(made("b", texts), lambda record: dataclasses.replace(record, text="!"))
    found = differences(made("a", texts), second)
    assert [each.name for each in found[-2:]] == [f"case {MAX_SHOWN - 1}", "and 3 more"]


@pytest.mark.parametrize(("by", "reported"), [(1e-5, False), (0.1, True)])
def test_likelihoods_differ_beyond_the_last_digits(made, by, reported):
    def moved(record):
        scores = {n: dataclasses.replace(s, logprob=s.logprob + by) for n, s in record.scores.items()}
        return dataclasses.replace(record, scores=scores)

    first, second = made("a", ["one"]), rewritten(made("b", ["one"]), moved)
    assert bool(differences(first, second)) is reported


def test_versions_commit_engine_and_model_are_compared(made):
    first, second = made("a", ["one"]), made("b", ["one"])
    path = second / "run.json"
    manifest = json.loads(path.read_text())
    manifest["fingerprint"] = "another"
    sitting = manifest["sittings"][0]
    sitting["packages"]["torch"] = "0.0"
    sitting["git"] = {"commit": "0" * 40, "dirty": False}
    sitting["engine"]["dtype"] = "float16"
    sitting["machine"] = {"cores": 1}
    path.write_text(json.dumps(manifest))
    wanted = {("model", "fingerprint"), ("versions", "torch"), ("git", "commit"), ("engine", "dtype")}
    found = kinds(first, second)
    assert wanted <= found
    assert {kind for kind, _ in found} == {"model", "versions", "git", "engine"}
    (version,) = [each for each in differences(first, second) if each.name == "torch"]
    assert (version.first, version.second) == (torch.__version__, "0.0")


def test_folders_that_hold_no_run_are_named(made, tmp_path, capsys):
    run = made("a", ["one"])
    with pytest.raises(ValueError, match=f"{tmp_path / 'nowhere'} is not the folder of a run"):
        differences(run, tmp_path / "nowhere")
    (run / "run.json").write_text("{")
    assert main(["diff", str(run), str(run)]) == 2
    assert "damaged" in capsys.readouterr().err
