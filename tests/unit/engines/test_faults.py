"""What a run survives: faults of networks and servers, over real sockets and with real processes that are killed."""

from __future__ import annotations

import itertools
import json
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from embedspace.engines import Prompt, Sampling, VLLMClient
from embedspace.errors import EngineError, EngineOverloadedError, EngineUnreachableError
from embedspace.prompt import PromptEmbeds, Recipe, encode_prompt_embeds
from embedspace.runs.cases import Case
from embedspace.runs.execution import RunSummary, execute
from embedspace.runs.records import read_records
from embedspace.runs.run import Run
from experiments.reliability.fault_proxy import FAULTS, Fault, FaultProxy
from experiments.reliability.small_server import SmallServer, right_answer
from tests.fake_vllm import MAX_WAIT, FakeVLLM, Reply, Request, choices, events, refusal, reply

GREEDY = Sampling(max_tokens=4)


def embedded(mark: int) -> PromptEmbeds:
    recipe = Recipe.of("test", {"mark": mark})
    return PromptEmbeds(torch.full((2, 4), float(mark)), torch.ones(2, dtype=torch.bool), "space", recipe)


def numbered(count: int) -> list[Case]:
    """Cases of both kinds of prompt."""
    return [
        Case(f"case {number}", embedded(number) if number % 4 else [number, 7]) for number in range(count)
    ]


def right(cases: Sequence[Case]) -> dict[str, str]:
    """What the small server says to each case."""
    return {
        case.key: right_answer(
            encode_prompt_embeds(case.prompt) if isinstance(case.prompt, PromptEmbeds) else list(case.prompt)
        )
        + ".0"
        for case in cases
    }


def asked(folder: Path, cases: Sequence[Case], client: VLLMClient) -> RunSummary:
    with Run.open(folder, {}, fingerprint="space") as run:
        return execute(run, lambda: client, cases, GREEDY, title="test")


def recorded(folder: Path) -> list[tuple[str, str]]:
    return [(record.key, record.text) for record in read_records(folder / "records.jsonl")]


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with SmallServer() as small:
        yield small


def test_a_thousand_prompts_through_every_fault_end_as_one_right_record_each(
    server: SmallServer, tmp_path: Path
) -> None:
    cases = numbered(1000)
    rare = {"refused connections": 2, "server killed": 2, "hang": 4}
    faults: dict[Fault, int] = {fault: rare.get(fault, 6) for fault in FAULTS}

    with FaultProxy(server.url, faults, length=400, restart=server.restart) as proxy:
        client = VLLMClient(
            proxy.url, timeout=10, max_retries=30, patience=300, prompts_per_request=2, max_concurrency=16
        )
        outcome = asked(tmp_path, cases, client)
    assert recorded(tmp_path) == list(right(cases).items())
    assert (outcome.recorded, outcome.failed) == (1000, 0)
    assert proxy.made == faults
    met = outcome.retries
    assert (met["429"], met["500"], met["unreadable"]) == (12, 6, 6)
    assert met["broken off"] >= 6 + 6 + 2 + 2  # resets, half responses, and what refusals and kills cut off
    assert met["timed out"] >= 4
    (sitting,) = json.loads((tmp_path / "run.json").read_text())["sittings"]
    assert sitting["retries"] == met


def test_a_server_that_is_started_again_in_time_is_waited_for(server: SmallServer) -> None:
    again = threading.Timer(0.6, server.start)

    def prompts() -> Iterator[list[int]]:
        for number in range(200):
            if number == 100:
                server.kill()
                again.start()
            yield [number]

    with VLLMClient(server.url, prompts_per_request=2, patience=300) as client:
        answers = [completion.text for completion in client.generate(prompts(), GREEDY)]
        assert (
            sum(client.retries.values()) <= 4
        )  # waiting is no attempt: what was under way, and nothing else
    again.join()
    assert answers == [f"{right_answer([number])}.0" for number in range(200)]


