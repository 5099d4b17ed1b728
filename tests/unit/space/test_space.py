"""EmbeddingSpace against transformers' own embedding modules, on tiny checkpoints and the packaged model."""

import json
import shutil

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from embedspace import EmbeddingSpace
from embedspace.space.embedding_table import EmbeddingTable
from tests.checkpoints import FAMILIES, make_tiny_checkpoint

CONVERSATIONS = [
    [{"role": "user", "content": "What is the capital of France?"}],
    [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "¿Qué hora es? 🕐"}],
    [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "  three\n\n"},
    ],
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_are_those_of_the_models_own_embedding_module(tmp_path, family, tied, dtype):
    folder = make_tiny_checkpoint(tmp_path, family, tied=tied, dtype=dtype, layers=1)
    space = EmbeddingSpace.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
    ids = torch.arange(space.vocab_size)
    with torch.no_grad():
        assert torch.equal(space.lookup(ids.tolist()), model.get_input_embeddings()(ids))


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_answers_rows_as_it_answers_token_ids(tmp_path, family):
    folder = make_tiny_checkpoint(tmp_path, family)
    space = EmbeddingSpace.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = space.chat_ids(CONVERSATIONS[1])
    with torch.no_grad():
        by_ids = model(input_ids=torch.tensor([ids])).logits
        by_rows = model(inputs_embeds=space.embed_chat(CONVERSATIONS[1]).vectors[None]).logits
    assert torch.equal(by_ids, by_rows)


def test_a_sharded_checkpoint_gives_the_same_rows_and_fingerprint_as_a_whole_one(tmp_path):
    whole = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "whole"))
    folder = make_tiny_checkpoint(tmp_path / "shards", max_shard_size="50KB")
    assert len(list(folder.glob("*.safetensors"))) > 1
    sharded = EmbeddingSpace.from_pretrained(folder)
    assert torch.equal(whole.table.rows, sharded.table.rows)
    assert whole.fingerprint == sharded.fingerprint


@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_embed_chat_equals_what_transformers_tokenises_and_embeds(smollm2, messages):
    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder)
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert smollm2.chat_ids(messages) == list(ids)
    assert torch.equal(smollm2.embed_chat(messages).vectors, smollm2.lookup(ids))


def test_plain_text_is_tokenised_as_transformers_does_and_is_all_content(smollm2):
    text = "Numbers 1234, a\ttab, naïve café, 東京 and <|im_end|>."
    tokenizer = AutoTokenizer.from_pretrained(smollm2.folder)
    assert smollm2.tokenize(text) == tokenizer.encode(text, add_special_tokens=False)
    prompt = smollm2.embed(text)
    assert prompt.content.all()
    assert smollm2.read(prompt) == text


def test_embed_many_equals_embedding_one_by_one_and_streams(smollm2):
    items = ["one text", CONVERSATIONS[1], "another", CONVERSATIONS[2], "x"]
    singles = [smollm2.embed(item) if isinstance(item, str) else smollm2.embed_chat(item) for item in items]
    for batch_size in (1, 2, 256):
        many = list(smollm2.embed_many(items, batch_size=batch_size))
        assert [prompt.recipe for prompt in many] == [prompt.recipe for prompt in singles]
        assert all(torch.equal(a.vectors, b.vectors) for a, b in zip(many, singles, strict=True))
        assert all(torch.equal(a.content, b.content) for a, b in zip(many, singles, strict=True))
    read = []

    def endless():
        while True:
            read.append(1)
            yield "again"

    next(smollm2.embed_many(endless(), batch_size=3))
    assert len(read) == 3


def test_embed_many_names_the_bad_item(smollm2):
    with pytest.raises(ValueError, match=r"item 1: text is empty"):
        list(smollm2.embed_many(["fine", ""]))


def test_geometry_agrees_with_an_independent_computation(smollm2):
    table = smollm2.table.rows.double()
    assert torch.allclose(smollm2.mean.double(), table.mean(dim=0), atol=1e-6)
    assert torch.allclose(smollm2.norms.double(), table.norm(dim=1), atol=1e-4)


def test_nearest_is_by_cosine_after_removing_the_mean(smollm2):
    generator = torch.Generator().manual_seed(0)
    vectors = torch.randn(3, smollm2.hidden_size, generator=generator) + smollm2.mean
    ids, cosines = smollm2.nearest(vectors, k=7)
    centred = torch.nn.functional.normalize(smollm2.table.rows.double() - smollm2.mean.double(), dim=1)
    queries = torch.nn.functional.normalize(vectors.double() - smollm2.mean.double(), dim=1)
    expected, order = (queries @ centred.T).topk(7, dim=1)
    assert torch.equal(ids, order)
    assert torch.allclose(cosines.double(), expected, atol=1e-5)


