"""What is thrown at the gateway: none of it reaches the server, crashes the gateway, or makes it grow."""

from __future__ import annotations

import base64
import contextlib
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


def test_idle_connections_keep_nobody_out(gateway: Gateway) -> None:
    """More than there may be, of one address and of several."""
    idle = [connected(gateway.url, source=f"127.0.0.{1 + n % 3}") for n in range(100)]
    for source in ("127.0.0.1", "127.0.0.2", "127.0.0.9"):
        assert post(gateway.url, {"prompt_embeds": "AAAA"}, source=source).status == 400
    for connection in idle:
        connection.close()


def test_connections_with_unfinished_requests_leave_room_for_other_addresses(gateway: Gateway) -> None:
    open_ones = []
    for _ in range(100):
        connection = connected(gateway.url, source="127.0.0.2")
        with contextlib.suppress(OSError):
            connection.sendall(plain("Content-Length: 1000", body=b"{"))
        open_ones.append(connection)
    assert post(gateway.url, {"prompt_embeds": "AAAA"}).status == 400
    for connection in open_ones:
        connection.close()


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        ("two ways to say its length", 400, "ambiguous_length"),
        ("chunks of one byte", 400, "too_many_chunks"),
        ("HTTP/2.0 on one line", 400, "invalid_http"),
        ("HTTP/1.0 in chunks", 400, "invalid_http"),
        ("two hundred headers", 431, "header_too_large"),
        ("a body of a GET", 400, "invalid_http"),
        ("%0a behind a path", 404, "path_not_allowed"),
    ],
)
def test_a_refusal_of_the_header_closes_the_connection(
    name: str, status: int, code: str, gateway: Gateway
) -> None:
    """Whatever was sent behind it is not taken for another request."""
    with connected(gateway.url) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(REQUESTS[name] + plain("Content-Length: 16"))
        answer = connection.makefile("rb").read()
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1
    assert head.startswith(b"HTTP/1.1 %d " % status)
    assert json.loads(body)["error"]["code"] == code


def test_a_body_in_ordinary_chunks_is_read(gateway: Gateway, setup: Setup, server: ModelServer) -> None:
    body = json.dumps({"prompt_embeds": setup.payload(BENIGN), "model": MODEL}).encode()
    for size in (len(body), 2000, 1024):
        pieces = [body[start : start + size] for start in range(0, len(body), size)]
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in [*pieces, b""])
        answer = raw(gateway.url, [plain("Transfer-Encoding: chunked", body=chunks)])
        assert answer.status == 200, answer
    server.requests.clear()


def test_requests_one_behind_the_other_are_answered_in_order(gateway: Gateway) -> None:
    paths = ["/health", "/version", "/health"]
    requests = [plain(method="GET", path=path, body=b"") for path in paths]
    requests[-1] = plain("Connection: close", method="GET", path="/health", body=b"")
    with connected(gateway.url) as connection:
        connection.sendall(b"".join(requests))
        answers = connection.makefile("rb").read().split(b"HTTP/1.1 ")[1:]
    assert [(answer[:3], b"0.0-fake" in answer) for answer in answers] == [
        (b"200", False),
        (b"200", True),
        (b"200", False),
    ]


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