def test_a_server_that_stays_away_ends_the_run_which_goes_on_when_it_is_back(
    server: SmallServer, tmp_path: Path
) -> None:
    cases = numbered(300)

    def dying() -> Prompt:
        server.kill()
        return cases[150].prompt

    fatal = [*cases[:150], replace(cases[150], source=dying), *cases[151:]]
    client = VLLMClient(server.url, prompts_per_request=1, patience=0.3)
    with (
        pytest.raises(EngineUnreachableError, match=r"none of .* came back.*patience"),
        Run.open(tmp_path, {}, fingerprint="space") as run,
    ):
        execute(run, lambda: client, fatal, GREEDY, title="test")
    assert 0 < len(recorded(tmp_path)) < 300
    assert "retries" in json.loads((tmp_path / "run.json").read_text())["sittings"][0]
    server.start()
    asked(tmp_path, cases, VLLMClient(server.url))
    assert dict(recorded(tmp_path)) == right(cases)
    assert len(recorded(tmp_path)) == 300


def test_a_server_that_comes_back_with_another_length_is_not_asked_again(server: SmallServer) -> None:
    def come_back_with_another_length() -> None:
        server.max_model_len = 99
        server.restart()

    proxy = FaultProxy(server.url, {"server killed": 1}, length=1, restart=come_back_with_another_length)
    # The server is back before the client notices that it was killed, so the very first probe meets the other length.
    with proxy, VLLMClient(proxy.url, patience=0) as client:
        assert client.info.max_model_len == server.max_model_len
        with pytest.raises(EngineUnreachableError, match="max_model_len 99"):
            list(client.generate([[1]], GREEDY))
        assert client.retries == {"broken off": 1}
        assert server.answered() == 0


def test_no_retries_means_that_the_first_failure_ends_it(server: SmallServer) -> None:
    with VLLMClient(server.url, max_retries=0) as client:
        assert client.info.model == server.model
        server.kill()
        with pytest.raises(EngineUnreachableError, match="cannot be reached"):
            list(client.generate([[1]], GREEDY))
        assert client.retries == {}


def test_an_answer_that_is_no_completion_is_asked_for_again_and_counted() -> None:
    with FakeVLLM() as fake, VLLMClient(fake.url) as client:
        fake.scripted.append(Reply(200, b"<html>busy</html>", {"content-type": "text/html"}))
        fake.scripted.append(reply({"choices": []}))
        assert [completion.text for completion in client.generate([[1]], GREEDY)] == ["1.0"]
        assert client.retries == {"unreadable": 2}
        assert [request.body for request in fake.requests] == [fake.requests[0].body] * 3


def test_a_pause_that_is_asked_for_is_kept_and_one_too_long_is_a_refusal() -> None:
    with FakeVLLM() as fake, VLLMClient(fake.url) as client:
        fake.scripted.append(refusal(429, "later", retry_after="1"))
        began = time.monotonic()
        assert [completion.text for completion in client.generate([[1]], GREEDY)] == ["1.0"]
        assert time.monotonic() - began >= 1
        fake.scripted.append(refusal(429, "tomorrow", retry_after="86400"))
        with pytest.raises(EngineOverloadedError, match="tomorrow"):
            list(client.generate([[1]], GREEDY))


def test_a_stream_is_asked_for_again_until_its_first_piece() -> None:
    piece = {"choices": [{"index": 0, "text": "Paris", "finish_reason": "stop"}]}
    with FakeVLLM() as fake, VLLMClient(fake.url) as client:
        fake.scripted += [refusal(429, "later", retry_after_ms="5"), events(piece)]
        assert list(client.stream([1], GREEDY)) == ["Paris"]


def test_load_goes_to_all_servers_each_up_to_its_limit() -> None:
    everywhere = threading.Barrier(4)

    def respond(request: Request) -> Reply:
        if request.body["prompt"][0][0] < 8:
            everywhere.wait(MAX_WAIT)  # passes when both servers have two requests each
        return reply({"choices": choices(request)})

    with FakeVLLM(respond) as one, FakeVLLM(respond) as two:
        with VLLMClient([one.url, two.url], prompts_per_request=1, max_concurrency=2) as client:
            prompts = [[number] for number in range(40)]
            answers = [completion.text for completion in client.generate(prompts, GREEDY)]
            assert client.info.url == f"{one.url}, {two.url}"
            assert client.describe()["url"] == client.info.url
        assert answers == [f"{number}.0" for number in range(40)]
        assert (one.most_at_once, two.most_at_once) == (2, 2)
        assert len(one.requests) + len(two.requests) == 40


