"""What engines say to text in place of prompts, to prompts that are too long, and to checkpoints they cannot run."""

import dataclasses
import json
import warnings

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.engines import Completion, Sampling, TransformersEngine, VLLMClient
from tests.checkpoints import make_tiny_checkpoint
from tests.fake_vllm import FakeVLLM, choices, reply

SHORT = Sampling(max_tokens=4)
QUESTION = "How do I bake bread?"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TransformersEngine(make_tiny_checkpoint(tmp_path_factory.mktemp("llama"), layers=1))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("gpt2"), "gpt2"))


@pytest.fixture(scope="module")
def fake():
    with FakeVLLM() as server:
        yield server


@pytest.fixture(params=["transformers", "vllm"])
def engine(request, tiny, fake):
    if request.param == "transformers":
        yield tiny
    else:
        with VLLMClient(fake.url) as client:
            yield client


@pytest.mark.parametrize(
    "given",
    [QUESTION, [QUESTION], QUESTION.encode(), [[5, 6], QUESTION], [{"role": "user", "content": QUESTION}]],
)
def test_text_in_place_of_prompts_is_answered_with_how_to_embed_it(engine, given):
    with pytest.raises(TypeError, match=r"space\.embed_chat\(\[\{\"role\": \"user\""):
        list(engine.generate(given, SHORT))


def test_one_prompt_in_place_of_a_list_is_answered_with_the_list(engine, tiny):
    for given, words in (
        (tiny.space.embed("bread"), r"one PromptEmbeds; .*\[prompt\]"),
        ([5, 6], r"\[ids\]"),
    ):
        with pytest.raises(TypeError, match=words):
            list(engine.generate(given, SHORT))
    with pytest.raises(TypeError, match="got NoneType None"):
        engine.generate(None, SHORT)


def test_a_score_of_text_is_answered_likewise(tiny):
    with pytest.raises(TypeError, match=r"space\.embed_chat"):
        tiny.score(QUESTION, " yes")


@pytest.mark.parametrize(
    "given",
    [
        QUESTION,
        [QUESTION],
        [{"role": "user", "content": QUESTION}],
        {"role": "user"},
        [[QUESTION]],
        [None],
        7,
    ],
)
def test_what_is_no_list_of_conversations_is_answered_with_one(fake, given):
    with VLLMClient(fake.url) as client, pytest.raises(TypeError, match=r'\[\[\{"role": "user", "content"'):
        list(client.generate_chat(given, SHORT))


def test_a_message_of_tool_calls_alone_reaches_the_server_without_content(fake):
    call = {"id": "1", "type": "function", "function": {"name": "oven", "arguments": "{}"}}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "1", "content": "hot"},
    ]
    fake.respond = lambda _: reply(
        {"choices": [{"index": 0, "message": {"content": "Now."}, "finish_reason": "stop"}]}
    )
    try:
        with VLLMClient(fake.url) as client:
            (answer,) = client.generate_chat([messages], SHORT)
            with pytest.raises(TypeError, match="content must be"):
                list(client.generate_chat([[{"role": "assistant", "content": None}]], SHORT))
    finally:
        fake.respond = lambda request: reply({"choices": choices(request)})
    assert answer.text == "Now."
    sent = fake.requests[-1].body["messages"]
    assert (sent[1]["content"], sent[1]["tool_calls"]) == (None, [call])


def test_a_failed_completion_warns_once_and_shows_its_error(engine, tiny):
    too_long = tiny.space.embed(QUESTION * 100)
    with pytest.warns(RuntimeWarning, match="prompt 1 has no completion") as caught:
        answers = list(engine.generate([[5, 6], too_long, too_long, [7]], SHORT))
    assert [answer.error is None for answer in answers] == [True, False, False, True]
    assert len([each for each in caught if "no completion" in str(each.message)]) == 1
    assert caught[0].filename == __file__
    assert str(answers[0]) == answers[0].text
    assert str(answers[2]) == f"[no completion of prompt 2: {answers[2].error}]"


def test_completions_that_all_succeed_warn_of_nothing(engine):
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert all(isinstance(answer, Completion) for answer in engine.generate([[5, 6], [7]], SHORT))


