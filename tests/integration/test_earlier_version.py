"""Files that an earlier version wrote, and what it left unfinished, are read and gone on with.

``tests/fixtures/earlier_version`` holds them. Names inside of the package may change between versions; this file knows
the public ones alone: the library's, the commands', those of configuration groups, and the paths of scripts.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from embedspace import (
    EmbeddingCache,
    EmbeddingSpace,
    Projector,
    PromptEmbeds,
    Recipe,
    SafetyFilter,
    StyleVector,
)
from embedspace.corpus import Corpus, CorpusSpec, make_corpus, open_source

ROOT = Path(__file__).resolve().parents[2]
EARLIER = ROOT / "tests" / "fixtures" / "earlier_version"
COMMANDS: dict[str, list[str]] = json.loads((EARLIER / "commands.json").read_text())
ENVIRONMENT = os.environ | {
    "PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    "EMBEDSPACE_WORDNET": "inputs/wordnet",
}
SMOLLM2 = "smollm2-135m-instruct"
pytestmark = pytest.mark.slow


def copied(folder: Path, *names: str) -> Path:
    """Some of the earlier version's files, and what they were made of, to be gone on with."""
    for name in ("inputs", *names):
        path = EARLIER / name
        (shutil.copytree if path.is_dir() else shutil.copy)(path, folder / name)
    return folder


def called(place: Path, name: str, *overrides: str) -> subprocess.CompletedProcess[str]:
    """The command that the earlier version was stopped in, once more."""
    script, *words = COMMANDS[name]
    command = [sys.executable, str(ROOT / script), *words, *overrides]
    return subprocess.run(
        command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=500
    )


@pytest.fixture
def embedspace(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str]]:
    """The command ``embedspace`` in this process: its exit status and what it prints."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, function = scripts["embedspace"].split(":")
    main = getattr(importlib.import_module(module), function)

    def call(*words: str | Path) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["embedspace", *map(str, words)])
        capsys.readouterr()
        return main(), capsys.readouterr().out

    return call


@pytest.fixture(scope="module")
def tiny() -> EmbeddingSpace:
    with contextlib.chdir(EARLIER):  # what was written holds the model's name
        return EmbeddingSpace.from_pretrained("inputs/model")


def records(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]


def asked(record: dict[str, Any]) -> dict[str, Any]:
    """What a record says of its prompt: the same on every machine, unlike the last digits of what a model computes."""
    names = ("key", "choice", "recipe", "rows", "sampling", "space", "prompt_sha256", "error")
    tags = {name: value for name, value in record["tags"].items() if name != "distance"}
    return {**{name: record[name] for name in names}, "tags": tags, "continuations": sorted(record["scores"])}


def untouched(folder: Path, pattern: str) -> dict[str, tuple[int, bytes]]:
    """Contents and times of files."""
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in folder.glob(pattern)}


# Runs


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the interrupted run after the same command, and with the undisturbed run."""
    place = copied(tmp_path_factory.mktemp("run"), "interpolation", "interpolation_finished")
    done = called(place, "interpolation")
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def test_an_interrupted_run_goes_on_and_asks_nothing_twice(resumed: Path) -> None:
    before = (EARLIER / "interpolation" / "records.jsonl").read_bytes()
    after = (resumed / "interpolation" / "records.jsonl").read_bytes()
    whole = records(resumed / "interpolation_finished")
    assert 0 < before.count(b"\n") < len(whole)
    assert after.startswith(before)
    found = records(resumed / "interpolation")
    assert [asked(record) for record in found] == [asked(record) for record in whole]
    for record, other in zip(found, whole, strict=True):
        far, expected = (each["tags"].get("distance", 0.0) for each in (record, other))
        assert far == pytest.approx(expected, rel=1e-3)
        assert bool(record["token_ids"]) == bool(other["token_ids"])
    assert (resumed / "interpolation" / "report.html").stat().st_size > 10_000


def test_a_resumed_run_keeps_what_its_manifest_said(resumed: Path) -> None:
    old, new = (
        json.loads((folder / "interpolation" / "run.json").read_text()) for folder in (EARLIER, resumed)
    )
    assert new["sittings"][:-1] == old["sittings"]
    assert new["fingerprint"] == old["fingerprint"]
    assert new["seeds"] == old["seeds"]


