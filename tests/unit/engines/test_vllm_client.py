"""Claims about the vLLM client, each over a real socket."""

from __future__ import annotations

import itertools
import logging
import os
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch

from embedspace.engines.base import Prompt, Sampling
from embedspace.engines.vllm.client import VLLMClient
from embedspace.errors import (
    EngineError,
    EngineOverloadedError,
    EngineResponseError,
    EngineUnreachableError,
    ModelNotServedError,
    PromptEmbedsDisabledError,
    PromptRefusedError,
    PromptRejectedError,
)
from embedspace.prompt import PromptEmbeds, Recipe, decode_prompt_embeds, wire
from embedspace.safety import Verdict
from tests.fake_vllm import (
    HIDDEN_SIZE,
    MAX_MODEL_LEN,
    MAX_WAIT,
    MODEL,
    FakeVLLM,
    Reply,
    Request,
    choices,
    events,
    marks,
    refusal,
    reply,
)

GREEDY = Sampling(max_tokens=4)
KEY = "sk-most-secret"


def embedded(mark: int, rows: int = 2, hidden_size: int = HIDDEN_SIZE) -> PromptEmbeds:
    """A prompt that the fake server tells from others by its mark."""
    vectors = torch.full((rows, hidden_size), float(mark))
    return PromptEmbeds(vectors, torch.ones(rows, dtype=torch.bool), "space", Recipe("test"))


@pytest.fixture
def fake() -> Iterator[FakeVLLM]:
    with FakeVLLM() as server:
        yield server


Connect = Callable[..., VLLMClient]


@pytest.fixture
def connect(fake: FakeVLLM) -> Iterator[Connect]:
    """Makes clients of the fake server, without retries unless asked for, and closes them."""
    clients: list[VLLMClient] = []

    def make(url: str | None = None, *, max_retries: int = 0, **options: object) -> VLLMClient:
        clients.append(VLLMClient(url or fake.url, max_retries=max_retries, **options))  # type: ignore[arg-type]
        return clients[-1]

    yield make
    for client in clients:
        client.close()


def texts(client: VLLMClient, prompts: list[Prompt], sampling: Sampling = GREEDY) -> list[str]:
    return [completion.error or completion.text for completion in client.generate(prompts, sampling)]


def test_no_text_prompt_is_sent_beside_embeddings(fake: FakeVLLM, connect: Connect) -> None:
    assert texts(connect(), [embedded(1), embedded(2)]) == ["1.0", "2.0"]
    (request,) = fake.requests
    assert request.path == "/v1/completions"
    assert "prompt" not in request.body
    assert len(request.body["prompt_embeds"]) == 2


def test_a_request_holds_prompts_of_one_kind(fake: FakeVLLM, connect: Connect) -> None:
    prompts: list[Prompt] = [embedded(1), [2, 9], [3], embedded(4)]
    assert texts(connect(), prompts) == ["1.0", "2.0", "3.0", "4.0"]
    kinds = sorted((len(r.body.get("prompt_embeds", [])), r.body.get("prompt")) for r in fake.requests)
    assert [kind for kind in kinds if kind[0]] == [(1, None), (1, None)]
    assert [kind for kind in kinds if not kind[0]] == [(0, [[2, 9], [3]])]


def test_every_field_of_sampling_reaches_the_server(fake: FakeVLLM, connect: Connect) -> None:
    def respond(request: Request) -> Reply:
        scores = {"token_logprobs": [-0.5], "top_logprobs": [{"rare": -9.0, "a": -0.5, "b": -1.5}]}
        return reply({"choices": [{**choice, "logprobs": scores} for choice in choices(request)]})

    fake.respond = respond
    sampling = Sampling(max_tokens=3, temperature=0.7, top_p=0.9, n=2, seed=11, stop=("x", "y"), logprobs=2)
    first, second = connect().generate([embedded(1)], sampling)
    sent = fake.requests[0].body
    expected = {"max_tokens": 3, "temperature": 0.7, "top_p": 0.9, "n": 2, "seed": 11, "stop": ["x", "y"]}
    assert {name: sent[name] for name in expected} == expected
    assert (sent["logprobs"], sent["return_token_ids"], sent["model"]) == (2, True, MODEL)
    assert (first.index, second.index) == (0, 1)
    assert (first.logprobs, first.top_logprobs, first.token_ids) == ((-0.5,), ({"a": -0.5, "b": -1.5},), (1,))


