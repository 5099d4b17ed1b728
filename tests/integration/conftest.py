"""What several files of integration tests start: one real vLLM server for all of them, a SLURM cluster for each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from embedspace.engines.vllm.client import VLLMClient
from embedspace.engines.vllm.server import VLLMServer
from tests.slurm_cluster import SlurmCluster, slurm_cluster, unavailable


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


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SlurmCluster]:
    """A SLURM cluster of one node; where there can be none, the test is skipped and says why."""
    if reason := unavailable():
        pytest.skip(f"no SLURM cluster: {reason}")
    folder = tmp_path_factory.mktemp("slurm")
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(slurm_cluster(folder))
        except TimeoutError as error:  # a machine that forbids what a daemon needs
            logs = " ".join(path.read_text(errors="replace")[-400:] for path in sorted(folder.glob("*.log")))
            pytest.skip(f"SLURM is installed but does not start here: {error}; {' '.join(logs.split())}")
        yield running