def test_a_changed_setting_of_an_earlier_run_is_still_refused(tmp_path: Path) -> None:
    place = copied(tmp_path, "interpolation")
    done = called(place, "interpolation", "sampling.max_tokens=4")
    assert done.returncode == 1
    assert "sampling.max_tokens: 3 -> 4" in done.stdout + done.stderr
    assert "_target_" not in done.stdout + done.stderr
    for name in ("run.json", "records.jsonl"):
        path = Path("interpolation", name)
        assert (place / path).read_bytes() == (EARLIER / path).read_bytes()


def test_a_run_of_an_experiment_that_has_changed_since_is_refused(tmp_path: Path) -> None:
    place = copied(tmp_path, "run")
    done = called(place, "run")
    assert done.returncode == 1
    assert "run holds a run with another configuration" in done.stdout + done.stderr
    assert "system_prompts" not in done.stdout + done.stderr  # which the demo does not read
    for name in ("run.json", "records.jsonl"):
        assert (place / "run" / name).read_bytes() == (EARLIER / "run" / name).read_bytes()


def test_an_earlier_run_and_its_continuation_are_one_run_to_diff(
    resumed: Path, embedspace: Callable[..., tuple[int, str]]
) -> None:
    finished = EARLIER / "interpolation_finished"
    same = embedspace("diff", finished, resumed / "interpolation_finished")
    assert same == (0, "the runs are the same\n")
    _, output = embedspace("diff", finished, resumed / "interpolation")
    # Other versions, another commit, and answers that another processor rounds differently may be listed.
    assert not [line for line in output.splitlines() if "configuration" in line or " prompts " in line]


@pytest.mark.parametrize("index", range(21))
def test_a_recorded_prompt_is_replayed_bit_for_bit(
    index: int, embedspace: Callable[..., tuple[int, str]]
) -> None:
    path = EARLIER / "run_finished" / "records.jsonl"
    if "salience" in json.dumps(records(EARLIER / "run_finished")[index]["recipe"]):
        # Its rule has changed since, and other rows must not pass for these.
        words = [sys.executable, "-m", "embedspace", "replay", str(path), "--index", str(index)]
        done = subprocess.run(
            words, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=500
        )
        assert done.returncode != 0
        assert "by version 1 of the salience rule" in done.stderr
        return
    status, output = embedspace("replay", path, "--index", str(index))
    assert status == 0, output
    assert "bit-identical" in output


def test_prompts_of_every_kind_are_among_the_recorded_ones() -> None:
    found = records(EARLIER / "run_finished")
    assert len(found) == 21
    assert {"embed_chat", "style", "interpolate", "compress"} <= {
        record["recipe"]["operation"] for record in found
    }


# Trainings


