"""A run has one time, and its prompts can be made again on any day."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from embedspace import EmbeddingSpace
from embedspace.engines import Completion, Sampling
from embedspace.runs import Case, Run, execute, replay
from embedspace.runs.run import time_of
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.space.templates import DATED, REASONING

EVENING = datetime(2026, 7, 12, 23, 59, 58)


class SilentEngine:
    def __init__(self, answers=None):
        self.answers = answers

    def generate(self, prompts, sampling):
        for number, _ in enumerate(prompts):
            if number == self.answers:
                raise KeyboardInterrupt
            yield Completion(number, 0, "", (), "stop", 0.0)

    def describe(self):
        return {"engine": "silent"}

    def close(self):
        pass


@pytest.fixture
def clock(monkeypatch):
    """A clock that can be set, and a process that has not read it."""

    class Clock(datetime):
        present = EVENING

        @classmethod
        def now(cls, tz=None):
            cls.present += timedelta(seconds=1)
            return cls.present

    monkeypatch.setattr("embedspace.runs.run.datetime", Clock)
    monkeypatch.setattr("embedspace.space.template_variables.datetime", Clock)
    monkeypatch.setattr("embedspace.space.template_variables._process_time", [])
    return Clock


@pytest.fixture(scope="module")
def dated(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(
        make_tiny_checkpoint(tmp_path_factory.mktemp("dated"), layers=1, chat_template=DATED)
    )


def cases(space):
    for number in range(4):
        messages = [{"role": "user", "content": f"question {number}"}]
        yield Case(f"q{number}", lambda messages=messages: space.embed_chat(messages))


def asked(folder, space, made=None, answers=None):
    config = {"model": {"name": space.name}}
    with Run.open(folder, config, fingerprint=space.fingerprint) as run:
        made = cases(space) if made is None else made
        return execute(run, lambda: SilentEngine(answers), made, Sampling(), title="test")


def read(folder):
    lines = [json.loads(line) for line in (folder / "records.jsonl").read_text().splitlines()]
    return [json.loads(line["recipe"]["parameters"].get("template", "null")) for line in lines]


def tomorrow(monkeypatch, clock):
    clock.present = EVENING + timedelta(days=1)
    monkeypatch.setattr("embedspace.space.template_variables._process_time", [])


def test_a_run_over_midnight_that_is_resumed_the_next_day_has_one_date(tmp_path, dated, clock, monkeypatch):
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, dated, answers=2)
    assert len(read(tmp_path)) == 2
    tomorrow(monkeypatch, clock)
    assert asked(tmp_path, dated).recorded == 2
    assert read(tmp_path) == [{"strftime_now": {"%d %b %Y": "12 Jul 2026"}}] * 4
    assert json.loads((tmp_path / "run.json").read_text())["template_time"] == "2026-07-12T23:59:59"
    for index in range(4):
        assert replay(tmp_path / "records.jsonl", index).identical


def test_the_time_of_a_run_ends_with_it(tmp_path, dated, clock, monkeypatch):
    asked(tmp_path, dated)
    tomorrow(monkeypatch, clock)
    assert "13 Jul 2026" in str(dated.embed_chat([{"role": "user", "content": "x"}]).recipe.to_dict())


def test_a_prompt_of_another_day_that_was_made_before_the_run_was_opened_is_explained(
    tmp_path, dated, clock, monkeypatch
):
    made = [*map(ready, cases(dated))]
    assert asked(tmp_path, dated, made).recorded == 4
    assert asked(tmp_path, dated, made).recorded == 0
    tomorrow(monkeypatch, clock)
    made = [*map(ready, cases(dated))]
    with pytest.raises(
        ValueError, match=r"read the time as .*12 Jul 2026.*made at .*13 Jul 2026.*after Run.open"
    ):
        asked(tmp_path, dated, made)


def ready(case):
    """The case with its prompt made."""
    return Case(case.key, case.prompt)


def test_a_run_of_an_earlier_version_is_resumed_and_replayed_with_the_date_of_its_start(
    tmp_path, dated, clock, monkeypatch
):
    with pytest.raises(KeyboardInterrupt):
        asked(tmp_path, dated, answers=3)
    manifest = json.loads((tmp_path / "run.json").read_text())
    del manifest["template_time"]
    manifest["sittings"][0]["started"] = EVENING.astimezone(UTC).isoformat()
    (tmp_path / "run.json").write_text(json.dumps(manifest))
    records = [json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines()]
    for record in records:
        del record["recipe"]["parameters"]["template"]
    (tmp_path / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    tomorrow(monkeypatch, clock)
    assert replay(tmp_path / "records.jsonl", 0).identical
    assert asked(tmp_path, dated).recorded == 1
    assert read(tmp_path) == [None] * 3 + [{"strftime_now": {"%d %b %Y": "12 Jul 2026"}}]
    assert all(replay(tmp_path / "records.jsonl", index).identical for index in range(4))


def test_a_manifest_without_a_sitting_has_the_present_time(clock):
    assert time_of({"sittings": []}) == EVENING + timedelta(seconds=1)


def test_variables_and_begun_answers_are_replayed(tmp_path):
    folder = make_tiny_checkpoint(tmp_path / "model", layers=1, chat_template=REASONING)
    space = EmbeddingSpace.from_pretrained(folder, template={"enable_thinking": False})
    call = {"function": {"name": "weather", "arguments": {"unit": "C", "city": "Rome"}}}
    question, tools = {"role": "user", "content": "Is it warm?"}, {"tools": [{"b": 1, "a": [2.5, None, "ü"]}]}
    prompts = [
        space.embed_chat([question]),
        space.embed_chat([question], template={**tools, "enable_thinking": True}),
        space.embed_chat([question, {"role": "assistant", "content": "It "}], continue_final_message=True),
        space.embed_chat([question, {"role": "assistant", "content": "", "tool_calls": [call]}]),
        space.embed("Once upon a time", special_tokens=True),
        space.embed_chat([{"role": "user", "content": [space.embed("a", special_tokens=False), "b"]}]),
    ]
    asked(tmp_path / "run", space, [Case(f"q{number}", prompt) for number, prompt in enumerate(prompts)])
    for index, prompt in enumerate(prompts):
        again = replay(tmp_path / "run" / "records.jsonl", index)
        assert again.identical
        assert again.prompt.recipe == prompt.recipe
