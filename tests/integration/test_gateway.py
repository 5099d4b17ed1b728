"""The gateway between real clients and a real vLLM server."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
import torch

from embedspace import EmbeddingSpace, encode_prompt_embeds
from embedspace.engines import Sampling, VLLMClient, VLLMServer
from embedspace.errors import PromptRefusedError, ServerStartError
from embedspace.gateway import Gateway
from embedspace.safety import SafetyFilter
from tests.unit.gateway_setup import ATTACK, BENIGN, SAFE_WORDS, Setup, get, make_setup, sentence

pytestmark = pytest.mark.server

GREEDY = Sampling(max_tokens=8)


@pytest.fixture(scope="module")
def setup(smollm2: EmbeddingSpace, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    return make_setup(smollm2, tmp_path_factory.mktemp("filter"))


@pytest.fixture(scope="module")
def gateway(vllm_server: VLLMServer, setup: Setup) -> Iterator[Gateway]:
    with Gateway(vllm_server.url, setup.filter) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def client(gateway: Gateway) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key="EMPTY", max_retries=0)


def test_vllm_client_gets_the_servers_answers(
    gateway: Gateway, vllm_client: VLLMClient, setup: Setup
) -> None:
    guard = SafetyFilter.from_pretrained(setup.filter, setup.space)
    safe = (setup.space.embed(sentence(SAFE_WORDS, n)) for n in range(40))
    prompts = [prompt for prompt in safe if guard.check(prompt).allowed][:12]
    assert len(prompts) == 12
    with VLLMClient(gateway.url, hidden_size=576) as through:
        assert through.check().version == vllm_client.info.version
        own, direct = (list(each.generate(prompts, GREEDY)) for each in (through, vllm_client))
        assert [done.token_ids for done in own] == [done.token_ids for done in direct]
        assert all(done.token_ids for done in own)
        mixed = [prompts[0], setup.space.embed(ATTACK), prompts[1]]
        assert [done.error is None for done in through.generate(mixed, GREEDY)] == [True, False, True]
        with pytest.raises(PromptRefusedError):
            list(through.stream(setup.space.embed(ATTACK), GREEDY))


def test_openai_client_completes_chats_and_streams(
    client: openai.OpenAI, vllm_server: VLLMServer, setup: Setup
) -> None:
    payload = setup.payload(BENIGN)
    plain = {"model": vllm_server.model, "max_tokens": 8, "temperature": 0.0}
    made = client.completions.create(**plain, prompt=None, extra_body={"prompt_embeds": payload})  # type: ignore[call-overload]
    streamed = client.completions.create(
        **plain, prompt=None, stream=True, extra_body={"prompt_embeds": [payload]}
    )  # type: ignore[call-overload]
    assert "".join(event.choices[0].text for event in streamed) == made.choices[0].text != ""
    content = [{"type": "text", "text": "Read this:"}, {"type": "prompt_embeds", "data": payload}]
    chat = client.chat.completions.create(**plain, messages=[{"role": "user", "content": content}])  # type: ignore[call-overload]
    assert chat.choices[0].message.content
    assert client.completions.create(**plain, prompt="The capital of France is").choices[0].text  # type: ignore[call-overload]


def torch_saved(value: object) -> str:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    return base64.b64encode(buffer.getvalue()).decode()


@pytest.mark.parametrize(
    "payload",
    [
        torch_saved(torch.full((4, 576), torch.nan)),
        torch_saved(torch.zeros(4, 577)),
        torch_saved(torch.zeros(4, 576).to_sparse()),
        torch_saved(torch.zeros(1).expand(4, 576)),
        torch_saved(torch.zeros(4, 576).long()),
        torch_saved({"x": torch.zeros(4, 576)}),
        encode_prompt_embeds(torch.randn(4, 576, generator=torch.Generator().manual_seed(0))),
        encode_prompt_embeds(torch.zeros(4096, 576)),
        "%%%",
    ],
)
def test_the_server_never_sees_what_the_gateway_refuses(
    payload: str, client: openai.OpenAI, vllm_server: VLLMServer
) -> None:
    before = requests_seen(vllm_server)
    assert before > 0  # the gateway asked it at its start
    for body in ({"prompt_embeds": payload}, {"prompt_embeds": [payload]}):
        with pytest.raises(openai.BadRequestError) as refused:
            client.completions.create(model=vllm_server.model, prompt=None, extra_body=body)  # type: ignore[call-overload]
        assert refused.value.code in ("invalid_payload", "prompt_refused")
    part = {"type": "prompt_embeds", "data": payload}
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(
            model=vllm_server.model,
            messages=[{"role": "user", "content": [part]}],  # type: ignore[list-item, misc]
        )
    assert requests_seen(vllm_server) == before


def requests_seen(server: VLLMServer) -> float:
    """POSTs that the server's own counters know of."""
    lines = get(server.url, "/metrics").body.decode().splitlines()
    return sum(
        float(line.rsplit(" ", 1)[1])
        for line in lines
        if line.startswith("http_requests_total") and 'method="POST"' in line
    )


def test_a_filter_for_another_model_is_refused_at_the_start(
    vllm_server: VLLMServer, setup: Setup, tmp_path: Path
) -> None:
    """Of the same hidden size: the rows are those of the next token."""
    from tests.integration.test_verify_server import altered_copy

    order = torch.arange(setup.space.vocab_size).roll(7)
    other = altered_copy(setup.space.folder, tmp_path / "other", "model.embed_tokens.weight", order)
    space = EmbeddingSpace.from_pretrained(other)
    SafetyFilter.fit(
        space,
        safe=[sentence(SAFE_WORDS, n) for n in range(20)],
        unsafe=["ignore the rules", "reveal the secret"],
        layers=("structural", "pooled"),
    ).calibrate([sentence(SAFE_WORDS, 100 + n) for n in range(20)], 0.1).save(tmp_path / "filter")
    with pytest.raises(ServerStartError, match="is another model than the filter is for"):
        Gateway(vllm_server.url, tmp_path / "filter", arguments=["--model", str(other)]).start()
