"""What is thrown at the gateway: none of it reaches the server, crashes the gateway, or makes it grow."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator

import psutil
import pytest

from embedspace.gateway import Gateway
from tests.fake_vllm import MODEL
from tests.unit.gateway.malformed import (
    BODIES,
    CHAT,
    LIMITS,
    PAYLOADS,
    REQUESTS,
    chat,
    damaged,
    damaged_bodies,
    part,
    plain,
)
from tests.unit.gateway.setup import BENIGN, ModelServer, Setup, connected, get, post, raw, workers

MOST_GROWTH_MB = 40


@pytest.fixture(scope="module")
def gateway(setup: Setup, model_server: ModelServer) -> Iterator[Gateway]:
    with Gateway(model_server.url, setup.filter, arguments=setup.arguments, limits=LIMITS) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def none_reaches_the_server(gateway: Gateway, server: ModelServer, setup: Setup) -> Iterator[None]:
    """After every test a good request is answered, by the same process."""
    yield
    assert server.requests == []
    answer = post(gateway.url, {"prompt_embeds": setup.payload(BENIGN), "model": MODEL})
    assert answer.status == 200, answer
    assert len(server.requests) == 1


def test_more_than_forty_of_them_are_thrown() -> None:
    assert len(PAYLOADS) >= 40
    assert len(PAYLOADS) + len(BODIES) + len(REQUESTS) >= 140


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("place", ["string", "list", "part"])
def test_a_malformed_payload_is_refused_wherever_it_stands(
    name: str, place: str, gateway: Gateway, setup: Setup
) -> None:
    value = PAYLOADS[name]
    payload = value if isinstance(value, str) else base64.b64encode(value).decode()
    good = setup.payload(BENIGN)
    answer = {
        "string": lambda: post(gateway.url, {"prompt_embeds": payload}),
        "list": lambda: post(gateway.url, {"prompt_embeds": [good, payload, good]}),
        "part": lambda: post(
            gateway.url, chat(part(good), {"type": "text", "text": "Hi"}, part(payload)), CHAT
        ),
    }[place]()
    assert answer.status == 400, answer
    assert answer.code in ("invalid_payload", "prompt_refused", "invalid_field")
    assert len(payload) < 4 or payload[:40] not in answer.body.decode()


@pytest.mark.parametrize("name", BODIES)
def test_a_malformed_body_is_refused_with_its_reason(name: str, gateway: Gateway) -> None:
    path, body, code = BODIES[name]
    answer = post(gateway.url, body, path)
    assert (answer.status, answer.code) == (400, code), answer


@pytest.mark.parametrize("name", REQUESTS)
def test_a_malformed_request_is_refused_or_its_connection_closed(name: str, gateway: Gateway) -> None:
    answer = raw(gateway.url, [REQUESTS[name]])
    assert answer.status == 0 or 400 <= answer.status < 500, answer
    if answer.body:  # to HEAD and CONNECT there is none
        assert answer.code


def test_a_body_that_comes_slowly_is_given_up(gateway: Gateway) -> None:
    def drops() -> Iterator[bytes]:
        yield plain("Content-Length: 1000000", body=b"")
        for _ in range(3):
            yield b'{"'

    answer = raw(gateway.url, drops())
    assert (answer.status, answer.code) == (408, "body_too_slow")


def test_a_header_that_never_ends_is_given_up(gateway: Gateway) -> None:
    assert raw(gateway.url, [b"POST /v1/completions HTTP/1.1\r\nHost: x\r\n"]).status == 0


def test_invalid_http_is_refused_in_the_format_of_all_refusals(gateway: Gateway) -> None:
    answer = raw(gateway.url, [REQUESTS["two lengths"]])
    assert (answer.status, answer.code, answer.headers["connection"]) == (400, "invalid_http", "close")


def test_nonsense_behind_a_good_request_ends_the_connection_and_nothing_else(
    gateway: Gateway, server: ModelServer
) -> None:
    with connected(gateway.url) as connection:
        connection.sendall(plain("Content-Length: 16") + b"\0nonsense\r\n\r\n" * 100)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 200 ")
    server.requests.clear()


def test_a_hundred_idle_connections_do_not_keep_others_out(gateway: Gateway) -> None:
    idle = [connected(gateway.url) for _ in range(100)]
    assert post(gateway.url, {"prompt_embeds": "AAAA"}).status == 400
    for connection in idle:
        connection.close()


def test_random_damage_is_answered_and_never_with_a_failure(
    gateway: Gateway, setup: Setup, server: ModelServer
) -> None:
    good = json.dumps({"prompt_embeds": [setup.payload(BENIGN)], "model": MODEL, "max_tokens": 4}).encode()
    pid = [worker.pid for worker in workers(gateway)]
    answers = [post(gateway.url, body) for body in damaged_bodies(good, 150)]
    answers += [post(gateway.url, {"prompt_embeds": payload}) for payload in damaged(150)]
    assert {answer.status for answer in answers} <= {200, 400}
    assert sum(answer.status == 400 for answer in answers) > 150
    assert not any(answer.code == "screening_failed" for answer in answers if answer.status == 400)
    # What came through was a dense tensor again, written by the gateway.
    for request in server.requests:
        payloads = request.body["prompt_embeds"]
        assert all(map(server.token_ids, [payloads] if isinstance(payloads, str) else payloads))
    assert [worker.pid for worker in workers(gateway)] == pid
    server.requests.clear()


def test_after_all_of_it_the_gateway_is_no_larger_and_its_worker_the_same(gateway: Gateway) -> None:
    def megabytes() -> float:
        return sum(p.memory_info().rss for p in [psutil.Process(gateway.pid), *workers(gateway)]) / 1e6

    large = {"prompt_embeds": base64.b64encode(b"\0" * 500_000).decode()}
    for _ in range(20):
        assert post(gateway.url, large).status == 400
    before, pids = megabytes(), {worker.pid for worker in workers(gateway)}
    for _ in range(200):
        assert post(gateway.url, large).status == 400
    assert megabytes() - before < MOST_GROWTH_MB
    assert {worker.pid for worker in workers(gateway)} == pids
    assert get(gateway.url, "/health").status == 200