def checkpoint(folder: Path) -> Any:
    """A checkpoint of Lightning from JSON and safetensors, as which it is kept here."""
    tensors = load_file(folder / "checkpoint.safetensors")

    def whole(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        ((kind, content),) = value.items()
        if kind == "tensor":
            return tensors[content]
        if kind == "mapping":
            return {name: whole(inner) for name, inner in content}
        return {"list": list, "tuple": tuple}[kind](map(whole, content))

    return whole(json.loads((folder / "checkpoint.json").read_text()))


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A folder with a training that was killed in its second stage."""
    place = copied(tmp_path, "training")
    for stage in ("reconstruct", "distill"):
        folder = place / "training" / stage
        torch.save(checkpoint(folder), folder / "last.ckpt")
        (folder / "checkpoint.json").unlink()
        (folder / "checkpoint.safetensors").unlink()
    return place


def test_a_killed_training_goes_on_from_its_checkpoints(training: Path) -> None:
    done = called(training, "training")
    assert done.returncode == 0, done.stdout + done.stderr
    begun = checkpoint(EARLIER / "training" / "distill")["global_step"]
    with (training / "training" / "distill" / "logs" / "version_0" / "metrics.csv").open() as file:
        steps = [int(row["step"]) for row in csv.DictReader(file)]
    assert 0 < begun <= min(steps)
    ours, theirs = (
        load_file(place / "projector" / "model.safetensors")
        for place in (training / "training", EARLIER / "training_finished")
    )
    assert ours.keys() == theirs.keys()
    assert all((ours[name].float() - theirs[name].float()).abs().max() < 2e-3 for name in ours)


def test_a_changed_setting_of_an_earlier_training_is_still_refused(training: Path) -> None:
    done = called(training, "training", "distill.learning_rate=0.5")
    assert done.returncode == 1
    assert "another configuration:\n  distill.learning_rate:" in done.stderr
    assert (training / "training" / "train.json").read_bytes() == (
        EARLIER / "training" / "train.json"
    ).read_bytes()


def test_an_earlier_projector_makes_the_same_soft_tokens(tiny: EmbeddingSpace) -> None:
    expected = json.loads((EARLIER / "projector_expected.json").read_text())
    projector = Projector.from_pretrained(EARLIER / "training_finished" / "projector", space=tiny)
    assert projector.digest == expected["digest"]
    assert projector.config.training["sentences"] == expected["sentences"]
    soft = projector.project(torch.linspace(-1, 1, projector.features), tiny)
    torch.testing.assert_close(soft.vectors, torch.tensor(expected["soft"]), rtol=1e-4, atol=1e-4)


# Corpora and their completions


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the corpus that was ended after two shards, finished by the same command."""
    place = copied(tmp_path_factory.mktemp("corpus"), "corpus", "generation")
    before = untouched(place / "corpus", "shard-*")
    done = called(place, "corpus")
    assert done.returncode == 0, done.stdout + done.stderr
    assert before.items() < untouched(place / "corpus", "shard-*").items()
    return place


def digests(folder: Path) -> dict[str, str]:
    paths = sorted(folder.glob("shard-*.safetensors"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def same(prompt: PromptEmbeds, other: PromptEmbeds) -> bool:
    return (
        torch.equal(prompt.vectors, other.vectors)
        and torch.equal(prompt.content, other.content)
        and (prompt.recipe, prompt.space) == (other.recipe, other.space)
    )


def test_an_unfinished_corpus_is_finished_with_the_bytes_of_an_undisturbed_one(
    corpus: Path, smollm2: EmbeddingSpace
) -> None:
    assert digests(corpus / "corpus") == json.loads((EARLIER / "corpus_expected.json").read_text())["corpus"]
    texts = [
        json.loads(line)["text"] for line in (EARLIER / "inputs" / "texts.jsonl").read_text().splitlines()
    ]
    read = list(Corpus(corpus / "corpus", smollm2))
    assert all(same(prompt, smollm2.embed(text)) for prompt, text in zip(read, texts, strict=True))


def test_an_unfinished_corpus_of_conversations_is_finished_by_the_library(
    tmp_path: Path, smollm2: EmbeddingSpace
) -> None:
    place = copied(tmp_path, "chats")
    source = open_source(place / "inputs" / "chats.jsonl", stride=2)
    made = make_corpus(CorpusSpec(SMOLLM2, source, place / "chats", "token_ids", "chat", 2))
    assert (made.texts, made.shards, made.made, made.damaged, made.refused) == (5, 3, 1, 0, 1)
    assert digests(place / "chats") == json.loads((EARLIER / "corpus_expected.json").read_text())["chats"]
    read = Corpus(place / "chats", smollm2)
    assert read.refused.keys() == {2}
    assert same(read[0], smollm2.embed_chat([{"role": "user", "content": "How are you?"}]))


def test_unfinished_completions_of_a_corpus_are_gone_on_with(corpus: Path) -> None:
    before = untouched(corpus / "generation", "*.json*")
    done = called(corpus, "generation")
    assert done.returncode == 0, done.stdout + done.stderr
    after = untouched(corpus / "generation", "*.json*")
    assert before.items() < after.items()

    def answers(folder: Path) -> list[tuple[str, int, bool]]:
        lines = [
            line for path in sorted(folder.glob("completions-*")) for line in path.read_text().splitlines()
        ]
        return [(each["number"], each["choice"], each["error"]) for each in map(json.loads, lines)]

    assert answers(corpus / "generation") == answers(EARLIER / "generation_finished")


# The cache, and single files


def test_entries_of_an_earlier_cache_hit(
    tmp_path: Path, tiny: EmbeddingSpace, embedspace: Callable[..., tuple[int, str]]
) -> None:
    place = copied(tmp_path, "cache")
    path = place / "cache" / "cache.sqlite"
    path.write_bytes(gzip.decompress((place / "cache" / "cache.sqlite.gz").read_bytes()))
    was = json.loads((EARLIER / "cache" / "asked.json").read_text())
    expected = load_file(EARLIER / "cache" / "expected.safetensors")
    assert embedspace("cache", path, "verify") == (0, "6 entries, 0 damaged\n")
    assert embedspace("cache", path, "stats")[1].startswith("6 entries, ")

    def never(prompt: PromptEmbeds) -> PromptEmbeds:
        raise AssertionError(f"{prompt.recipe} was not found")

    with EmbeddingCache(path) as cache:
        plain = list(tiny.embed_many(was["items"], cache=cache))
        shorter = list(cache.transformed(plain, Recipe.of("compress", was["step"]), never))
        kept = cache.get_many([bytes.fromhex(key) for key in was["keys"]])
        counts = cache.stats()
        assert cache.verify().sound
    assert (counts.hits, counts.misses, counts.entries) == (12, 0, 6)
    for name, found in (("plain", plain), ("transformed", shorter)):
        for number, prompt in enumerate(found):
            assert torch.equal(prompt.vectors, expected[f"{name}.{number}"])
    assert all(one and same(one, other) for one, other in zip(kept, plain + shorter, strict=True))
    for item, prompt in zip(was["items"], plain, strict=True):
        assert same(prompt, tiny.embed(item) if isinstance(item, str) else tiny.embed_chat(item))


def test_an_earlier_style_vector_is_read_and_written_alike(tmp_path: Path, tiny: EmbeddingSpace) -> None:
    path = EARLIER / "style" / "style.safetensors"
    expected = json.loads((EARLIER / "style" / "expected.json").read_text())
    tensors = load_file(EARLIER / "style" / "expected.safetensors")
    style = StyleVector.load(path, tiny)
    assert torch.equal(style.vector, tensors["vector"])
    assert (style.digest, style.method) == (expected["digest"], expected["method"])
    moved = style.apply(tiny.embed(expected["text"]), 2.0)
    torch.testing.assert_close(moved.vectors, tensors["moved"])
    style.save(tmp_path / "again.safetensors")
    with safe_open(path, "pt") as old, safe_open(tmp_path / "again.safetensors", "pt") as new:
        assert old.metadata() == new.metadata()


def test_an_earlier_filter_gives_the_same_verdicts_and_is_written_alike(
    tmp_path: Path, tiny: EmbeddingSpace
) -> None:
    guard = SafetyFilter.from_pretrained(EARLIER / "filter", tiny)
    expected = json.loads((EARLIER / "filter_expected.json").read_text())
    scores, verdicts = guard.score_many(expected), guard.check_many(expected)
    for (score, allowed), now, verdict in zip(expected.values(), scores, verdicts, strict=True):
        assert now == pytest.approx(score, abs=1e-3)
        assert verdict.allowed is allowed or abs(score - verdict.threshold) < 2e-3
    guard.save(tmp_path / "again")
    for name in ("filter.json", "filter.safetensors"):
        assert (tmp_path / "again" / name).read_bytes() == (EARLIER / "filter" / name).read_bytes()


def test_a_certificate_has_the_fields_and_checks_that_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, embedspace: Callable[..., tuple[int, str]]
) -> None:
    monkeypatch.chdir(copied(tmp_path))
    status, output = embedspace("verify", "inputs/model", "--json", "certificate.json")
    assert status == 0, output
    old, new = (json.loads((folder / "certificate.json").read_text()) for folder in (EARLIER, tmp_path))
    assert old.keys() == new.keys()
    checks = [
        {check["name"]: (check["passed"], check["values"].keys()) for check in certificate["checks"]}
        for certificate in (old, new)
    ]
    assert checks[0] == checks[1]
    for name in ("passed", "model", "fingerprint", "server"):
        assert old[name] == new[name]