def test_what_sampling_leaves_open_is_not_left_to_the_models_defaults(
    fake: FakeVLLM, connect: Connect
) -> None:
    texts(connect(), [embedded(1)])
    sent = fake.requests[0].body
    assert (sent["top_k"], sent["min_p"], sent["repetition_penalty"]) == (-1, 0.0, 1.0)


def test_the_payload_keeps_the_prompts_dtype_unless_another_is_asked_for(
    fake: FakeVLLM, connect: Connect
) -> None:
    prompt = embedded(1).to(torch.bfloat16)
    texts(connect(), [prompt])
    texts(connect(dtype=torch.float32), [prompt])
    sent = [decode_prompt_embeds(request.body["prompt_embeds"][0]).dtype for request in fake.requests]
    assert sent == [torch.bfloat16, torch.float32]


def test_choices_are_read_by_index_and_not_by_position(fake: FakeVLLM, connect: Connect) -> None:
    fake.respond = lambda request: reply({"choices": choices(request)[::-1]})
    sampling = Sampling(max_tokens=4, n=2, temperature=1.0)
    completions = list(connect().generate([embedded(5), embedded(6)], sampling))
    assert [(c.prompt_index, c.index, c.text) for c in completions] == [
        (0, 0, "5.0"),
        (0, 1, "5.1"),
        (1, 0, "6.0"),
        (1, 1, "6.1"),
    ]


def test_completions_come_in_prompt_order_though_later_requests_finish_first(
    fake: FakeVLLM, connect: Connect
) -> None:
    others_are_done = threading.Event()

    def respond(request: Request) -> Reply:
        answer = reply({"choices": choices(request)})
        if marks(request) == [3]:
            others_are_done.set()
        return Reply(body=answer.body, after=others_are_done) if marks(request) == [0] else answer

    fake.respond = respond
    client = connect(prompts_per_request=1, max_concurrency=2)
    assert texts(client, [embedded(mark) for mark in range(6)]) == [f"{mark}.0" for mark in range(6)]


def test_requests_under_way_and_prompts_read_ahead_are_bounded(fake: FakeVLLM, connect: Connect) -> None:
    together = threading.Barrier(3)
    read: list[int] = []

    def prompts() -> Iterator[PromptEmbeds]:
        for mark in itertools.count():
            read.append(mark)
            yield embedded(mark)

    def respond(request: Request) -> Reply:
        if marks(request)[0] < 6:
            together.wait(MAX_WAIT)  # passes when three requests are there at once, and not before
        return reply({"choices": choices(request)})

    fake.respond = respond
    answers = connect(prompts_per_request=2, max_concurrency=3).generate(prompts(), GREEDY)
    assert [next(answers).text for _ in range(20)] == [f"{mark}.0" for mark in range(20)]
    assert fake.most_at_once == 3
    assert len(read) <= 20 + 2 * 2 * 3
    answers.close()  # type: ignore[attr-defined]


def test_large_prompts_do_not_travel_together(fake: FakeVLLM, connect: Connect, monkeypatch) -> None:
    monkeypatch.setattr("embedspace.engines.vllm.client._MAX_REQUEST_BYTES", 5 * HIDDEN_SIZE * 4)
    texts(connect(), [embedded(mark, rows=rows) for mark, rows in enumerate([2, 3, 1, 9, 4])])
    assert sorted(len(request.body["prompt_embeds"]) for request in fake.requests) == [1, 1, 1, 2]


