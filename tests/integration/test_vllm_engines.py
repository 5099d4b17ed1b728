"""Claims about vLLM itself and about the engines that use it, with a real model and a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.engines import Completion, Engine, Sampling, VLLMClient, VLLMServer
from embedspace.engines.base import Prompt
from embedspace.errors import ModelNotServedError, PromptEmbedsDisabledError, PromptRejectedError
from tests.checkpoints import make_tiny_checkpoint

pytestmark = pytest.mark.server

QUESTIONS = [
    "What is the capital of France?",
    "Nenne drei Farben.",
    "What is two plus two? Answer with one number.",
    "日本の首都はどこですか",
    "Reply with a single emoji 🙂.",
    "List the days of the week, separated by commas, and say nothing else at all.",
]
GREEDY = Sampling(max_tokens=12)


def asked(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


@pytest.fixture(scope="module")
def prompts(smollm2: EmbeddingSpace) -> list[PromptEmbeds]:
    return [smollm2.embed_chat(asked(question)) for question in QUESTIONS]


@pytest.fixture(scope="module")
def wrong_size(prompts: list[PromptEmbeds]) -> PromptEmbeds:
    """A prompt of a model with rows of 64 numbers."""
    return replace(prompts[0], vectors=prompts[0].vectors[:, :64])


def outcome(completions: list[Completion]) -> list[tuple[int, int, str, tuple[int, ...], str]]:
    assert all(completion.error is None for completion in completions)
    return [(c.prompt_index, c.index, c.text, c.token_ids, c.finish_reason) for c in completions]


def test_embeddings_are_answered_as_their_token_ids_are(
    vllm_client: VLLMClient, smollm2: EmbeddingSpace, prompts: list[PromptEmbeds]
) -> None:
    assert isinstance(vllm_client, Engine)
    ids: list[Prompt] = [smollm2.chat_ids(asked(question)) for question in QUESTIONS]
    answers = list(vllm_client.generate(prompts, GREEDY))
    assert outcome(answers) == outcome(list(vllm_client.generate(ids, GREEDY)))
    assert "Paris" in answers[0].text


def test_payloads_of_both_dtypes_get_the_same_answer(
    vllm_server: VLLMServer, prompts: list[PromptEmbeds]
) -> None:
    with VLLMClient(vllm_server.url, dtype=torch.float32) as wide, VLLMClient(vllm_server.url) as own:
        assert outcome(list(wide.generate(prompts[:2], GREEDY))) == outcome(
            list(own.generate(prompts[:2], GREEDY))
        )
        assert wide.describe()["dtype"] == "float32"


def test_a_seed_makes_several_different_completions_reproducible(
    vllm_client: VLLMClient, prompts: list[PromptEmbeds]
) -> None:
    sampling = Sampling(max_tokens=8, temperature=1.0, n=3, seed=5)
    first, again = (outcome(list(vllm_client.generate(prompts[:2], sampling))) for _ in range(2))
    other = outcome(list(vllm_client.generate(prompts[:2], replace(sampling, seed=6))))
    assert first == again != other
    assert [(position, index) for position, index, *_ in first] == [
        (p, i) for p in range(2) for i in range(3)
    ]
    assert len({text for _, _, text, *_ in first[:3]}) > 1


def test_a_stop_string_ends_a_completion_and_is_not_part_of_it(
    vllm_client: VLLMClient, prompts: list[PromptEmbeds]
) -> None:
    (answer,) = vllm_client.generate(prompts[:1], replace(GREEDY, stop=(" Paris",)))
    assert answer.text == "The capital of France is"
    assert answer.finish_reason == "stop"


def test_greedy_tokens_are_the_likeliest_by_their_logprobs(
    vllm_client: VLLMClient, prompts: list[PromptEmbeds]
) -> None:
    (answer,) = vllm_client.generate(prompts[:1], replace(GREEDY, logprobs=3))
    assert len(answer.logprobs) == len(answer.top_logprobs) == len(answer.token_ids)
    for chosen, likeliest in zip(answer.logprobs, answer.top_logprobs, strict=True):
        assert len(likeliest) == 3
        assert chosen == max(likeliest.values()) <= 0


def test_a_stream_is_the_completion_in_pieces(vllm_client: VLLMClient, prompts: list[PromptEmbeds]) -> None:
    (answer,) = vllm_client.generate(prompts[:1], GREEDY)
    pieces = list(vllm_client.stream(prompts[0], GREEDY))
    assert len(pieces) > 3
    assert "".join(pieces) == answer.text


def test_embedded_content_in_a_chat_is_answered_as_the_whole_embedded_prompt_is(
    vllm_client: VLLMClient, smollm2: EmbeddingSpace, prompts: list[PromptEmbeds]
) -> None:
    conversations = [[{"role": "user", "content": smollm2.embed(question)}] for question in QUESTIONS[:3]]
    answers = list(vllm_client.generate_chat(conversations, replace(GREEDY, logprobs=2)))
    assert outcome(answers) == outcome(list(vllm_client.generate(prompts[:3], GREEDY)))
    for answer in answers:
        assert len(answer.logprobs) == len(answer.top_logprobs) == len(answer.token_ids)


def test_prompts_that_are_not_fit_fail_alone(
    vllm_client: VLLMClient, prompts: list[PromptEmbeds], wrong_size: PromptEmbeds
) -> None:
    not_finite = replace(prompts[1], vectors=prompts[1].vectors * float("nan"))
    too_long = replace(
        prompts[0], vectors=prompts[0].vectors[:1].repeat(2048, 1), content=torch.ones(2048, dtype=torch.bool)
    )
    mixed: list[Prompt] = [prompts[0], wrong_size, not_finite, too_long, [10**6], prompts[0]]
    first, *failed, last = vllm_client.generate(mixed, GREEDY)
    assert first.text == last.text
    assert "Paris" in first.text
    said = ["hidden_size 576", "NaN", "at most 2047 fit", "out of vocabulary"]
    assert [part in (completion.error or "") for part, completion in zip(said, failed, strict=True)] == [
        True
    ] * 4


def test_check_tells_the_server_and_tries_the_hidden_size(
    vllm_server: VLLMServer, vllm_client: VLLMClient, smollm2: EmbeddingSpace
) -> None:
    info = vllm_client.check(smollm2.hidden_size)
    assert (info.url, info.model, info.max_model_len) == (vllm_server.url, vllm_server.model, 2048)
    with pytest.raises(PromptRejectedError, match="hidden_size 576"):
        vllm_client.check(64)
    with (
        VLLMClient(vllm_server.url, "another-model") as client,
        pytest.raises(ModelNotServedError, match="'smollm2-135m-instruct'"),
    ):
        client.check()


WITHOUT_THE_FLAG = """
import sys
from embedspace.engines import VLLMServer
if __name__ == "__main__":
    server = VLLMServer(sys.argv[1], max_model_len=128, enable_prompt_embeds=False, log_path=sys.argv[2]).start()
    print(server.url, flush=True)
    server.wait()
