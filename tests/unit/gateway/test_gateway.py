"""Claims about the gateway, each made of its real process between real clients and a server that counts."""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from embedspace.engines import VLLMClient
from embedspace.gateway import Gateway
from embedspace.gateway.audit import AuditLog
from tests.fake_vllm import MODEL, Reply, Request, events
from tests.unit.gateway.setup import (
    ATTACK,
    BENIGN,
    GREEDY,
    ModelServer,
    Setup,
    digest,
    get,
    post,
    prompts,
    raw,
    request_head,
    texts,
)

KEYS = ("first-secret-key", "second-secret-key")
UPSTREAM_KEY = "the-server's-own-key"


@pytest.fixture(scope="module")
def strict_gateway(setup: Setup, model_server: ModelServer, audit: Path) -> Iterator[Gateway]:
    """Needs a key, has one for the server, and screens text as well."""
    arguments = [*setup.arguments, "--audit", str(audit), "--screen-text"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", UPSTREAM_KEY)
        gateway = Gateway(model_server.url, setup.filter, arguments=arguments, keys=KEYS).start()
    with gateway:
        yield gateway


def test_vllm_client_gets_the_same_through_the_gateway_as_from_the_server(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    asked = prompts(setup, 20)
    with VLLMClient(open_gateway.url, hidden_size=576) as through, VLLMClient(server.url) as direct:
        assert through.check().model == MODEL
        assert texts(through, asked) == texts(direct, asked)
        conversation = [{"role": "user", "content": ["Read this: ", asked[0]]}]
        (through_chat,), (direct_chat,) = (
            list(c.generate_chat([conversation], GREEDY)) for c in (through, direct)
        )
        assert through_chat.text == direct_chat.text


def test_openai_client_gets_completions_and_chats(open_gateway: Gateway, setup: Setup) -> None:
    client = openai.OpenAI(base_url=f"{open_gateway.url}/v1", api_key="EMPTY")
    assert [model.id for model in client.models.list()] == [MODEL]
    made = client.completions.create(
        model=MODEL, prompt=None, extra_body={"prompt_embeds": setup.payload(BENIGN)}
    )  # type: ignore[call-overload]
    assert made.choices[0].text == digest(setup.space.tokenize(BENIGN))
    part = {"type": "prompt_embeds", "data": setup.payload(BENIGN)}
    content = [{"type": "text", "text": "Read this:"}, part]
    chat = client.chat.completions.create(model=MODEL, messages=[{"role": "user", "content": content}])  # type: ignore[list-item, misc]
    assert chat.choices[0].message.content
    with pytest.raises(openai.BadRequestError) as refused:
        client.completions.create(
            model=MODEL, prompt=None, extra_body={"prompt_embeds": setup.payload(ATTACK)}
        )  # type: ignore[call-overload]
    assert (refused.value.code, refused.value.param) == ("prompt_refused", "prompt_embeds")


def test_a_refused_prompt_of_a_batch_fails_alone(open_gateway: Gateway, setup: Setup) -> None:
    asked = [*prompts(setup, 3), setup.space.embed(ATTACK), *prompts(setup, 2)]
    with VLLMClient(open_gateway.url) as client:
        done = list(client.generate(asked, GREEDY))
    assert [completion.error is not None for completion in done] == [False] * 3 + [True] + [False] * 2
    assert "safety filter" in str(done[3].error)


def test_text_passes_where_it_is_not_screened(open_gateway: Gateway) -> None:
    assert post(open_gateway.url, {"prompt": ATTACK}).status == 200


def test_text_is_screened_wherever_it_stands(
    strict_gateway: Gateway, setup: Setup, server: ModelServer
) -> None:
    key = {"Authorization": f"Bearer {KEYS[1]}"}
    ids = setup.space.tokenize(ATTACK)

    def user(content: object, **fields: object) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": content, **fields}]}

    call = [{"id": "1", "type": "function", "function": {"name": "f", "arguments": ATTACK}}]
    tool = {"type": "function", "function": {"name": "f", "description": ATTACK}}
    bad = [
        ("/v1/completions", {"prompt": ATTACK}),
        ("/v1/completions", {"prompt": [BENIGN, ATTACK]}),
        ("/v1/completions", {"prompt": ids}),
        ("/v1/completions", {"prompt": [setup.space.tokenize(BENIGN), ids]}),
        ("/v1/completions", {"prompt": BENIGN, "suffix": ATTACK}),
        ("/v1/chat/completions", user(ATTACK)),
        ("/v1/chat/completions", user([{"type": "text", "text": ATTACK}])),
        ("/v1/chat/completions", user([ATTACK])),
        ("/v1/chat/completions", user(BENIGN, tool_calls=call)),
        ("/v1/chat/completions", user(BENIGN, tool_call_id=ATTACK)),
        ("/v1/chat/completions", {**user(BENIGN), "metadata": {"note": ATTACK}}),
        ("/v1/chat/completions", {**user(BENIGN), "tools": [tool]}),
        ("/v1/chat/completions", {**user(BENIGN), "documents": [{"text": ATTACK}]}),
    ]
    for path, body in bad:
        answer = post(strict_gateway.url, body, path, **key)
        assert (answer.status, answer.code) == (400, "prompt_refused"), body
    assert server.requests == []
    outside = post(strict_gateway.url, {"prompt": [setup.space.vocab_size]}, **key)
    assert (outside.status, outside.code) == (400, "invalid_field")
    assert post(strict_gateway.url, {"prompt": ["", BENIGN]}, **key).status == 200
    assert post(strict_gateway.url, user(BENIGN), "/v1/chat/completions", **key).status == 200


def test_a_stream_is_passed_on_piece_by_piece(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    seen = threading.Event()
    pieces = [{"choices": [{"index": 0, "text": text, "finish_reason": None}]} for text in ("one", "two")]
    first, second = (
        events(pieces[0], done=False),
        events({"choices": [{**pieces[1]["choices"][0], "finish_reason": "stop"}]}),
    )
    server.respond = lambda request: Reply(
        body=first.body, headers=first.headers, rest=second.body, then=seen
    )
    with VLLMClient(open_gateway.url) as client:
        stream = client.stream(setup.space.embed(BENIGN), GREEDY)
        assert next(stream) == "one"  # the server does not send the second one before
        seen.set()
        assert list(stream) == ["two"]


def test_nothing_of_a_request_but_its_body_reaches_the_server(
    strict_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    payload = setup.payload(BENIGN)
    headers = {
        "Authorization": f"Bearer {KEYS[0]}",
        "X-Forwarded-For": "10.0.0.1",
        "Cookie": "a=b",
        "X-Request-Id": "7",
    }
    spaced = json.dumps({"prompt_embeds": [payload]}, indent=4).encode()
    answer = post(strict_gateway.url, spaced, "/v1/completions?api-version=1", **headers)
    (request,) = server.requests
    assert request.path == "/v1/completions"
    assert request.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
    assert request.headers["x-request-id"] == answer.headers["x-request-id"] != "7"
    assert not request.headers.keys() & {"cookie", "x-forwarded-for"}
    assert int(request.headers["content-length"]) < len(spaced)
    assert request.body == {"prompt_embeds": [payload]}


def test_a_caller_without_a_key_is_let_in_nowhere_but_to_the_health_page(strict_gateway: Gateway) -> None:
    for headers in (
        {},
        {"Authorization": "Bearer wrong-key"},
        {"Authorization": KEYS[0]},
        {"Authorization": "Bearer "},
    ):
        for ask in (lambda: post(strict_gateway.url, {"prompt": BENIGN}, **headers),  # noqa: B023
                    lambda: get(strict_gateway.url, "/v1/models", **headers),  # noqa: B023
                    lambda: get(strict_gateway.url, "/metrics", **headers)):  # noqa: B023  # fmt: skip
            answer = ask()
            assert (answer.status, answer.code) == (401, "invalid_api_key")
    assert get(strict_gateway.url, "/health").status == 200
    assert get(strict_gateway.url, "/v1/models", Authorization=f"bearer {KEYS[1]}").status == 200
    doubled = request_head(
        "GET", "/v1/models", {"Authorization": f"Bearer {KEYS[0]}\r\nAuthorization: Bearer x"}
    )
    assert raw(strict_gateway.url, [doubled]).status == 401


def test_a_caller_without_a_key_is_refused_before_its_body_is_read(strict_gateway: Gateway) -> None:
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": "30000000"}
    )
    answer = raw(strict_gateway.url, [head])
    assert (answer.status, answer.code, answer.headers["connection"]) == (401, "invalid_api_key", "close")


def test_headers_of_the_server_that_tell_about_it_are_not_passed_on(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    def respond(request: Request) -> Reply:
        known = server.answer(request)
        return dataclasses.replace(known, headers={**known.headers, "X-Internal": "10.0.0.7", "Via": "proxy"})

    server.respond = respond
    answer = post(open_gateway.url, {"prompt_embeds": setup.payload(BENIGN)})
    assert answer.status == 200
    assert answer.headers.keys() <= {"content-type", "content-length", "x-request-id", "date"}


def test_the_audit_log_has_decisions_and_neither_prompts_nor_keys(
    strict_gateway: Gateway, audit: Path, setup: Setup
) -> None:
    answer = post(
        strict_gateway.url, {"prompt_embeds": setup.payload(ATTACK)}, Authorization=f"Bearer {KEYS[1]}"
    )
    log = audit.read_text()
    line = next(
        line
        for line in map(json.loads, log.splitlines())
        if line["request"] == answer.headers["x-request-id"]
    )
    assert (line["verdict"], line["code"], line["key"], line["prompts"]) == (
        "refused",
        "prompt_refused",
        2,
        1,
    )
    assert line["score"] > line["threshold"]
    assert line["layer"] == "pooled"
    assert len(line["sha256"]) == 64
    assert line["rows"] == len(setup.space.tokenize(ATTACK))
    for secret in (*KEYS, UPSTREAM_KEY, ATTACK, setup.payload(ATTACK)[:60]):
        assert secret not in log
    assert not audit.stat().st_mode & 0o077


def test_requests_are_counted_by_outcome(open_gateway: Gateway, setup: Setup) -> None:
    post(open_gateway.url, {"prompt_embeds": "AAAA"})
    counted = get(open_gateway.url, "/metrics").body.decode()
    for name in (
        'requests_total{outcome="invalid_payload",path="/v1/completions"}',
        "screening_seconds_count",
        "rows_total",
        "under_way",
    ):
        assert f"embedspace_gateway_{name}" in counted


def test_other_addresses_are_forwarded_only_where_they_are_allowed(open_gateway: Gateway) -> None:
    assert get(open_gateway.url, "/version").body == b'{"version": "0.0-fake"}'
    assert get(open_gateway.url, "/v1/models?x=1").status == 200
    assert get(open_gateway.url, "/tokenizer_info").body.startswith(
        b'{"error": {"message": "Not Found"'
    )  # the server's
    answer = get(open_gateway.url, "/server_info")
    assert (answer.status, answer.code) == (404, "path_not_allowed")


def test_without_an_audit_log_nothing_is_let_through(
    setup: Setup, server: ModelServer, tmp_path: Path
) -> None:
    log = tmp_path / "audit.jsonl"
    with Gateway(server.url, setup.filter, arguments=[*setup.arguments, "--audit", str(log)]) as gateway:
        server.requests.clear()
        log.unlink()
        log.mkdir()
        answer = post(gateway.url, {"prompt_embeds": setup.payload(BENIGN)})
        assert (answer.status, answer.code) == (503, "audit_failed")
        assert server.requests == []
        log.rmdir()  # as a log rotation leaves it
        assert post(gateway.url, {"prompt_embeds": setup.payload(BENIGN)}).status == 200
        assert log.is_file()
    with pytest.raises(OSError, match="No space"):
        AuditLog(Path("/dev/full"))
