"""Runs: resumed without loss, refused when they changed, and stopped with a message that helps."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
import weakref
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe
from embedspace._util.progress import _Count
from embedspace.engines import Completion, Sampling
from embedspace.engines.base import Prompt
from embedspace.errors import EngineResponseError, EngineUnreachableError
from embedspace.runs.cases import AnswerOf, Case
from embedspace.runs.execution import RunSummary, execute
from embedspace.runs.records import Record, read_records
from embedspace.runs.run import UNIMPORTANT, Run

ROOT = Path(__file__).parents[3]
GREEDY = Sampling(max_tokens=4)
CONFIG: dict[str, Any] = {"questions": ["one", "two"], "sampling": {"seed": 7, "max_tokens": 4}, "out": "a"}


class SumEngine:
    """Answers a prompt of token ids with their sum, ``batch`` prompts at a time; 13 cannot be answered."""

    def __init__(
        self, *, batch: int = 2, stop_after: int | None = None, trouble: type[BaseException] | None = None
    ):
        self.batch, self.stop_after, self.trouble = batch, stop_after, trouble
        self.closed = False
        self.asked: list[Prompt] = []

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        waiting = iter(enumerate(prompts))
        while batch := list(itertools.islice(waiting, self.batch)):
            for index, prompt in batch:
                if self.trouble is not None and len(self.asked) == self.stop_after:
                    raise self.trouble("the engine stopped")
                self.asked.append(prompt)
                if 13 in prompt:
                    yield Completion.failed(index, "13 is not answered")
                    continue
                for choice in range(sampling.n):
                    yield Completion(index, choice, f"{sum(prompt)} {choice}", (sum(prompt),), "stop", 0.1)

    def describe(self) -> dict[str, str]:
        return {"engine": "sum"}

    def close(self) -> None:
        self.closed = True


class ScoringEngine(SumEngine):
    """Finds a continuation the likelier the shorter it is, and no prompt with an 11 fit to be scored."""

    def score_all(
        self, asked: Sequence[tuple[Prompt, Sequence[str | Sequence[int]]]]
    ) -> list[list[torch.Tensor]]:
        if any(11 in prompt for prompt, _ in asked):
            raise ValueError("11 is not scored")
        return [[-torch.ones(len(said)) for said in continuations] for _, continuations in asked]


def numbered(count: int, **tags: int) -> list[Case]:
    return [Case(f"case {number}", [number, 1], {"number": number, **tags}) for number in range(count)]


def opened(folder: Path, config: dict[str, Any] | None = None, **options: Any) -> Run:
    return Run.open(folder, CONFIG if config is None else config, fingerprint="abc", **options)


def asked(
    folder: Path, cases: Sequence[Case], engine: SumEngine | None = None, sampling: Sampling = GREEDY
) -> RunSummary:
    with opened(folder) as run:
        return execute(run, lambda: engine or SumEngine(), cases, sampling, title="test")


def final(folder: Path) -> list[Record]:
    return list(read_records(folder / "records.jsonl"))


def test_a_new_run_says_where_its_results_come_from(tmp_path: Path) -> None:
    asked(tmp_path, numbered(2))
    manifest = json.loads((tmp_path / "run.json").read_text())
    assert manifest["config"] == CONFIG
    assert manifest["fingerprint"] == "abc"
    assert manifest["seeds"] == {"sampling.seed": 7}
    (sitting,) = manifest["sittings"]
    assert sitting["started"] <= sitting["finished"]
    assert sitting["engine"] == {"engine": "sum"}
    assert {"command", "python", "packages", "git", "machine"} <= sitting.keys()


def test_the_same_run_goes_on_and_asks_only_what_is_missing(tmp_path: Path) -> None:
    asked(tmp_path, numbered(3))
    engine = SumEngine()
    assert asked(tmp_path, numbered(5), engine).recorded == 2
    assert engine.asked == [[3, 1], [4, 1]]
    assert engine.closed
    assert [record.key for record in final(tmp_path)] == [f"case {number}" for number in range(5)]


def test_a_finished_run_starts_no_engine(tmp_path: Path) -> None:
    asked(tmp_path, numbered(3))
    with opened(tmp_path) as run:
        outcome = execute(run, lambda: pytest.fail("started"), numbered(3), GREEDY, title="test")
    assert outcome == RunSummary(cases=3, recorded=0, failed=0, skipped=0)


def test_another_configuration_is_refused_and_each_change_named(tmp_path: Path) -> None:
    asked(tmp_path, numbered(1))
    changed = {"questions": ["one", "2"], "sampling": {"seed": 7, "top_p": 0.5}, "out": "b"}
    with pytest.raises(ValueError, match="holds a run with another configuration") as refusal:
        opened(tmp_path, changed, ignored=["out"])
    lines = str(refusal.value).splitlines()
    assert lines[1:4] == [
        "  questions.1: 'two' -> '2'",
        "  sampling.max_tokens: 4 -> (absent)",
        "  sampling.top_p: (absent) -> 0.5",
    ]
    assert "out=FOLDER" in lines[-1]
    assert "fresh=true" in lines[-1]
    assert json.loads((tmp_path / "run.json").read_text())["config"] == CONFIG


def test_a_run_that_failed_before_its_first_record_does_not_refuse_a_corrected_configuration(
    tmp_path: Path,
) -> None:
    with pytest.raises(EngineUnreachableError):
        asked(tmp_path, numbered(2), SumEngine(stop_after=0, trouble=EngineUnreachableError))
    changed = CONFIG | {"questions": ["one", "2"]}
    with opened(tmp_path, changed) as run:
        assert run.manifest["config"] == changed
        assert len(run.manifest["sittings"]) == 1


def test_keys_that_do_not_count_may_change(tmp_path: Path) -> None:
    opened(tmp_path).close()
    with opened(tmp_path, CONFIG | {"out": "b"}, ignored=["out"]) as run:
        assert run.manifest["config"]["out"] == "b"


def test_a_run_of_a_version_that_knew_no_size_goes_on(tmp_path: Path) -> None:
    opened(tmp_path, CONFIG, ignored=UNIMPORTANT).close()
    with opened(tmp_path, CONFIG | {"size": "full", "asked": None}, ignored=UNIMPORTANT) as run:
        assert len(run.manifest["sittings"]) == 2


def test_parts_of_keys_that_do_not_count_may_change(tmp_path: Path) -> None:
    opened(tmp_path, {"engine": {"url": "http://a", "model": "m"}}).close()
    several = {"engine": {"url": ["http://a", "http://b"], "model": "m"}}
    with opened(tmp_path, several, ignored=["engine.url"]) as run:
        execute(run, SumEngine, numbered(1), GREEDY, title="test")
    with pytest.raises(ValueError, match=r"engine\.model: 'm' -> 'n'"):
        opened(tmp_path, {"engine": {"url": "http://c", "model": "n"}}, ignored=["engine.url"])


class TroubledEngine(SumEngine):
    """Says that it had to send some requests again."""

    retries = {"429": 2, "broken off": 1}  # noqa: RUF012


def test_a_run_says_what_was_sent_again_also_where_its_engine_failed(tmp_path: Path) -> None:
    failing = TroubledEngine(stop_after=2, trouble=EngineUnreachableError)
    with pytest.raises(EngineUnreachableError):
        asked(tmp_path, numbered(5), failing)
    assert asked(tmp_path, numbered(5), TroubledEngine()).retries == TroubledEngine.retries
    sittings = json.loads((tmp_path / "run.json").read_text())["sittings"]
    assert [sitting["retries"] for sitting in sittings] == [TroubledEngine.retries] * 2


def test_another_model_is_refused(tmp_path: Path) -> None:
    asked(tmp_path, numbered(1))
    with pytest.raises(ValueError, match="model fingerprint: 'abc' -> 'xyz'"):
        Run.open(tmp_path, CONFIG, fingerprint="xyz")


def test_a_refused_run_leaves_the_folder_free(tmp_path: Path) -> None:
    asked(tmp_path, numbered(1))
    with pytest.raises(ValueError, match="another configuration"):
        opened(tmp_path, {})
    opened(tmp_path).close()


def test_fresh_throws_away_what_the_folder_holds(tmp_path: Path) -> None:
    asked(tmp_path, numbered(3))
    (tmp_path / "own.txt").write_text("stays")
    with opened(tmp_path, {"other": 1}, fresh=True) as run:
        assert list(run.records()) == []
    assert (tmp_path / "own.txt").exists()


def test_other_prompts_under_recorded_keys_are_refused(tmp_path: Path) -> None:
    asked(tmp_path, numbered(2))
    for cases in ([Case("case 0", [9]), *numbered(2)[1:]], numbered(1)):
        with pytest.raises(ValueError, match="records of other prompts"):
            asked(tmp_path, cases)


def test_two_processes_cannot_write_one_run(tmp_path: Path) -> None:
    code = "import sys; from embedspace.runs import Run; run = Run.open(sys.argv[1], {}, fingerprint='abc')\n"
    code += "print('open', flush=True); sys.stdin.read()"
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    )
    assert other.stdin is not None
    assert other.stdout is not None
    try:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(ValueError, match=f"another process is writing the run in {tmp_path}"):
            Run.open(tmp_path, {}, fingerprint="abc")
        other.kill()
        other.wait(30)
        Run.open(tmp_path, {}, fingerprint="abc").close()
    finally:
        other.kill()
        other.stdin.close()
        other.stdout.close()
        other.wait(30)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"cannot write the run folder .*file/run .*out=FOLDER"):
        opened(tmp_path / "file" / "run")


def test_a_damaged_manifest_is_named(tmp_path: Path) -> None:
    asked(tmp_path, numbered(1))
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ValueError, match=r"run\.json is damaged.*fresh=true"):
        opened(tmp_path)
    (tmp_path / "run.json").unlink()
    with pytest.raises(ValueError, match=r"holds records but no run\.json"):
        opened(tmp_path)


def test_one_bad_prompt_fails_alone_and_is_tried_again(tmp_path: Path) -> None:
    cases = [Case(f"case {number}", [number]) for number in (12, 13, 14)]
    outcome = asked(tmp_path, cases)
    assert (outcome.recorded, outcome.failed) == (3, 1)
    assert [record.error for record in final(tmp_path)] == [None, "13 is not answered", None]
    engine = SumEngine()
    assert asked(tmp_path, cases, engine).failed == 1
    assert engine.asked == [[13]]
    assert sorted(record.key for record in final(tmp_path)) == ["case 12", "case 13", "case 14"]


@given(st.data())
def test_a_run_stopped_anywhere_any_number_of_times_ends_with_the_same_records(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    folder = tmp_path_factory.mktemp("run")
    sampling = Sampling(n=data.draw(st.integers(1, 3)), temperature=1.0)
    trouble = data.draw(st.sampled_from([KeyboardInterrupt, EngineUnreachableError]))
    cases, batch = numbered(6), data.draw(st.integers(1, 4))
    for stop in data.draw(st.lists(st.integers(0, 5), max_size=3)):
        engine = SumEngine(batch=batch, stop_after=stop, trouble=trouble)
        try:
            asked(folder, cases, engine, sampling)
        except trouble:
            assert engine.closed
    asked(folder, cases, None, sampling)
    reported = [(record.key, record.choice, record.text) for record in final(folder)]
    assert reported == [
        (f"case {number}", choice, f"{number + 1} {choice}")
        for number in range(6)
        for choice in range(sampling.n)
    ]


def test_likelihoods_of_given_texts_and_of_earlier_answers_are_recorded(tmp_path: Path) -> None:
    cases = [
        Case("first", [2, 3]),
        Case("second", [4], continuations={"text": "four", "earlier": AnswerOf("first")}),
        Case("third", [5], continuations={"text": "fi"}, answered=False),
    ]
    asked(tmp_path, cases[:1], ScoringEngine())
    asked(tmp_path, cases, ScoringEngine())
    first, second, third = final(tmp_path)
    assert first.scores == {}
    assert {name: score.tokens for name, score in second.scores.items()} == {"text": 4, "earlier": 1}
    assert second.scores["text"].logprob == -4
    assert second.scores["text"].per_token == -1
    assert (third.text, third.finish_reason, third.scores["text"].tokens) == ("", "scored", 2)


def test_a_prompt_that_cannot_be_scored_fails_alone(tmp_path: Path) -> None:
    cases = [Case(f"case {number}", [number], continuations={"a": "b"}) for number in (10, 11, 12)]
    assert asked(tmp_path, cases, ScoringEngine()).failed == 1
    assert [record.error is None for record in final(tmp_path)] == [True, False, True]
    assert "11 is not scored" in str(final(tmp_path)[1].error)


def test_an_answer_that_is_missing_is_the_error_of_what_refers_to_it(tmp_path: Path) -> None:
    cases = [Case("first", [13]), Case("second", [4], continuations={"earlier": AnswerOf("first")})]
    assert asked(tmp_path, cases, ScoringEngine()).failed == 2
    assert "'first' is missing" in str(final(tmp_path)[1].error)


def test_an_engine_that_cannot_score_skips_what_asks_for_likelihoods_alone(tmp_path: Path) -> None:
    cases = [
        Case("first", [1], continuations={"a": "b"}),
        Case("second", [2], continuations={"a": "b"}, answered=False),
    ]
    assert asked(tmp_path, cases) == RunSummary(cases=2, recorded=1, failed=0, skipped=1)
    assert [record.key for record in final(tmp_path)] == ["first"]
    with opened(tmp_path) as run:
        outcome = execute(run, lambda: pytest.fail("started"), cases, GREEDY, title="test")
    assert outcome == RunSummary(cases=2, recorded=0, failed=0, skipped=1)


def test_cases_of_one_name_or_with_answers_still_to_come_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="two cases have the key 'case 0'"):
        asked(tmp_path, numbered(1) * 2)
    with pytest.raises(ValueError, match="later or unknown cases"):
        asked(tmp_path, [Case("first", [1], continuations={"a": AnswerOf("second")}), Case("second", [1])])


class ForgetfulEngine(SumEngine):
    """Leaves the last prompt without an answer."""

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        answers = list(super().generate(prompts, sampling))
        yield from answers[:-1]


def test_a_prompt_that_the_engine_forgets_is_not_passed_over(tmp_path: Path) -> None:
    with pytest.raises(EngineResponseError, match="no full answer to 1 of 3 prompts"):
        asked(tmp_path, numbered(3), ForgetfulEngine())
    assert [record.key for record in final(tmp_path)] == ["case 0", "case 1"]


FULL_DISK = """
import resource, sys
from tests.unit.runs.test_runs import asked, numbered
from pathlib import Path
resource.setrlimit(resource.RLIMIT_FSIZE, (12000, 12000))
try:
    asked(Path(sys.argv[1]), numbered(200))