"""


def test_a_server_without_the_flag_takes_token_ids_alone_and_dies_with_its_killed_program(
    tmp_path: Path,
) -> None:
    model = make_tiny_checkpoint(tmp_path / "tiny")
    command = [sys.executable, "-c", WITHOUT_THE_FLAG, str(model), str(tmp_path / "log")]
    processes: list[psutil.Process] = []
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as program:
        try:
            assert program.stdout is not None
            url = program.stdout.readline().strip()
            processes = psutil.Process(program.pid).children(recursive=True)
            assert len(processes) >= 3, "supervisor, server and engine"
            check_refusals(url, EmbeddingSpace.from_pretrained(model))
        finally:
            program.kill()
    _, alive = psutil.wait_procs(processes, timeout=120)
    assert alive == []


def check_refusals(url: str, space: EmbeddingSpace) -> None:
    with VLLMClient(url) as client:
        fits, too_long = client.generate([[5] * 127, [5] * 128], GREEDY)
        assert (fits.error, len(fits.token_ids), fits.finish_reason) == (None, 1, "length")
        assert "at most 127 fit" in (too_long.error or "")
        with pytest.raises(PromptEmbedsDisabledError, match="without --enable-prompt-embeds"):
            list(client.generate([space.embed("Hello"), space.embed("Bye")], GREEDY))
        with pytest.raises(PromptEmbedsDisabledError):
            client.check(space.hidden_size)
        with pytest.raises(PromptEmbedsDisabledError):
            list(client.generate_chat([[{"role": "user", "content": space.embed("Hello")}]], GREEDY))


OFFLINE = """
import dataclasses, json, sys
import torch
from embedspace import EmbeddingSpace
from embedspace.engines import Engine, Sampling, VLLMOfflineEngine
from embedspace.errors import EngineError

if __name__ == "__main__":
    space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    conversations = [[{"role": "user", "content": question}] for question in json.loads(sys.argv[1])]
    prompts = [space.embed_chat(messages) for messages in conversations]
    bad = dataclasses.replace(prompts[0], vectors=prompts[0].vectors[:, :64])
    mixed = [*prompts, bad, [10**6], *map(space.chat_ids, conversations)]
    with VLLMOfflineEngine("smollm2-135m-instruct", dtype="float32", batch_size=4) as engine:
        assert isinstance(engine, Engine)
        answers = list(engine.generate(mixed, Sampling(max_tokens=12, logprobs=2)))
        described = engine.describe()
    try:
        list(engine.generate(prompts, Sampling()))
    except EngineError as error:
        closed = str(error)
    with open(sys.argv[2], "w") as file:
        json.dump([[dataclasses.asdict(answer) for answer in answers], described, closed], file)
"""


@pytest.mark.slow
def test_the_offline_engine_answers_as_the_server_does(
    vllm_client: VLLMClient, prompts: list[PromptEmbeds], tmp_path: Path
) -> None:
    # In a process of its own, with which vLLM's own processes and memory are gone.
    script, result = tmp_path / "offline.py", tmp_path / "answers.json"
    script.write_text(OFFLINE)
    command = [sys.executable, str(script), json.dumps(QUESTIONS[:3]), str(result)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=dict(os.environ))
    assert done.returncode == 0, done.stderr[-5000:]
    answers, described, closed = json.loads(result.read_text())
    expected = list(vllm_client.generate(prompts[:3], replace(GREEDY, logprobs=2)))
    for position in range(3):
        embedded, ids = answers[position], answers[5 + position]
        assert embedded["text"] == ids["text"] == expected[position].text
        assert tuple(embedded["token_ids"]) == expected[position].token_ids
        assert embedded["finish_reason"] == expected[position].finish_reason
        assert embedded["logprobs"] == pytest.approx(expected[position].logprobs, abs=0.1)
        assert [len(step) for step in embedded["top_logprobs"]] == [2] * len(embedded["token_ids"])
    assert [answer["prompt_index"] for answer in answers] == list(range(8))
    assert "the model has hidden size 576" in answers[3]["error"]
    assert "vocabulary" in answers[4]["error"]
    assert described["dtype"] == "float32"
    assert "is closed" in closed
