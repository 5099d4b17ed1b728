"""Claims about the server behind the gateway, at the start and later, and about what else is wrong at the start."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
from collections.abc import Callable
from pathlib import Path

import httpx2
import openai
import pytest

from embedspace import encode_prompt_embeds
from embedspace.errors import EngineUnreachableError, PromptEmbedsDisabledError, ServerStartError
from embedspace.gateway import Gateway, Settings
from embedspace.gateway.filter_process import FilterError
from embedspace.gateway.server import serve
from embedspace.gateway.upstream import FilterMismatchError, Upstream
from embedspace.gateway.worker_pool import WorkerPool
from embedspace.verification.prompts import PARITY_PROMPTS
from tests.fake_vllm import MODEL, FakeVLLM, Reply, Request, events, refusal, reply
from tests.unit.gateway.setup import BENIGN, ModelServer, Setup, get, held_up, post, wait_for


def test_requests_that_wait_for_a_new_server_share_one_verification(
    server: ModelServer, setup: Setup
) -> None:
    filter_info = probes(setup)

    async def ensure() -> None:
        upstream = Upstream(Settings(server.url, str(setup.filter)))
        try:
            await asyncio.gather(*(upstream.ensure(filter_info) for _ in range(20)))
        finally:
            await upstream.close()

    asyncio.run(ensure())
    assert len(server.requests) == 2  # as token ids and as rows


def another_model(server: ModelServer) -> Callable[[Request], Reply]:
    """A server whose rows are in another order."""

    def respond(request: Request) -> Reply:
        answer = json.loads(server.answer(request).body)
        for choice in answer["choices"] if "prompt_embeds" in request.body else []:
            choice["text"] = choice["text"][::-1]
        return reply(answer)

    return respond


def probes(setup: Setup) -> dict[str, object]:
    """What the filter's process reports."""
    ids = [setup.space.tokenize(text) for text in PARITY_PROMPTS[:4]]
    asked = [{"ids": each, "payload": encode_prompt_embeds(setup.space.lookup(each))} for each in ids]
    return {"hidden_size": setup.space.hidden_size, "probes": asked}


def verified(server: FakeVLLM, setup: Setup) -> None:
    """What the gateway does before it takes requests."""

    async def verify() -> None:
        upstream = Upstream(Settings(server.url, str(setup.filter)))
        try:
            await upstream.verify(probes(setup))
        finally:
            await upstream.close()

    asyncio.run(verify())


def test_a_server_that_is_slow_down_or_replaced_has_its_own_reason_code(
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
    assert "is another model than the filter is for" in open_gateway.log_path.read_text()
    server.respond = server.answer
    assert post(open_gateway.url, good).status == 200
    answer = post(open_gateway.url, {**good, "model": "another"})
    assert (answer.status, answer.code) == (404, "model_not_found")


def test_an_answer_that_breaks_off_is_not_passed_on_as_whole(
    open_gateway: Gateway, server: ModelServer, setup: Setup
) -> None:
    server.respond = lambda request: events({"choices": []}, done=False, missing=50)
    with pytest.raises((openai.APIError, httpx2.HTTPError)):
        openai.OpenAI(base_url=f"{open_gateway.url}/v1", api_key="EMPTY", max_retries=0).completions.create(
            model=MODEL, prompt="Hi"
        )


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


def test_the_right_server_is_taken_and_others_are_refused_at_the_start(
    server: ModelServer, setup: Setup
) -> None:
    verified(server, setup)
    server.respond = another_model(server)
    with pytest.raises(FilterMismatchError, match="4 of 4 prompts differently"):
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
        workers = WorkerPool(Settings("http://127.0.0.1:1", str(folder), setup.space.name))
        try:
            await workers.start()
        finally:
            await workers.close()

    with pytest.raises(FilterError, match=words):
        asyncio.run(start())
