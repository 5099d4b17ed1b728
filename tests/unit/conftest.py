"""Fixtures shared by several files of fast tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from embedspace import EmbeddingSpace
    from embedspace.gateway import Gateway
    from tests.unit.gateway.setup import ModelServer, Setup


@pytest.fixture(scope="session")
def setup(smollm2: EmbeddingSpace, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A filter for the packaged model, without the layers that need a second model."""
    from tests.unit.gateway.setup import make_setup

    return make_setup(smollm2, tmp_path_factory.mktemp("filter"))


@pytest.fixture(scope="session")
def model_server(setup: Setup) -> Iterator[ModelServer]:
    """Answers as the packaged model's server would."""
    from tests.unit.gateway.setup import ModelServer

    with ModelServer(setup.space) as server:
        yield server


@pytest.fixture
def server(model_server: ModelServer) -> Iterator[ModelServer]:
    """The same, with nothing left of earlier tests."""
    model_server.requests.clear()
    yield model_server
    model_server.respond = model_server.answer


@pytest.fixture(scope="session")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """File of the gateways' audit log."""
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="session")
def open_gateway(setup: Setup, model_server: ModelServer, audit: Path) -> Iterator[Gateway]:
    """Admits everybody, and does not screen text."""
    from embedspace.gateway import Gateway, Limits

    limits = Limits(
        concurrent=4,
        screen_seconds=8.0,
        upstream_seconds=15.0,
        body_seconds=20.0,
        body_bytes=8 * 2**20,
        held_bytes=10 * 2**20,
        worker_bytes=200 * 2**20,
        values=50_000_000,
    )
    arguments = [*setup.arguments, "--audit", str(audit), "--allow", "/tokenizer_info"]
    with Gateway(model_server.url, setup.filter, arguments=arguments, limits=limits) as gateway:
        yield gateway