@pytest.mark.filterwarnings("ignore:prompt . has no completion")
@pytest.mark.parametrize("length_is_known", [True, False])
def test_a_prompt_beyond_the_last_position_fails_alone(gpt2, length_is_known):
    space = gpt2 if length_is_known else dataclasses.replace(gpt2, context_length=None)
    engine = TransformersEngine(space)
    row = space.embed("a")
    full, over, fits = (PromptEmbeds.concat([row] * count) for count in (512, 700, 3))
    mixed = [fits, over, [5, 6], full, [5] * 600, fits]
    answers = list(engine.generate(mixed, SHORT))
    assert [answer.error is None for answer in answers] == [True, False, True, False, False, True]
    words = "at most 511" if length_is_known else "fewer positions"
    assert all(words in answers[position].error for position in (1, 3, 4))
    alone = list(engine.generate([fits, [5, 6]], SHORT))
    assert [answers[position].token_ids for position in (0, 2)] == [answer.token_ids for answer in alone]
    with pytest.raises(ValueError, match=r"700 rows|at most 51"):
        engine.score_all([(fits, ["a"]), (over, ["a"])])


@pytest.mark.parametrize("family", ["gemma", "gemma3"])
def test_scaled_rows_and_token_ids_have_the_same_logits_by_default(tmp_path, family):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, family, hidden_size=80, dtype=torch.bfloat16))
    ids = engine.space.tokenize(QUESTION)
    with torch.inference_mode():
        by_ids = engine.model(input_ids=torch.tensor([ids])).logits
        by_rows = engine.model(inputs_embeds=engine.space.lookup(ids)[None].to(engine.dtype)).logits
    assert torch.equal(by_ids, by_rows)
    assert engine.describe()["dtype"] == "bfloat16"


def test_scaled_rows_in_another_dtype_warn_and_others_do_not(tmp_path):
    gemma = EmbeddingSpace.from_pretrained(
        make_tiny_checkpoint(tmp_path / "a", "gemma", hidden_size=80, dtype=torch.bfloat16, layers=1)
    )
    with pytest.warns(RuntimeWarning, match=r"by 8\.944.*scaled in bfloat16.*dtype='auto'"):
        TransformersEngine(gemma, dtype="float32")
    llama = make_tiny_checkpoint(tmp_path / "b", dtype=torch.bfloat16, layers=1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert TransformersEngine(llama, dtype="float32").dtype == TransformersEngine(llama).dtype


def test_a_scaled_float32_checkpoint_computes_in_float32(tmp_path):
    assert TransformersEngine(make_tiny_checkpoint(tmp_path, "gemma", layers=1)).dtype == torch.float32


@pytest.mark.parametrize(
    "settings",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
        {"quant_method": "awq", "bits": 4, "group_size": 128},
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "compressed-tensors", "format": "pack-quantized", "config_groups": {}},
    ],
)
def test_a_quantised_checkpoint_names_its_method_and_the_client(tmp_path, settings):
    folder = make_tiny_checkpoint(tmp_path, layers=1)
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"quantization_config": settings}
    path.write_text(json.dumps(config))
    with pytest.raises(ValueError, match=rf"is quantised \({settings['quant_method']}\).*VLLMClient"):
        TransformersEngine(folder)


@pytest.mark.parametrize("damage", ["lacks a tensor", "lacks a shard", "index"])
def test_a_checkpoint_that_is_not_whole_is_refused_with_its_folder(tmp_path, damage):
    folder = make_tiny_checkpoint(tmp_path, max_shard_size="5GB" if damage == "lacks a tensor" else "50KB")
    space = EmbeddingSpace.from_pretrained(folder)
    if damage == "lacks a tensor":
        tensors = load_file(folder / "model.safetensors")
        del tensors["model.layers.1.mlp.up_proj.weight"]
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    elif damage == "index":
        (folder / "model.safetensors.index.json").write_text("{")
    else:
        next(path for path in folder.glob("*.safetensors") if path != space.table.path).unlink()
    with pytest.raises(ValueError, match=rf"the model in {folder} cannot be loaded"):
        TransformersEngine(space)