def test_prompts_that_cannot_be_right_fail_alone_and_are_not_sent(fake: FakeVLLM, connect: Connect) -> None:
    bad = embedded(2)
    bad.vectors[1, 2] = float("nan")
    prompts: list[Prompt] = [
        embedded(1),
        bad,
        embedded(3, hidden_size=HIDDEN_SIZE + 1),
        embedded(4, rows=MAX_MODEL_LEN),
        [],
        list(range(MAX_MODEL_LEN)),
        embedded(7, rows=MAX_MODEL_LEN - 1),
    ]
    answers = texts(connect(hidden_size=HIDDEN_SIZE), prompts)
    assert answers[0] == "1.0"
    assert "row 1" in answers[1]
    assert f"hidden size {HIDDEN_SIZE}" in answers[2]
    assert f"{MAX_MODEL_LEN} rows and at most {MAX_MODEL_LEN - 1}" in answers[3]
    assert "no token ids" in answers[4]
    assert f"{MAX_MODEL_LEN} tokens and at most {MAX_MODEL_LEN - 1}" in answers[5]
    assert answers[6] == "7.0"
    assert sum(len(marks(request)) for request in fake.requests) == 2


def test_a_prompt_that_overflows_in_the_dtype_of_the_wire_fails_alone(
    fake: FakeVLLM, connect: Connect
) -> None:
    first, large, last = texts(connect(dtype=torch.float16), [embedded(1), embedded(100_000), embedded(2)])
    assert (first, last) == ("1.0", "2.0")
    assert "infinity" in large
    assert sum(len(marks(request)) for request in fake.requests) == 2


def test_each_prompt_is_checked_once(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[torch.Tensor] = []
    check = wire.describe_nonfinite_rows
    monkeypatch.setattr(
        wire, "describe_nonfinite_rows", lambda vectors: checked.append(vectors) or check(vectors)
    )
    client = connect()
    prompts = [embedded(1), embedded(2)]
    assert list(client.generate(prompts, GREEDY))
    assert [any(vectors is prompt.vectors for vectors in checked) for prompt in prompts] == [True, True]
    assert sum(any(vectors is prompt.vectors for prompt in prompts) for vectors in checked) == 2


def test_a_prompt_of_text_is_a_callers_mistake(connect: Connect) -> None:
    with pytest.raises(TypeError, match="embed text first"):
        texts(connect(), ["What is the capital of France?"])  # type: ignore[list-item]


def test_one_prompt_that_the_server_refuses_fails_alone(fake: FakeVLLM, connect: Connect) -> None:
    def respond(request: Request) -> Reply:
        return refusal(400, "mark 5 is bad") if 5 in marks(request) else reply({"choices": choices(request)})

    fake.respond = respond
    completions = list(connect().generate([embedded(mark) for mark in range(9)], GREEDY))
    assert [c.prompt_index for c in completions] == list(range(9))
    assert [c.text for c in completions if c.error is None] == [f"{mark}.0" for mark in range(9) if mark != 5]
    (failed,) = [c for c in completions if c.error is not None]
    assert (failed.prompt_index, failed.finish_reason) == (5, "error")
    assert "answered 400: mark 5 is bad (prompt 5)" in failed.error


def test_a_server_without_the_flag_is_named_as_such(fake: FakeVLLM, connect: Connect) -> None:
    fake.respond = lambda request: refusal(
        400, "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
    )
    with pytest.raises(
        PromptEmbedsDisabledError, match=rf"{fake.url} was started without --enable-prompt-embeds"
    ):
        texts(connect(), [embedded(1), embedded(2)])


def test_a_model_that_is_not_served_is_answered_with_those_that_are(fake: FakeVLLM, connect: Connect) -> None:
    with pytest.raises(ModelNotServedError, match=f"does not serve 'other' but '{MODEL}'"):
        texts(connect(model="other"), [embedded(1)])
    fake.scripted.append(refusal(404, f"The model `{MODEL}` does not exist."))
    with pytest.raises(ModelNotServedError, match="does not exist"):
        texts(connect(), [embedded(1)])


def test_several_served_models_ask_for_a_choice(fake: FakeVLLM, connect: Connect) -> None:
    fake.models = ["one", "two"]
    with pytest.raises(EngineError, match="serves 'one', 'two'; say which"):
        texts(connect(), [embedded(1)])
    assert texts(connect(model="two"), [embedded(1)]) == ["1.0"]
    assert fake.requests[-1].body["model"] == "two"


@pytest.mark.parametrize("headers", [{}, {"retry_after_ms": "20"}])
@pytest.mark.parametrize("status", [429, 503, 500])
def test_a_request_is_sent_again_after_a_passing_refusal(
    fake: FakeVLLM, connect: Connect, status: int, headers: dict[str, str]
) -> None:
    fake.scripted.append(refusal(status, "later", **headers))
    assert texts(connect(max_retries=1), [embedded(1)]) == ["1.0"]
    assert [marks(request) for request in fake.requests] == [[1], [1]]


@pytest.mark.parametrize("status", [429, 503])
def test_a_server_that_stays_overloaded_is_an_error(fake: FakeVLLM, connect: Connect, status: int) -> None:
    fake.respond = lambda request: refusal(status, "queue is full", retry_after_ms="5")
    with pytest.raises(EngineOverloadedError, match=rf"answered {status}: queue is full \(prompts 0 to 1\)"):
        texts(connect(max_retries=2), [embedded(1), embedded(2)])
    assert len(fake.requests) == 3


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (Reply(500, b"Internal Server Error"), "answered 500: Internal Server Error"),
        (Reply(200, b"<html>busy</html>", {"content-type": "text/html"}), "<html>busy</html>"),
        (Reply(200, b'{"choices": [{"ind'), "not a completion"),
        (Reply(200, b"[]"), "not a completion"),
        (Reply(200, b'{"choices": [{"index": 0}]}'), "not a completion"),
        (Reply(200, b'{"choices": []', missing=40), "broke off"),
        (reply({"choices": []}), "1 choices were requested"),
        (reply({"choices": [{"index": 1, "text": "", "finish_reason": "stop"}]}), r"indices \[1\]"),
        (reply({"choices": [{"index": 0, "text": "", "finish_reason": "abort"}]}), "finish_reason 'abort'"),
    ],
)
def test_an_answer_that_is_not_a_completion_is_an_error(
    fake: FakeVLLM, connect: Connect, bad: Reply, said: str
) -> None:
    fake.scripted.append(bad)
    with pytest.raises(EngineResponseError, match=said) as caught:
        texts(connect(), [embedded(1)])
    assert f"{fake.url} " in str(caught.value)
    assert "prompt 0" in str(caught.value)


