"""Fixtures shared by several files of fast tests."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace
    from tests.unit.gateway_setup import Setup


@pytest.fixture(scope="session")
def setup(smollm2: EmbeddingSpace, tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A filter for the packaged model, without the layers that need a second model."""
    from tests.unit.gateway_setup import make_setup

    return make_setup(smollm2, tmp_path_factory.mktemp("filter"))
