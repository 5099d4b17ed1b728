"""Spaces in pickles: another process opens the model's folder for itself, and finds the same space or an error."""

import copy
import dataclasses
import multiprocessing
import pickle
import shutil

import pytest
import torch

from embedspace import EmbeddingSpace
from embedspace.space.embedding_space import resolve_space
from embedspace.space.embedding_table import EmbeddingTable
from tests.checkpoints import make_tiny_checkpoint


@pytest.fixture
def space(tmp_path):
    return EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "model", "gemma", layers=1))


def rows_there(space):
    """What a spawned process sees."""
    prompt = space.embed_chat([{"role": "user", "content": "bread"}])
    return prompt.vectors.tolist(), prompt.space, resolve_space(prompt, None, "a test") is space


def test_a_pickle_holds_no_rows_and_another_process_has_the_same_space(space):
    space.mean, space.norms, space.tokenize("bread")
    assert len(pickle.dumps(space)) < 2000
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        rows, fingerprint, is_registered = pool.apply_async(rows_there, [space]).get(timeout=300)
    prompt = space.embed_chat([{"role": "user", "content": "bread"}])
    assert (rows, fingerprint, is_registered) == (prompt.vectors.tolist(), space.fingerprint, True)


def test_every_field_returns_and_copies_are_the_same_space(space):
    space = dataclasses.replace(space, template={"date_string": "1 May 2026"})
    for other in (pickle.loads(pickle.dumps(space)), copy.deepcopy(space), copy.copy(space)):
        assert torch.equal(other.table.rows, space.table.rows)
        assert (other.table.scale, other.table.path, other.table.tensor) == (
            space.table.scale, space.table.path, space.table.tensor,
        )  # fmt: skip
        assert other.template == space.template
        assert (other.name, other.folder, other.fingerprint, other.context_length, other.tokenizer) == (
            space.name, space.folder, space.fingerprint, space.context_length, space.tokenizer,
        )  # fmt: skip


def test_a_named_table_of_an_unknown_architecture_is_opened_by_its_name(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, layers=1)
    config = folder / "config.json"
    config.write_text(config.read_text().replace('"model_type": "llama"', '"model_type": "of nobody"'))
    shutil.copy(folder / "tokenizer.json", folder / "kept.json")
    table = EmbeddingTable.from_folder(folder, tensor="lm_head.weight")
    assert pickle.loads(pickle.dumps(table)).tensor == "lm_head.weight"
    assert torch.equal(pickle.loads(pickle.dumps(table)).rows, table.rows)


def test_a_folder_that_is_gone_or_holds_another_model_is_an_error(space, tmp_path):
    pickled = pickle.dumps(space)
    shutil.rmtree(space.folder)
    with pytest.raises(ValueError, match=r"not on this machine.*from_pretrained"):
        pickle.loads(pickled)
    make_tiny_checkpoint(tmp_path / "model", "gemma", layers=1, seed=1)
    with pytest.raises(ValueError, match=rf"was {space.fingerprint}, and .* changed"):
        pickle.loads(pickled)


def test_rows_that_are_in_no_file_are_in_the_pickle(space):
    table = EmbeddingTable(torch.rand(5, 4), 1.0, space.table.path)
    made = EmbeddingSpace("made", space.folder, space.tokenizer, table, "f" * 32, None)
    again = pickle.loads(pickle.dumps(made))
    assert torch.equal(again.table.rows, table.rows)
    assert again.fingerprint == made.fingerprint