except OSError as error:
    print(error)
"""


def test_a_full_disk_in_the_middle_of_a_run_leaves_one_that_goes_on(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(tmp_path)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=300,
    )
    assert "records.jsonl (File too large)" in done.stdout, done.stdout + done.stderr
    assert "make room" in done.stdout
    before = {record.key for record in final(tmp_path)}
    assert 0 < len(before) < 200
    asked(tmp_path, numbered(200))
    assert sorted(record.key for record in final(tmp_path)) == sorted(case.key for case in numbered(200))


def test_progress_is_told_where_there_is_no_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked(tmp_path, numbered(3))
    reported = capsys.readouterr().err
    assert "test: 0 of 3" in reported
    assert "test: 3 of 3" in reported


def test_before_it_starts_a_run_says_how_many_cases_it_has_and_how_to_ask_less(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [Case(f"c{n}", [n]) for n in range(3)]
    lines = {
        2: "sums: 2 cases, 2 to be answered; try size=small\n",
        3: "sums: 3 cases, 2 of them recorded before, 1 to be answered; try size=small\n",
    }
    for known, line in lines.items():
        with opened(tmp_path) as run:
            execute(run, SumEngine, cases[:known], GREEDY, title="sums", hint="try size=small")
        assert capsys.readouterr().err.startswith(line)


@pytest.mark.parametrize(
    ("times", "said"),
    [
        # Batches of three that take a minute: the first of the second tells of those before, which came at once.
        ([60, 60.01, 60.02, 120, 120.01], {120: "about 18 min more, judging by the first 3"}),
        ([20, 40, 60], {40: "about 19 min more, judging by the first one"}),
        ([number / 5 for number in range(1, 100)], {15.4: "about 0 s more, judging by the first 76"}),
        ([0.1, 0.2, 4.0], {}),
    ],
)
def test_the_first_answers_say_once_how_long_all_take(
    monkeypatch: pytest.MonkeyPatch, times: list[float], said: dict[float, str]
) -> None:
    now = [0.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    count = _Count(total=60 if len(times) < 50 else 76, done=0)
    spoken = {}
    for at in times:
        now[0] = at
        if forecast := count.advance():
            spoken[at] = forecast
    assert spoken == said


def test_a_timed_case_is_asked_alone_for_one_token_and_its_record_says_so(tmp_path: Path) -> None:
    class Watched(SumEngine):
        def __init__(self) -> None:
            super().__init__(batch=8)
            self.calls: list[tuple[int, Sampling]] = []

        def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
            together = list(prompts)
            self.calls.append((len(together), sampling))
            return super().generate(together, sampling)

    engine = Watched()
    cases = [Case(f"t{n}", [n, 1], timed=True) for n in range(2)] + [Case(f"a{n}", [n, 2]) for n in range(3)]
    several = Sampling(max_tokens=4, temperature=1.0, n=2)
    for _ in range(2):  # the second finds all of it recorded
        with Run.open(tmp_path, CONFIG, fingerprint="f") as run:
            outcome = execute(run, lambda: engine, cases, several, title="t")
            assert outcome.cases == 5
    assert [(count, sampling.max_tokens, sampling.n) for count, sampling in engine.calls] == [
        (1, 1, 1), (1, 1, 1), (3, 4, 2),
    ]  # fmt: skip
    recorded = {(r.key, r.choice): r.sampling.max_tokens for r in read_records(tmp_path / "records.jsonl")}
    assert recorded == {("t0", 0): 1, ("t1", 0): 1} | {(f"a{n}", c): 4 for n in range(3) for c in range(2)}


def test_each_prompt_is_made_once_and_only_where_it_is_needed(tmp_path: Path) -> None:
    made: list[int] = []
    held: list[weakref.ref[PromptEmbeds]] = []

    def source(number: int) -> PromptEmbeds:
        made.append(number)
        prompt = PromptEmbeds(
            torch.full((1, 2), float(number)), torch.tensor([True]), "abc", Recipe.of("n", {"n": number})
        )
        held.append(weakref.ref(prompt))
        return prompt

    class Counting(SumEngine):
        def __init__(self, limit: int) -> None:
            super().__init__(batch=1)
            self.limit = limit

        def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
            for index, prompt in enumerate(prompts):
                if index == self.limit:
                    raise EngineUnreachableError("the engine stopped")
                assert sum(ref() is not None for ref in held) <= 3  # asked, being recorded, just made
                yield Completion(index, 0, str(float(prompt.vectors.sum())), (), "stop", 0.1)  # type: ignore[union-attr]

    def cases(count: int) -> Iterator[Case]:
        return (Case(f"case {number}", partial(source, number)) for number in range(count))

    with pytest.raises(ValueError, match="two cases"), opened(tmp_path) as run:
        execute(run, SumEngine, itertools.chain(cases(3), cases(1)), GREEDY, title="test")
    assert made == []
    with pytest.raises(EngineUnreachableError), opened(tmp_path) as run:
        execute(run, lambda: Counting(4), cases(8), GREEDY, title="test")
    assert made == [0, 1, 2, 3, 4]
    made.clear()
    with opened(tmp_path) as run:
        execute(run, lambda: Counting(8), cases(8), GREEDY, title="test")
    assert made == [*range(8)]  # 0 to 3 to compare their recipes with the records, the others to be asked


def test_what_is_measured_of_a_prompt_is_among_its_tags(tmp_path: Path) -> None:
    cases = [Case("a", lambda: [1, 2], {"way": "own"}, measured=lambda prompt: {"rows": len(prompt)})]
    asked(tmp_path, cases)
    assert final(tmp_path)[0].tags == {"way": "own", "rows": 2}
