"""Claims about the gateway under load, and about the loss of its processes."""

from __future__ import annotations

import contextlib
import json
import signal
from concurrent.futures import ThreadPoolExecutor

import psutil

from embedspace.engines import VLLMClient
from embedspace.gateway import Gateway
from tests.unit.gateway.setup import (
    BENIGN,
    ModelServer,
    Setup,
    connected,
    get,
    held_up,
    post,
    prompts,
    request_head,
    suspended_workers,
    texts,
    wait_for,
    workers,
)


def test_more_requests_than_are_taken_on_meet_429_and_come_through_when_sent_again(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    asked = prompts(setup, 5)
    bodies = [{"prompt_embeds": setup.payload(BENIGN)}] * 3
    with VLLMClient(open_gateway.url, prompts_per_request=1, max_concurrency=1) as client:
        client.check()
        server.requests.clear()
        with held_up(server) as go, ThreadPoolExecutor(5) as pool:
            first = [pool.submit(post, open_gateway.url, body) for body in bodies]
            wait_for(lambda: len(server.requests) == 3)  # three quarters of four
            answer = post(open_gateway.url, bodies[0])
            assert (answer.status, answer.code) == (429, "too_many_requests")
            assert answer.headers["retry-after"] == "1"
            patient = pool.submit(texts, client, asked)
            wait_for(lambda: client.retries.get("429", 0) > 0)
            go.set()
            assert len(patient.result()) == 5
            assert [each.result().status for each in first] == [200] * 3


def test_more_unscreened_data_than_is_held_meets_429(open_gateway: Gateway, setup: Setup) -> None:
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": "8000000"}
    )
    with connected(open_gateway.url) as slow:
        slow.sendall(head + b" " * 7_000_000)
        wait_for(lambda: b"held_bytes 7e+06" in get(open_gateway.url, "/metrics").body)
        # Hardly more than fits, so that all of it has arrived when it is refused.
        answer = post(open_gateway.url, b" " * 3_600_000)
        assert (answer.status, answer.code) == (429, "too_much_data")
    wait_for(lambda: b"held_bytes 0.0" in get(open_gateway.url, "/metrics").body)


def test_senders_who_are_slow_keep_nobody_out(open_gateway: Gateway, setup: Setup) -> None:
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": "100"}
    )
    with contextlib.ExitStack() as stack:
        for _ in range(8):  # twice as many as there are places
            stack.enter_context(connected(open_gateway.url)).sendall(head + b"{")
        wait_for(lambda: b"held_bytes 8.0" in get(open_gateway.url, "/metrics").body)
        assert post(open_gateway.url, {"prompt_embeds": setup.payload(BENIGN)}).status == 200


def test_a_body_is_held_no_longer_than_until_the_server_has_it(
    open_gateway: Gateway, server: ModelServer
) -> None:
    large = {"prompt": "x" * 5_000_000}
    with held_up(server) as go, ThreadPoolExecutor(3) as pool:
        asked = []
        for count in (1, 2, 3):  # more than is held at once
            asked.append(pool.submit(post, open_gateway.url, large))
            wait_for(lambda: len(server.requests) == count)  # noqa: B023
            wait_for(lambda: b"held_bytes 0.0" in get(open_gateway.url, "/metrics").body)
        go.set()
        assert [each.result().status for each in asked] == [200] * 3


def test_a_caller_who_hangs_up_ends_the_work_at_the_server(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    server.disconnected.clear()
    body = json.dumps({"prompt_embeds": setup.payload(BENIGN)}).encode()
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    with held_up(server):
        with connected(open_gateway.url) as caller:
            caller.sendall(head + body)
            wait_for(lambda: len(server.requests) == 1)
        assert server.disconnected.wait(60)


def test_a_worker_that_is_killed_is_a_refusal_and_the_next_request_is_served(
    open_gateway: Gateway, setup: Setup
) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    killed = suspended_workers(open_gateway)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, open_gateway.url, good)
        wait_for(lambda: b"under_way 1.0" in get(open_gateway.url, "/metrics").body)
        for worker in killed:
            worker.kill()
        answer = asked.result()
    assert (answer.status, answer.code) == (400, "screening_failed")
    assert post(open_gateway.url, good).status == 200
    assert not set(workers(open_gateway)) & set(killed)


def test_requests_that_shared_a_worker_with_one_that_died_are_served(
    open_gateway: Gateway, setup: Setup
) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    killed = suspended_workers(open_gateway)
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(post, open_gateway.url, good) for _ in range(3)]
        wait_for(lambda: b"under_way 3.0" in get(open_gateway.url, "/metrics").body)
        # A caller has one worker at a time: the first request was with one, and the other two share the next.
        for worker in killed:
            worker.kill()
        statuses = sorted(each.result().status for each in asked)
    assert statuses == [200, 200, 400]


def test_a_worker_that_hangs_is_ended(open_gateway: Gateway, setup: Setup) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    killed = suspended_workers(open_gateway)
    answer = post(open_gateway.url, good)
    assert (answer.status, answer.code) == (400, "screening_failed")
    wait_for(lambda: any(not worker.is_running() for worker in killed))
    for worker in killed:
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.resume()
    assert post(open_gateway.url, good).status == 200


def test_a_request_that_takes_more_memory_than_a_worker_has_is_refused(
    open_gateway: Gateway, setup: Setup
) -> None:
    answer = post(open_gateway.url, b'{"user": [' + b"[[[[]]]]," * 900_000 + b"[]]}")
    assert answer.status == 400
    assert answer.code in ("too_much_memory", "screening_failed")
    assert post(open_gateway.url, {"prompt_embeds": setup.payload(BENIGN)}).status == 200


def test_a_filter_process_that_is_killed_comes_back(open_gateway: Gateway, setup: Setup) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    (loader,) = psutil.Process(open_gateway.pid).children()
    below = loader.children()
    loader.kill()
    assert psutil.wait_procs([loader, *below], timeout=10)[1] == []
    wait_for(lambda: post(open_gateway.url, good).status == 200)


def test_the_gateway_ends_with_its_processes(setup: Setup, server: ModelServer) -> None:
    gateway = Gateway(server.url, setup.filter, arguments=setup.arguments).start()
    below = psutil.Process(gateway.pid).children(recursive=True)
    assert len(below) == 3
    psutil.Process(gateway.pid).send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=10)
    gateway.stop()
    assert alive == []