def test_long_answers_are_cut_in_messages(fake: FakeVLLM, connect: Connect) -> None:
    fake.scripted.append(Reply(500, b"x" * 100_000))
    with pytest.raises(EngineResponseError) as caught:
        texts(connect(), [embedded(1)])
    assert len(str(caught.value)) < 1000


def test_a_server_that_is_down_is_unreachable(connect: Connect) -> None:
    with socket.socket() as unused:  # bound and not listening: connections are refused
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}"
        with pytest.raises(EngineUnreachableError, match=f"{url} cannot be reached"):
            texts(connect(url), [embedded(1)])


def test_a_server_that_does_not_answer_in_time_is_unreachable(fake: FakeVLLM, connect: Connect) -> None:
    fake.scripted.append(Reply(after=threading.Event()))
    with pytest.raises(EngineUnreachableError, match="did not answer in time"):
        texts(connect(timeout=0.3), [embedded(1)])


def test_abandoning_the_completions_cancels_what_is_under_way(fake: FakeVLLM, connect: Connect) -> None:
    under_way = threading.Event()

    def respond(request: Request) -> Reply:
        answer = reply({"choices": choices(request)})
        if marks(request) == [0]:
            return answer
        under_way.set()
        return Reply(body=answer.body, after=threading.Event())

    fake.respond = respond
    answers = connect(prompts_per_request=1).generate([embedded(mark) for mark in range(4)], GREEDY)
    assert next(answers).text == "0.0"
    assert under_way.wait(MAX_WAIT)  # before that, the server may not have read a request that it could lose
    answers.close()  # type: ignore[attr-defined]
    assert fake.disconnected.wait(MAX_WAIT)