def test_a_dead_server_is_taken_out_and_back_in() -> None:
    with SmallServer(0.005) as one, SmallServer(0.005) as two:
        deadline = time.monotonic() + 300
        stages: list[str] = []

        def prompts() -> Iterator[list[int]]:
            """Goes on until the server that was killed and started again has answered something."""
            for number in itertools.count():
                if number == 100:
                    two.kill()
                    stages.append("killed")
                if number == 300:
                    two.start()
                    stages.append("started again")
                if number > 300 and number % 50 == 0:
                    assert time.monotonic() < deadline, "it was never asked again"
                    if two.answered():
                        stages.append("asked again")
                        return
                yield [number]

        with VLLMClient([one.url, two.url], prompts_per_request=1, max_concurrency=2, patience=300) as client:
            answers = [completion.text for completion in client.generate(prompts(), GREEDY)]
            assert sum(client.retries.values()) <= 4
        assert stages == ["killed", "started again", "asked again"]
        assert answers == [f"{right_answer([number])}.0" for number in range(len(answers))]


def test_check_asks_every_server() -> None:
    probed = reply({"choices": [{}]})
    with FakeVLLM(lambda _: probed) as one, FakeVLLM(lambda _: probed) as two:
        with VLLMClient([one.url, two.url]) as client:
            client.check(hidden_size=4)
        assert (len(one.requests), len(two.requests)) == (1, 1)


@pytest.mark.parametrize("other", [{"model": "other-model"}, {"max_model_len": 512}])
def test_servers_that_are_not_alike_are_refused(server: SmallServer, other: dict[str, object]) -> None:
    with SmallServer(**other) as different, VLLMClient([server.url, different.url]) as client:  # type: ignore[arg-type]
        with pytest.raises(EngineError, match="must not be mixed") as refused:
            client.check()
        assert server.url in str(refused.value)
        assert different.url in str(refused.value)
        assert str(*other.values()) in str(refused.value)


def test_a_wrong_address_among_right_ones_is_named(server: SmallServer) -> None:
    with (
        VLLMClient([server.url, "http://127.0.0.1:9"], max_retries=0) as client,
        pytest.raises(EngineUnreachableError, match=r"http://127\.0\.0\.1:9 cannot be reached"),
    ):
        list(client.generate([[1]], GREEDY))


@pytest.mark.parametrize(
    ("urls", "said"),
    [
        ([], "the list of urls is empty"),
        (["http://a:1", "http://b:1", "http://a:1/v1/"], "http://a:1 is given more than once"),
        (["http://a:1", "b:1"], "'b:1'; it must be an address"),
    ],
)
def test_lists_of_addresses_that_cannot_be_right_are_refused(urls: list[str], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VLLMClient(urls)


def test_patience_below_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="patience is -1"):
        VLLMClient("http://a:1", patience=-1)


class Living:
    """Counts the prompts that are alive."""

    def __init__(self) -> None:
        self.now = self.most = 0

    def watch(self, prompt: PromptEmbeds) -> PromptEmbeds:
        self.now += 1
        self.most = max(self.most, self.now)
        weakref.finalize(prompt, self._gone)
        return prompt

    def _gone(self) -> None:
        self.now -= 1


def test_however_many_prompts_go_through_few_are_alive_at_once(server: SmallServer) -> None:
    living = Living()
    with VLLMClient(server.url, prompts_per_request=8, max_concurrency=2) as client:
        prompts = (living.watch(embedded(number)) for number in range(3000))
        count = sum(1 for _ in client.generate(prompts, GREEDY))
    assert count == 3000
    assert living.most <= 8 * (2 * 2 + 2)


def test_embedding_many_texts_keeps_few_prompts_alive(smollm2) -> None:
    living = Living()
    texts = (f"text number {number}" for number in range(3000))
    for prompt in smollm2.embed_many(texts, batch_size=64):
        living.watch(prompt)
    assert living.most <= 2 * 64


def test_the_proxy_makes_each_fault_as_often_as_it_was_told(server: SmallServer) -> None:
    faults: dict[Fault, int] = {"500": 3, "429": 2}
    with FaultProxy(server.url, faults, length=10) as proxy:
        with VLLMClient(proxy.url, prompts_per_request=1, max_retries=20) as client:
            list(client.generate([[number] for number in range(20)], GREEDY))
            assert Counter(client.retries) == Counter(faults)
        assert proxy.made == faults
