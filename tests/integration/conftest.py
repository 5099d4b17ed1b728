"""One real vLLM server for all integration tests, started by the first that asks for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from embedspace.engines.vllm.client import VLLMClient
from embedspace.engines.vllm.server import VLLMServer


@pytest.fixture(scope="session")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VLLMServer]:
    """Serves the packaged model with prompt embeddings enabled, in float32.

    In bfloat16 a prompt's answer depends on what it is batched with, and tests of equality would be of rounding.
    """
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with VLLMServer("smollm2-135m-instruct", dtype="float32", log_path=log) as server:
        yield server


@pytest.fixture
def vllm_client(vllm_server: VLLMServer) -> Iterator[VLLMClient]:
    """A client of the running server."""
    with VLLMClient(vllm_server.url, vllm_server.model) as client:
        yield client