def test_an_interrupt_reaches_a_caller_that_waits(fake: FakeVLLM, connect: Connect) -> None:
    def respond(request: Request) -> Reply:
        os.kill(os.getpid(), signal.SIGINT)
        return Reply(after=threading.Event())

    fake.respond = respond
    with pytest.raises(KeyboardInterrupt):
        texts(connect(), [embedded(1)])
    assert fake.disconnected.wait(MAX_WAIT)


def test_the_key_is_sent_and_never_shown(
    fake: FakeVLLM, connect: Connect, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-somebody-else")
    caplog.set_level(logging.DEBUG)
    client = connect(api_key=KEY)
    shown = [repr(client), str(client.describe()), *texts(client, [embedded(1)])]
    assert fake.requests[0].headers["authorization"] == f"Bearer {KEY}"
    fake.scripted.append(refusal(400, f"the key {KEY} is fine"))
    shown += texts(client, [embedded(1)])
    for status in (401, 404, 429, 500):
        fake.scripted.append(refusal(status, f"no model for key {KEY}"))
        with pytest.raises(EngineError) as caught:
            texts(client, [embedded(1)])
        shown.append("".join(traceback.format_exception(caught.value)))
    assert sum("***" in text for text in shown) >= 5
    assert KEY not in "".join(shown) + caplog.text


def test_without_a_key_none_is_taken_from_the_environment(
    fake: FakeVLLM, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.setenv(name, "of-somebody-else")
    texts(connect(), [embedded(1)])
    assert "of-somebody-else" not in str(fake.requests[0].headers)


def test_a_proxy_of_the_environment_does_not_stand_before_this_machine(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert texts(connect(), [embedded(1)]) == ["1.0"]


def test_a_closed_client_says_so(connect: Connect) -> None:
    client = connect()
    client.close()
    client.close()
    with pytest.raises(EngineError, match="is closed"):
        texts(client, [embedded(1)])


@pytest.mark.parametrize(
    ("url", "options", "said"),
    [
        ("localhost:8000", {}, "must be an address such as"),
        ("http://user:word@localhost:8000", {}, "pass the server's key as `api_key`"),
        ("http://localhost:8000", {"timeout": 0}, "timeout is 0"),
        ("http://localhost:8000", {"max_retries": -1}, "max_retries is -1"),
        ("http://localhost:8000", {"max_concurrency": 0}, "at least 1, got 16 and 0"),
    ],
)
def test_settings_out_of_range_are_refused(url: str, options: dict[str, float], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        VLLMClient(url, **options)  # type: ignore[arg-type]


def test_check_tells_what_is_served_and_tries_one_row(fake: FakeVLLM, connect: Connect) -> None:
    fake.respond = lambda request: reply({"choices": [{}]})
    info = connect().check(hidden_size=HIDDEN_SIZE)
    assert (info.url, info.model, info.max_model_len, info.version) == (
        fake.url,
        MODEL,
        MAX_MODEL_LEN,
        "0.0-fake",
    )
    (row,) = fake.requests[0].body["prompt_embeds"]
    assert decode_prompt_embeds(row).shape == (1, HIDDEN_SIZE)
    fake.scripted.append(refusal(400, "hidden_size 4 does not match the model's hidden_size 8"))
    with pytest.raises(PromptRejectedError, match="hidden_size 8"):
        connect().check(hidden_size=HIDDEN_SIZE)


def chat_choices(request: Request) -> Reply:
    return reply(
        {
            "choices": [
                {"index": index, "message": {"content": f"chat {index}"}, "finish_reason": "length"}
                for index in range(request.body["n"])
            ]
        }
    )


def test_chat_sends_embedded_content_as_parts_and_leaves_the_template_to_the_server(
    fake: FakeVLLM, connect: Connect
) -> None:
    fake.respond = chat_choices
    conversation = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": ["Before", embedded(3)]},
    ]
    first, second = connect().generate_chat([conversation], Sampling(max_tokens=4, n=2, temperature=1.0))
    assert (first.text, second.text, first.finish_reason) == ("chat 0", "chat 1", "length")
    (request,) = fake.requests
    assert request.path == "/v1/chat/completions"
    system, user = request.body["messages"]
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be brief."}]}
    assert [part["type"] for part in user["content"]] == ["text", "prompt_embeds"]
    assert decode_prompt_embeds(user["content"][1]["data"]).equal(embedded(3).vectors)


def test_variables_of_the_template_go_to_the_server(fake: FakeVLLM, connect: Connect) -> None:
    fake.respond = chat_choices
    conversation = [{"role": "user", "content": "Hello"}]
    variables = {"enable_thinking": False, "date_string": "12 Jul 2026"}
    list(connect().generate_chat([conversation], GREEDY, template=variables))
    list(connect().generate_chat([conversation], GREEDY))
    first, second = fake.requests
    assert first.body["chat_template_kwargs"] == variables
    assert "chat_template_kwargs" not in second.body


@pytest.mark.parametrize(
    ("variables", "error", "said"),
    [
        ({"strftime_now": "2026-07-12"}, ValueError, r"server reads its own clock.*space\.embed_chat"),
        ({"tools": []}, ValueError, r"field of its own.*space\.embed_chat"),
        ({"messages": []}, ValueError, "the conversation is the first argument"),
        ({"enable_thinking": object()}, TypeError, "JSON"),
        ({"budget": float("nan")}, TypeError, "JSON"),
        ({1: True}, TypeError, "mapping of names"),
        (["enable_thinking"], TypeError, "mapping of names"),
    ],
)
def test_what_a_server_does_not_take_as_a_variable_is_refused_before_anything_is_sent(
    fake: FakeVLLM, connect: Connect, variables: Any, error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        connect().generate_chat([[{"role": "user", "content": "Hello"}]], GREEDY, template=variables)
    assert not fake.requests


def test_chat_refuses_embeddings_that_are_templated_already(connect: Connect) -> None:
    templated = PromptEmbeds(
        torch.ones(3, HIDDEN_SIZE), torch.tensor([False, True, True]), "space", Recipe("test")
    )
    with pytest.raises(ValueError, match=r"1 template rows among its 3.*space\.embed"):
        list(connect().generate_chat([[{"role": "user", "content": templated}]], GREEDY))


def test_one_conversation_that_is_refused_fails_alone(fake: FakeVLLM, connect: Connect) -> None:
    fake.respond = chat_choices
    fine = [{"role": "user", "content": "Hello"}]
    not_finite = [
        {"role": "user", "content": embedded(1).with_content(torch.full((2, HIDDEN_SIZE), torch.inf))}
    ]
    answers = list(connect().generate_chat([fine, not_finite, fine], GREEDY))
    assert [answer.text for answer in answers] == ["chat 0", "", "chat 0"]
    assert "infinity" in (answers[1].error or "")


def piece(text: str, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "text": text, "finish_reason": reason}]}


def test_a_stream_gives_the_text_piece_by_piece(fake: FakeVLLM, connect: Connect) -> None:
    fake.scripted.append(events(piece("Par"), piece(""), piece("is"), piece("", "stop")))
    assert list(connect().stream(embedded(1), GREEDY)) == ["Par", "is"]
    assert fake.requests[0].body["stream"] is True
    assert "prompt" not in fake.requests[0].body


@pytest.mark.parametrize(
    ("cut", "said"),
    [
        (events(piece("Par"), done=False), "ended its stream before"),
        (events(piece("Par"), done=False, missing=500), "broke off"),
        (events(piece("Par"), {"error": {"message": "engine died"}}), "engine died"),
        (events(piece("Par"), {"choices": None}), "not a completion"),
    ],
)
def test_a_stream_that_is_cut_is_an_error_after_the_pieces_that_came(
    fake: FakeVLLM, connect: Connect, cut: Reply, said: str
) -> None:
    fake.scripted.append(cut)
    pieces = connect().stream(embedded(1), GREEDY)
    assert next(pieces) == "Par"
    with pytest.raises(EngineResponseError, match=said):
        next(pieces)


def test_a_streamed_prompt_that_is_refused_is_an_error(fake: FakeVLLM, connect: Connect) -> None:
    with pytest.raises(ValueError, match="one completion can be streamed"):
        list(connect().stream(embedded(1), Sampling(n=2, temperature=1.0)))
    fake.scripted.append(refusal(400, "bad prompt"))
    with pytest.raises(PromptRejectedError, match="bad prompt"):
        list(connect().stream(embedded(1), GREEDY))


def test_abandoning_a_stream_leaves_the_client_usable(fake: FakeVLLM, connect: Connect) -> None:
    fake.scripted.append(events(piece("Par"), piece("is"), piece("", "stop")))
    client = connect()
    pieces = client.stream(embedded(1), GREEDY)
    assert next(pieces) == "Par"
    pieces.close()  # type: ignore[attr-defined]
    assert texts(client, [embedded(2)]) == ["2.0"]


class Suspicious:
    """A guard that does not let some marks pass, alone or together."""

    def check_many(self, prompts: Sequence[PromptEmbeds]) -> list[Verdict]:
        found = [set(prompt.vectors[:, 0].int().tolist()) for prompt in prompts]
        return [Verdict(not (13 in marks or {4, 5} <= marks), 0.0, 1.0, "rule: 13") for marks in found]


def test_a_prompt_that_the_guard_refuses_fails_alone_and_is_not_sent(
    fake: FakeVLLM, connect: Connect
) -> None:
    done = texts(connect(guard=Suspicious()), [embedded(1), embedded(13), [13], embedded(2)])
    assert [text.partition(",")[0] for text in done] == ["1.0", "the guard refused the prompt", "13.0", "2.0"]
    assert sum(("prompt_embeds" in request.body) for request in fake.requests) == 2
    assert all(13 not in marks(request) for request in fake.requests if "prompt_embeds" in request.body)


def test_a_stream_of_a_refused_prompt_is_not_begun(fake: FakeVLLM, connect: Connect) -> None:
    with pytest.raises(PromptRefusedError, match="rule: 13"):
        next(connect(guard=Suspicious()).stream(embedded(13), GREEDY))
    assert fake.requests == []


def test_the_parts_of_a_conversation_are_guarded_apart_and_together(fake: FakeVLLM, connect: Connect) -> None:
    def said(*contents: object) -> list[dict[str, object]]:
        return [{"role": "user", "content": content} for content in contents]

    fake.respond = lambda request: reply(
        {"choices": [{"index": 0, "message": {"content": "fine"}, "finish_reason": "stop"}]}
    )
    asked = [
        said(embedded(4)),
        said(embedded(4), "and", embedded(5)),
        said(["look:", embedded(13)]),
        said("13"),
    ]
    done = list(connect(guard=Suspicious()).generate_chat(asked, GREEDY))
    assert [completion.error is None for completion in done] == [True, False, False, True]
    assert len(fake.requests) == 2


def test_a_guard_that_answers_for_too_few_prompts_is_not_believed(connect: Connect) -> None:
    class Silent:
        def check_many(self, prompts: Sequence[PromptEmbeds]) -> list[Verdict]:
            return []

    with pytest.raises(ValueError, match="0 judgements of 1"):
        texts(connect(guard=Silent()), [embedded(1)])


def test_a_filter_before_the_server_that_refuses_the_probe_has_taken_it(
    fake: FakeVLLM, connect: Connect
) -> None:
    error = {"message": "refused by this server's safety filter", "code": "prompt_refused"}
    fake.respond = lambda request: reply({"error": error}, 400)
    assert connect().check(HIDDEN_SIZE).model == MODEL
    with pytest.raises(PromptRefusedError, match="safety filter"):
        list(connect().stream(embedded(1), GREEDY))
