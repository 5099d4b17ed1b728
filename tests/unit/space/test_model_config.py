"""Models whose configuration has other names, a nested part, a scale or an index: read rightly, or refused clearly."""

import json

import pytest
import torch
from transformers import AutoModelForCausalLM

from embedspace import EmbeddingSpace, models
from embedspace._util.model_config import context_length, text_config
from embedspace.models import MANIFEST
from embedspace.space.embedding_table import EmbeddingTable
from tests.checkpoints import make_tiny_checkpoint

TABLE = "model.embed_tokens.weight"


def change_config(folder, change):
    """Rewrite the configuration of a folder."""
    path = folder / "config.json"
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    return folder


@pytest.mark.parametrize("family", ["gemma", "gemma2", "gemma3", "vaultgemma", "llama"])
def test_naming_the_table_changes_no_row_of_a_known_architecture(tmp_path, family):
    folder = make_tiny_checkpoint(tmp_path, family, layers=1)
    space, named = EmbeddingSpace.from_pretrained(folder), EmbeddingSpace.from_pretrained(folder, table=TABLE)
    own = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).get_input_embeddings()
    with torch.no_grad():
        assert torch.equal(named.lookup([5, 6, 7]), own(torch.tensor([5, 6, 7])))
    assert named.table.scale == space.table.scale == (1.0 if family == "llama" else 8.0)
    assert named.fingerprint == space.fingerprint


def test_the_scale_of_a_nested_configuration_is_that_of_its_language_model(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, "gemma3", layers=1)
    plain = EmbeddingSpace.from_pretrained(folder)
    change_config(folder, lambda config: {"model_type": "gemma3", "text_config": config})
    with pytest.raises(ValueError, match=r"'gemma3'.*table="):
        EmbeddingSpace.from_pretrained(folder)
    nested = EmbeddingSpace.from_pretrained(folder, table=TABLE)
    assert nested.table.scale == 8.0
    assert (nested.context_length, nested.fingerprint) == (512, plain.fingerprint)


def test_a_scaled_model_without_a_hidden_size_is_refused(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, "gemma", layers=1)
    change_config(folder, lambda config: {name: config[name] for name in config if name != "hidden_size"})
    with pytest.raises(ValueError, match="'gemma' model names no hidden_size"):
        EmbeddingSpace.from_pretrained(folder)


def test_a_factor_in_the_configuration_of_an_unknown_architecture_is_named(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, layers=1)
    change_config(folder, lambda config: {**config, "model_type": "falcon_h1", "embedding_multiplier": 5.5})
    with pytest.warns(RuntimeWarning, match=r"embedding_multiplier=5\.5.*embedspace verify"):
        EmbeddingSpace.from_pretrained(folder, table=TABLE)


@pytest.mark.parametrize(
    ("fields", "length"),
    [
        ({"max_position_embeddings": 77}, 77),
        ({"n_positions": 77, "n_ctx": 99}, 77),
        ({"n_ctx": 77}, 77),
        ({"max_seq_len": 77}, 77),
        ({"seq_length": 77}, 77),
        ({"max_position_embeddings": 77, "model_max_length": 99}, 77),
        ({"max_position_embeddings": None, "max_sequence_length": 77}, 77),
        ({"max_position_embeddings": True}, None),
        ({"max_position_embeddings": -1}, None),
        ({"text_config": {"max_position_embeddings": 77}, "max_position_embeddings": 99}, 77),
        ({"thinker_config": {"text_config": {"n_positions": 77}}}, 77),
        ({"text_config": {"hidden_size": 8}, "max_position_embeddings": 77}, 77),
        ({}, None),
    ],
)
def test_the_context_length_is_found_under_every_name(tmp_path, fields, length):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "of nobody", **fields}))
    assert context_length(tmp_path) == length


def test_a_length_that_is_left_out_is_the_default_of_the_architecture(tmp_path):
    nested = {"model_type": "gemma3", "text_config": {"model_type": "gemma3_text", "hidden_size": 64}}
    (tmp_path / "config.json").write_text(json.dumps(nested))
    assert context_length(tmp_path) == 131_072


def test_gpt2_has_a_context_length(tmp_path):
    assert (
        EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, "gpt2", layers=1)).context_length == 512
    )


def test_a_configuration_that_is_not_nested_is_its_own_language_model():
    config = {"model_type": "llama", "text_config": None}
    assert text_config(config) is config


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("{", r"model\.safetensors\.index\.json is not valid JSON"),
        ("[]", r"index\.json must hold a JSON object"),
        ("{}", r"index\.json is damaged: it has no 'weight_map'"),
        ('{"weight_map": []}', r"index\.json is damaged: it has no 'weight_map'"),
        ('{"weight_map": {"model.embed_tokens.weight": 3}}', r"places 'model.embed_tokens.weight' in 3"),
        ('{"weight_map": {"model.embed_tokens.weight": "../a.safetensors"}}', r"no file beside it.*fetch"),
        ('{"weight_map": {"model.norm.weight": "a.safetensors"}}', r"none of \['model.embed_tokens.weight'"),
        ('{"weight_map": {"model.embed_tokens.weight": "a.safetensors"}}', r"lacks a\.safetensors"),
    ],
)
def test_a_damaged_index_of_shards_is_named_with_what_is_wrong(tmp_path, content, words):
    folder = make_tiny_checkpoint(tmp_path, max_shard_size="50KB", layers=1)
    (folder / "model.safetensors.index.json").write_text(content)
    with pytest.raises(ValueError, match=words):
        EmbeddingTable.from_folder(folder)


@pytest.mark.parametrize(
    ("content", "words"),
    [("{", "embedspace.json is not valid JSON"), ('{"hub": {"commit": "1"}}', "embedspace.json is damaged")],
)
def test_a_damaged_note_of_where_a_folder_comes_from_is_named(tmp_path, content, words):
    (tmp_path / MANIFEST).write_text(content)
    with pytest.raises(ValueError, match=words):
        models.resolve(tmp_path)
