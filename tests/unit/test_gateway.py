"""Claims about the gateway, each made of its real process between real clients and a server that counts."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import openai
import psutil
import pytest

from embedspace import EmbeddingSpace
from embedspace.engines import Sampling, VLLMClient
from embedspace.errors import EngineError, EngineUnreachableError, PromptEmbedsDisabledError, ServerStartError
from embedspace.gateway import Gateway, Limits, Settings
from embedspace.gateway.audit import AuditLog
from embedspace.gateway.frames import Frame
from embedspace.gateway.keys import KEYS_VARIABLE, Keys, read_keys
from embedspace.gateway.screen import Screen
from embedspace.gateway.screening import FilterError, Screening
from embedspace.gateway.server import serve
from embedspace.gateway.upstream import FilterMismatchError, Upstream
from embedspace.prompt import PromptEmbeds
from embedspace.safety import Verdict
from embedspace.verification.prompts import PARITY_PROMPTS
from tests.unit.fake_vllm import MODEL, FakeVLLM, Reply, Request, events, refusal, reply
from tests.unit.gateway_setup import (
    ATTACK,
    BENIGN,
    SAFE_WORDS,
    ModelServer,
    Setup,
    digest,
    get,
    only_worker,
    post,
    raw,
    request_head,
    sentence,
    workers,
)

KEYS = ("first-secret-key", "second-secret-key")
UPSTREAM_KEY = "the-server's-own-key"
GREEDY = Sampling(max_tokens=4)
LIMITS = Limits(
    concurrent=4,
    screen_seconds=2.0,
    upstream_seconds=3.0,
    body_seconds=2.0,
    body_bytes=8 * 2**20,
    held_bytes=10 * 2**20,
    worker_bytes=200 * 2**20,
)


@pytest.fixture(scope="module")
def server(setup: Setup) -> Iterator[ModelServer]:
    with ModelServer(setup.space) as server:
        yield server


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def open_gateway(setup: Setup, server: ModelServer, audit: Path) -> Iterator[Gateway]:
    """Everybody is let in, and text passes."""
    arguments = [*setup.arguments, "--audit", str(audit), "--allow", "/tokenizer_info"]
    with Gateway(server.url, setup.filter, arguments=arguments, limits=LIMITS) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def strict_gateway(setup: Setup, server: ModelServer, audit: Path) -> Iterator[Gateway]:
    """Needs a key, has one for the server, and screens text as well."""
    arguments = [*setup.arguments, "--audit", str(audit), "--screen-text"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VLLM_API_KEY", UPSTREAM_KEY)
        gateway = Gateway(server.url, setup.filter, arguments=arguments, keys=KEYS).start()
    with gateway:
        yield gateway


@pytest.fixture(autouse=True)
def fresh(server: ModelServer) -> None:
    server.requests.clear()
    server.respond = server.answer


def texts(client: VLLMClient, prompts: list[PromptEmbeds]) -> list[str]:
    return [completion.error or completion.text for completion in client.generate(prompts, GREEDY)]


def prompts(setup: Setup, count: int) -> list[PromptEmbeds]:
    return [setup.space.embed(sentence(SAFE_WORDS, 20_000 + n)) for n in range(count)]


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


@contextlib.contextmanager
def held_up(server: ModelServer) -> Iterator[threading.Event]:
    """While it lasts, the server answers nothing before the event is set."""
    go = threading.Event()
    server.respond = lambda request: Reply(body=server.answer(request).body, after=go)
    try:
        yield go
    finally:
        go.set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(1000):
        if condition():
            return
        deadline.wait(0.02)
    raise AssertionError("it did not happen")


def test_more_requests_than_are_taken_on_meet_429_and_come_through_when_sent_again(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    asked = prompts(setup, 5)
    with held_up(server) as go, ThreadPoolExecutor(5) as pool:
        bodies = [{"prompt_embeds": setup.payload(BENIGN)}] * 4
        first = [pool.submit(post, open_gateway.url, body) for body in bodies]
        wait_for(lambda: len(server.requests) == 4)
        answer = post(open_gateway.url, bodies[0])
        assert (answer.status, answer.code, answer.headers["retry-after"]) == (429, "too_many_requests", "1")
        with VLLMClient(open_gateway.url, prompts_per_request=1, max_concurrency=1) as client:
            patient = pool.submit(texts, client, asked)
            wait_for(lambda: client.retries.get("429", 0) > 0)
            go.set()
            assert len(patient.result()) == 5
        assert [each.result().status for each in first] == [200] * 4


def test_more_unscreened_data_than_is_held_meets_429(open_gateway: Gateway, setup: Setup) -> None:
    parts = open_gateway.url.removeprefix("http://").split(":")
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": "8000000"}
    )
    with socket.create_connection((parts[0], int(parts[1]))) as slow:
        slow.sendall(head + b" " * 7_000_000)
        wait_for(lambda: b"held_bytes 7e+06" in get(open_gateway.url, "/metrics").body)
        answer = post(open_gateway.url, b" " * 5_000_000)
        assert (answer.status, answer.code) == (429, "too_much_data")
    wait_for(lambda: b"held_bytes 0.0" in get(open_gateway.url, "/metrics").body)


def test_a_caller_who_hangs_up_ends_the_work_at_the_server(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    server.disconnected.clear()
    body = json.dumps({"prompt_embeds": setup.payload(BENIGN)}).encode()
    head = request_head(
        "POST", "/v1/completions", {"Content-Type": "application/json", "Content-Length": str(len(body))}
    )
    parts = open_gateway.url.removeprefix("http://").split(":")
    with held_up(server):
        with socket.create_connection((parts[0], int(parts[1]))) as caller:
            caller.sendall(head + body)
            wait_for(lambda: len(server.requests) == 1)
        assert server.disconnected.wait(10)


def test_a_worker_that_is_killed_is_a_refusal_and_the_next_request_is_served(
    open_gateway: Gateway, setup: Setup
) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    worker = only_worker(open_gateway, setup)
    worker.suspend()
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, open_gateway.url, good)
        wait_for(lambda: b"under_way 1.0" in get(open_gateway.url, "/metrics").body)
        worker.kill()
        answer = asked.result()
    assert (answer.status, answer.code) == (400, "screening_failed")
    assert post(open_gateway.url, good).status == 200
    assert workers(open_gateway)[0].pid != worker.pid


def test_requests_that_shared_a_worker_with_one_that_died_are_served(
    open_gateway: Gateway, setup: Setup
) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    worker = only_worker(open_gateway, setup)
    worker.suspend()
    with ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(post, open_gateway.url, good) for _ in range(3)]
        wait_for(lambda: b"under_way 3.0" in get(open_gateway.url, "/metrics").body)
        worker.kill()
        assert [each.result().status for each in asked] == [200, 200, 200]


def test_a_worker_that_hangs_is_ended(open_gateway: Gateway, setup: Setup) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    worker = only_worker(open_gateway, setup)
    worker.suspend()
    answer = post(open_gateway.url, good)
    assert (answer.status, answer.code) == (400, "screening_failed")
    assert psutil.wait_procs([worker], timeout=10)[1] == []
    assert post(open_gateway.url, good).status == 200


def test_a_request_that_takes_more_memory_than_a_worker_has_is_refused(
    open_gateway: Gateway, setup: Setup
) -> None:
    answer = post(open_gateway.url, b'{"user": [' + b"[]," * 2_500_000 + b"[]]}")
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


def test_a_server_that_is_slow_down_or_another_one_is_told_apart(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    with held_up(server):
        answer = post(open_gateway.url, good)
        assert (answer.status, answer.code) == (504, "upstream_timeout")
    server.respond = another_model(server)
    server.hang_up()
    wait_for(lambda: get(open_gateway.url, "/health").status == 503)
    answer = post(open_gateway.url, good)
    assert (answer.status, answer.code) == (503, "upstream_changed")
    server.respond = server.answer
    assert post(open_gateway.url, good).status == 200
    answer = post(open_gateway.url, {**good, "model": "another"})
    assert (answer.status, answer.code) == (404, "model_not_found")


def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    server.respond = lambda request: events({"choices": []}, done=False, missing=50)
    with pytest.raises(http_error()):
        openai.OpenAI(base_url=f"{open_gateway.url}/v1", api_key="EMPTY", max_retries=0).completions.create(
            model=MODEL, prompt="Hi"
        )


def http_error() -> tuple[type[Exception], ...]:
    import httpx2

    return (openai.APIError, httpx2.HTTPError)


def test_a_server_that_is_down_answers_502_until_it_is_back(setup: Setup) -> None:
    good = {"prompt_embeds": setup.payload(BENIGN)}
    with ModelServer(setup.space) as server:
        gateway = Gateway(server.url, setup.filter, arguments=setup.arguments).start()
        port = int(server.url.rsplit(":", 1)[1])
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(gateway.stop)
        server.hang_up()
        wait_for(lambda: get(gateway.url, "/health").status == 503)
        answer = post(gateway.url, good)
        assert (answer.status, answer.code) == (502, "upstream_unreachable")
        stack.enter_context(ModelServer(setup.space, port))
        assert post(gateway.url, good).status == 200


def another_model(server: ModelServer) -> Callable[[Request], Reply]:
    """A server whose rows are in another order."""

    def respond(request: Request) -> Reply:
        answer = json.loads(server.answer(request).body)
        for choice in answer["choices"] if "prompt_embeds" in request.body else []:
            choice["text"] = choice["text"][::-1]
        return reply(answer)

    return respond


def verified(server: FakeVLLM, setup: Setup) -> None:
    """What the gateway does before it takes requests."""
    from embedspace import encode_prompt_embeds

    ids = [setup.space.tokenize(text) for text in PARITY_PROMPTS[:4]]
    probes = [{"ids": each, "payload": encode_prompt_embeds(setup.space.lookup(each))} for each in ids]

    async def verify() -> None:
        upstream = Upstream(Settings(server.url, str(setup.filter)))
        try:
            await upstream.verify({"hidden_size": setup.space.hidden_size, "probes": probes})
        finally:
            await upstream.close()

    asyncio.run(verify())


def test_the_right_server_is_taken_and_others_are_refused_at_the_start(
    server: ModelServer, setup: Setup
) -> None:
    verified(server, setup)
    server.respond = another_model(server)
    with pytest.raises(FilterMismatchError, match="4 of 4 prompts otherwise"):
        verified(server, setup)
    message = "`prompt_embeds` hidden_size 576 does not match the model's hidden_size 2048."
    server.respond = lambda r: refusal(400, message) if "prompt_embeds" in r.body else server.answer(r)
    with pytest.raises(FilterMismatchError, match=r"length 576.*2048"):
        verified(server, setup)
    message = "You must set `--enable-prompt-embeds` to input `prompt_embeds`."
    server.respond = lambda r: refusal(400, message) if "prompt_embeds" in r.body else server.answer(r)
    with pytest.raises(PromptEmbedsDisabledError, match="--enable-prompt-embeds"):
        verified(server, setup)


def test_a_server_that_is_not_there_is_refused_at_the_start(setup: Setup) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    with pytest.raises(EngineUnreachableError, match="cannot be reached"):
        serve(Settings(address, str(setup.filter)))


def test_a_port_that_is_taken_is_refused_at_the_start(server: ModelServer, setup: Setup) -> None:
    port = int(server.url.rsplit(":", 1)[1])
    with pytest.raises(ValueError, match=rf"port {port} of 127.0.0.1 cannot be used.*in use"):
        serve(Settings(server.url, str(setup.filter), port=port))


def test_the_command_says_what_is_wrong(server: ModelServer, setup: Setup, tmp_path: Path) -> None:
    with pytest.raises(ServerStartError, match=r"embedspace: the filter .* cannot be loaded: .*no filter"):
        Gateway(server.url, tmp_path, arguments=setup.arguments).start()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda folder: (folder / "filter.safetensors").write_bytes(b"damaged"), "damaged"),
        (lambda folder: (folder / "filter.json").write_text("{"), "filter.json"),
        (
            lambda folder: (folder / "filter.json").write_text(
                (folder / "filter.json").read_text().replace('"space": "', '"space": "0')
            ),
            "is for the space",
        ),
    ],
)
def test_a_damaged_filter_or_one_of_another_space_is_refused_at_the_start(
    damage: Callable[[Path], object], words: str, setup: Setup, tmp_path: Path
) -> None:
    folder = shutil.copytree(setup.filter, tmp_path / "filter")
    damage(folder)

    async def start() -> None:
        screening = Screening(Settings("http://127.0.0.1:1", str(folder), setup.space.name))
        try:
            await screening.start()
        finally:
            await screening.close()

    with pytest.raises(FilterError, match=words):
        asyncio.run(start())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"upstream": "localhost:8000"}, "upstream must be an address"),
        ({"upstream": "http://me:secret@localhost"}, "without a password"),
        ({"port": 70_000}, "port is 70000"),
        ({"workers": 0}, "workers is 0"),
        ({"wait": -1.0}, "wait is"),
        ({"allow": ("/v1/../pooling",)}, "cannot be let through"),
        ({"upstream_key": "secret-of-the-server"}, "keys of its own callers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        Settings(**{"upstream": "http://localhost:8000", "filter": "f", **options})  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_the_gateway_ends_with_its_processes(setup: Setup, server: ModelServer) -> None:
    gateway = Gateway(server.url, setup.filter, arguments=setup.arguments).start()
    below = psutil.Process(gateway.pid).children(recursive=True)
    assert len(below) == 2
    psutil.Process(gateway.pid).send_signal(signal.SIGKILL)
    _, alive = psutil.wait_procs(below, timeout=10)
    gateway.stop()
    assert alive == []


def test_engine_errors_are_what_the_command_line_reports() -> None:
    assert issubclass(FilterError, EngineError)
    assert issubclass(FilterMismatchError, EngineError)


@dataclass(frozen=True)
class Rule:
    """Stands in for a filter whose answers can be chosen."""

    judge: Callable[[str], Verdict]
    space: EmbeddingSpace

    def check_many(self, prompts: Sequence[PromptEmbeds]) -> list[Verdict]:
        return [self.judge(self.space.read(prompt)) for prompt in prompts]


def screened(setup: Setup, judge: Callable[[str], Verdict], *bodies: object) -> list[str | None]:
    """Reason codes, or None for what is let through."""
    screen = Screen(Rule(judge, setup.space), setup.space, Limits(), False)
    jobs = [
        Frame(
            n,
            {"path": "/v1/chat/completions" if "messages" in body else "/v1/completions"},
            json.dumps(body).encode(),
        )
        for n, body in enumerate(bodies)  # type: ignore[arg-type]
    ]
    answers = list(screen.answers(jobs))
    assert [answer.number for answer in answers] == list(range(len(jobs)))
    assert all(bool(answer.body) != ("refusal" in answer.fields) for answer in answers)
    return [answer.fields["refusal"]["code"] if "refusal" in answer.fields else None for answer in answers]


def test_parts_that_are_harmless_apart_are_judged_together(setup: Setup) -> None:
    def judge(text: str) -> Verdict:
        return Verdict(not ("harm" in text and "ful" in text), 0.0, 1.0, "")

    def chat(*texts: str) -> dict[str, object]:
        return {"messages": [{"role": "user", "content": [
            {"type": "prompt_embeds", "data": setup.payload(text)}]} for text in texts]}  # fmt: skip

    asked = [chat("harm"), chat("ful"), chat("harm", "ful"), chat("harm", "less", "ful")]
    assert screened(setup, judge, *asked) == [None, None, "prompt_refused", "prompt_refused"]


def test_a_filter_that_fails_or_gives_no_number_is_a_refusal_of_that_request_alone(setup: Setup) -> None:
    def judge(text: str) -> Verdict:
        if "raise" in text:
            raise RuntimeError("the filter is broken")
        return Verdict(True, float("nan") if "nothing" in text else 0.0, 1.0, "")

    asked = [{"prompt_embeds": setup.payload(text)} for text in ("fine", "raise", "nothing", "fine")]
    assert screened(setup, judge, *asked) == [None, "screening_failed", "prompt_refused", None]


def test_a_score_without_end_is_refused_and_travels_as_json(setup: Setup) -> None:
    judged = Verdict(False, float("inf"), 0.5, "structural: too long")
    assert screened(setup, lambda _: judged, {"prompt_embeds": setup.payload("x")}) == ["prompt_refused"]


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


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the two teams\nfirst-secret-key\n\n second-secret-key \n")
    assert read_keys(file, {}) == KEYS
    assert read_keys(None, {KEYS_VARIABLE: " ".join(KEYS)}) == KEYS
    assert read_keys(None, {}) == ()
    file.write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no API key"):
        read_keys(file, {})
    with pytest.raises(ValueError, match=KEYS_VARIABLE):
        read_keys(None, {KEYS_VARIABLE: ""})


@pytest.mark.parametrize(
    "keys", [["short"], ["with a space in it"], ["schlüssel-schlüssel"], [KEYS[0], KEYS[0]]]
)
def test_a_key_that_is_none_is_refused_and_not_shown(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="API key") as raised:
        Keys(keys)
    assert keys[0] not in str(raised.value)


@pytest.mark.parametrize("limits", ["rows=0", "rows=many", "colour=3", "rows"])
def test_a_limit_that_is_none_is_refused(limits: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Parsed by argparse, which exits, or checked by the settings, which the command reports.
    code = exit_code(["gateway", "--upstream", "http://127.0.0.1:1", "--filter", "f", "--limit", limits])
    assert code == 2
    assert "limit" in capsys.readouterr().err


def exit_code(arguments: list[str]) -> object:
    from embedspace.cli import main

    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code