@pytest.mark.parametrize("change", ["table", "tokenizer", "template"])
def test_any_change_of_table_tokenizer_or_template_changes_the_fingerprint(tmp_path, change):
    original = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "a")).fingerprint
    folder = make_tiny_checkpoint(tmp_path / "b")
    assert EmbeddingSpace.from_pretrained(folder).fingerprint == original
    if change == "table":
        path = folder / "model.safetensors"
        data = bytearray(path.read_bytes())
        table = EmbeddingTable.from_folder(folder).rows
        start = data.find(table[7].numpy().tobytes())
        del table
        data[start] ^= 1
        path.write_bytes(data)
    elif change == "tokenizer":
        path = folder / "tokenizer.json"
        pipeline = json.loads(path.read_text())
        pipeline["added_tokens"][0]["normalized"] ^= True
        path.write_text(json.dumps(pipeline))
    else:
        path = folder / "chat_template.jinja"
        path.write_text(path.read_text() + " ")
    assert EmbeddingSpace.from_pretrained(folder).fingerprint != original


def test_an_unknown_architecture_is_refused_unless_the_caller_vouches(tmp_path):
    folder = make_tiny_checkpoint(tmp_path)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": "gemma3n_text"}))
    with pytest.raises(ValueError, match=r"gemma3n_text.*known are.*table="):
        EmbeddingSpace.from_pretrained(folder)
    vouched = EmbeddingSpace.from_pretrained(folder, table="model.embed_tokens.weight")
    assert vouched.hidden_size == 64


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("config.json", "no config.json"),
        ("model.safetensors", "no embedding table"),
        ("tokenizer", "no tokenizer"),
    ],
)
def test_a_folder_without_a_part_says_which(tmp_path, missing, words):
    folder = make_tiny_checkpoint(tmp_path)
    for path in folder.glob(f"{missing}*"):
        path.unlink()
    with pytest.raises(ValueError, match=words):
        EmbeddingSpace.from_pretrained(folder)


def test_a_checkpoint_cut_short_is_an_error_and_not_a_short_table(tmp_path):
    folder = make_tiny_checkpoint(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged or cut short"):
        EmbeddingSpace.from_pretrained(folder)


def test_a_damaged_tokenizer_is_an_error(tmp_path):
    folder = make_tiny_checkpoint(tmp_path)
    (folder / "tokenizer.json").write_text("{not json")
    with pytest.raises(ValueError, match="cannot be loaded as a fast tokenizer"):
        EmbeddingSpace.from_pretrained(folder)


def test_a_damaged_memo_is_made_anew(tmp_path, monkeypatch):
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path / "cache"))
    folder = make_tiny_checkpoint(tmp_path / "model")
    space = EmbeddingSpace.from_pretrained(folder)
    memos = list((tmp_path / "cache").rglob("*.json"))
    assert len(memos) == 2
    for memo in memos:
        memo.write_bytes(memo.read_bytes()[:-9] + b"\xff garbage")
    again = EmbeddingSpace.from_pretrained(folder)
    assert again.fingerprint == space.fingerprint
    assert again.tokenize("some text") == space.tokenize("some text")


def test_a_cache_folder_that_cannot_be_written_costs_only_time(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.write_text("")
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(blocked / "below a file"))
    folder = make_tiny_checkpoint(tmp_path / "model")
    assert EmbeddingSpace.from_pretrained(folder).hidden_size == 64


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda space: space.embed(""), "empty"),
        (lambda space: space.embed("half \ud83d pair"), "surrogate"),
        (lambda space: space.lookup([0, 49152]), "49152 at position 1"),
        (lambda space: space.lookup([-1]), "-1"),
        (lambda space: space.nearest(torch.zeros(2, 5)), r"\[n, 576\]"),
        (lambda space: space.nearest(torch.full((1, 576), torch.nan)), "NaN"),
        (lambda space: space.nearest(torch.zeros(1, 576), k=0), "k must be"),
    ],
)
def test_bad_arguments_name_the_value(smollm2, call, words):
    with pytest.raises(ValueError, match=words):
        call(smollm2)


def test_reading_a_prompt_of_another_space_is_an_error(smollm2, tmp_path):
    other = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path))
    with pytest.raises(ValueError, match="lives in the space"):
        smollm2.read(other.embed("hello"))


def test_copies_of_a_folder_are_the_same_space(tmp_path):
    folder = make_tiny_checkpoint(tmp_path / "a")
    shutil.copytree(folder, tmp_path / "b")
    spaces = [EmbeddingSpace.from_pretrained(path) for path in (folder, tmp_path / "b")]
    assert spaces[0].fingerprint == spaces[1].fingerprint
