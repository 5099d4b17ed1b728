"""The parity certificate in process: it passes for what is whole and fails for what is not."""

import json
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedspace import EmbeddingSpace
from embedspace.cli import main
from embedspace.engines import Completion
from embedspace.space.embedding_table import LAYOUTS, EmbeddingTable
from embedspace.verification import verify
from embedspace.verification.certificate import compare_greedy
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.space.templates import DATED


def checks(certificate):
    return {check.name: check.passed for check in certificate.checks}


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3"])
def test_whole_models_pass_every_check(tmp_path, family):
    certificate = verify(str(make_tiny_checkpoint(tmp_path, family, dtype=torch.bfloat16)))
    assert certificate.passed, certificate
    assert set(checks(certificate)) == {
        "embedding table", "rows", "tokens", "content mask", "logits", "greedy answers",
    }  # fmt: skip
    assert next(c for c in certificate.checks if c.name == "greedy answers").values["prompts"] >= 12


@pytest.mark.parametrize("family", ["llama", "gemma", "qwen3"])
def test_a_quick_verification_compares_the_rows_without_the_layers(tmp_path, family):
    folder = make_tiny_checkpoint(tmp_path, family, dtype=torch.bfloat16)
    path = folder / "model.safetensors"
    tensors = load_file(path)
    layers = {
        name: torch.full_like(tensor, torch.nan) for name, tensor in tensors.items() if "layers" in name
    }
    assert layers
    save_file(tensors | layers, path, metadata={"format": "pt"})
    certificate = verify(str(folder), quick=True)
    assert certificate.passed, certificate
    assert set(checks(certificate)) == {"embedding table", "rows", "tokens", "content mask"}


@pytest.mark.parametrize("quick", [False, True])
def test_a_scale_that_is_not_the_models_own_fails(tmp_path, quick, monkeypatch):
    folder = make_tiny_checkpoint(tmp_path, "gemma", dtype=torch.bfloat16)
    scale = EmbeddingTable.from_folder(folder).scale
    assert scale != 1
    from_folder = EmbeddingTable.from_folder
    monkeypatch.setattr(
        EmbeddingTable, "from_folder", lambda *a, **k: replace(from_folder(*a, **k), scale=2 * scale)
    )
    assert not checks(verify(str(folder), quick=quick))["rows"]


@pytest.mark.parametrize("family", ["llama", "gemma"])
def test_a_base_model_is_verified_on_plain_text_with_its_special_tokens(tmp_path, family):
    certificate = verify(
        str(make_tiny_checkpoint(tmp_path, family, dtype=torch.bfloat16, chat_template=None))
    )
    assert certificate.passed, certificate
    found = {check.name: check.detail for check in certificate.checks}
    assert set(found) == {
        "embedding table", "chat template", "rows", "tokens", "content mask", "logits", "greedy answers",
    }  # fmt: skip
    assert "skipped" in found["chat template"]
    assert "<|begin_of_text|>" in found["chat template"]


def test_a_model_whose_template_reads_the_clock_is_verified(tmp_path):
    certificate = verify(str(make_tiny_checkpoint(tmp_path, layers=1, chat_template=DATED)))
    assert certificate.passed, certificate


def test_a_table_with_a_row_that_is_not_finite_fails(tmp_path):
    path = make_tiny_checkpoint(tmp_path) / "model.safetensors"
    tensors = load_file(path)
    tensors["model.embed_tokens.weight"][11] = torch.nan
    save_file(tensors, path, metadata={"format": "pt"})
    certificate = verify(str(tmp_path))
    assert not checks(certificate)["embedding table"]
    assert "row 11" in certificate.checks[0].detail


def test_one_flipped_bit_in_the_packaged_models_table_fails(tmp_path, smollm2):
    folder = shutil.copytree(smollm2.folder, tmp_path / "copy")
    path = folder / "model.safetensors"
    row = smollm2.table.rows[1000].view(torch.uint8).numpy().tobytes()
    data = bytearray(path.read_bytes())
    data[data.find(row)] ^= 1
    path.write_bytes(data)
    damaged = EmbeddingSpace.from_pretrained(folder)
    assert damaged.fingerprint != smollm2.fingerprint
    from embedspace.verification.model import _table

    assert not _table(damaged).passed
    assert "not the file that was recorded" in _table(damaged).detail
    assert _table(smollm2).passed


def completion(tokens, gaps):
    likeliest = tuple({"a": -1.0, "b": -1.0 - gap} for gap in gaps)
    return Completion(0, 0, "text", tuple(tokens), "length", 0.0, (-1.0,) * len(tokens), likeliest)


@pytest.mark.parametrize(
    ("theirs", "gaps", "passed"),
    [([1, 2, 3], [9, 9, 9], True), ([1, 5, 3], [9, 0.01, 9], True), ([1, 5, 3], [0.01, 2.0, 0.01], False)],
)
def test_a_different_token_is_excused_only_by_a_near_tie_at_that_very_place(theirs, gaps, passed):
    same = [completion([1, 2, 3], [9, 9, 9])] * 3
    check = compare_greedy("x", [*same, completion([1, 2, 3], gaps)], [*same, completion(theirs, gaps)])
    assert check.passed == passed


def test_a_prompt_that_failed_fails_the_comparison():
    same = [completion([1], [9])] * 3
    assert not compare_greedy("x", [*same, Completion.failed(3, "too long")], [*same, same[0]]).passed


def test_the_command_prints_a_table_writes_json_and_tells_by_its_exit_code(tmp_path, capsys):
    folder = make_tiny_checkpoint(tmp_path / "model")
    assert main(["verify", str(folder), "--json", str(tmp_path / "certificate.json")]) == 0
    assert "greedy answers" in capsys.readouterr().out
    certificate = json.loads((tmp_path / "certificate.json").read_text())
    assert certificate["passed"]
    assert certificate["fingerprint"] == EmbeddingSpace.from_pretrained(folder).fingerprint
    assert {"torch", "transformers", "python"} <= set(certificate["versions"])


def test_an_architecture_that_is_not_known_is_verified_with_the_table_that_is_named(
    tmp_path, capsys, monkeypatch
):
    folder = make_tiny_checkpoint(tmp_path, "qwen2")
    monkeypatch.delitem(LAYOUTS, "qwen2")
    assert main(["verify", str(folder)]) == 2
    assert "--table" in capsys.readouterr().err
    assert main(["verify", str(folder), "--table", "model.embed_tokens.weight", "--quick"]) == 0


def test_the_command_reports_a_model_that_is_not_there_in_one_line(capsys):
    assert main(["verify", "smolm2"]) == 2
    assert "Did you mean" in capsys.readouterr().err


def test_the_command_fails_with_a_server_that_is_not_there(tmp_path, capsys):
    folder = make_tiny_checkpoint(tmp_path)
    assert main(["verify", str(folder), "--server", "http://127.0.0.1:9"]) == 1
    assert "FAILED" in capsys.readouterr().out


def test_models_lists_what_is_packaged(capsys):
    assert main(["models"]) == 0
    assert "smollm2-135m" in capsys.readouterr().out
