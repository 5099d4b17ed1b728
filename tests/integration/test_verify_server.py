"""The parity certificate against a real vLLM server: it passes for the right one and fails for others."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from embedspace import EmbeddingSpace
from embedspace.engines import VLLMServer
from embedspace.models.packaged import MANIFEST
from embedspace.verification import verify
from embedspace.verification.certificate import Certificate

pytestmark = pytest.mark.server


def failed(certificate: Certificate) -> set[str]:
    return {check.name for check in certificate.checks if not check.passed}


def altered_copy(source: Path, folder: Path, name: str, order: torch.Tensor) -> Path:
    """The model, but one tensor has its rows in another order: same sizes, same norms."""
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns(MANIFEST))
    path = folder / "model.safetensors"
    tensors = load_file(path)
    tensors[name] = tensors[name][order].clone()
    save_file(tensors, path, metadata={"format": "pt"})
    return folder


def test_the_packaged_model_passes_in_process_and_against_its_server(vllm_server: VLLMServer) -> None:
    certificate = verify("smollm2-135m-instruct", server=vllm_server.url)
    assert certificate.passed, certificate.to_json()
    values = {check.name: check.values for check in certificate.checks}
    assert values["server's greedy answers"]["prompts"] >= 12
    assert values["server's greedy answers"]["different"] == 0
    assert values["prefix cache"]["hit_rows"] > 0
    assert values["prefix cache"]["hit_rows_of_another_salt"] == 0
    assert values["mixed prefix cache"]["prompts"] == 7
    assert values["length limit"]["max_model_len"] == 2048


def test_another_model_of_the_same_hidden_size_fails(
    vllm_server: VLLMServer, smollm2: EmbeddingSpace, tmp_path: Path
) -> None:
    one_of_thirty_layers = "model.layers.15.mlp.down_proj.weight"
    other = altered_copy(smollm2.folder, tmp_path / "other", one_of_thirty_layers, torch.arange(576).roll(1))
    assert "same model" in failed(verify(str(other), server=vllm_server.url))


def test_a_table_whose_rows_are_mixed_up_fails(
    vllm_server: VLLMServer, smollm2: EmbeddingSpace, tmp_path: Path
) -> None:
    order = torch.arange(smollm2.vocab_size).roll(7)
    damaged = altered_copy(smollm2.folder, tmp_path / "damaged", "model.embed_tokens.weight", order)
    assert "server's greedy answers" in failed(verify(str(damaged), server=vllm_server.url))
