"""An engine with a tiny random model."""

import pytest

from embedspace import EmbeddingSpace
from embedspace.engines import TransformersEngine
from tests.checkpoints import make_tiny_checkpoint


@pytest.fixture(scope="module")
def engine(tmp_path_factory):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))
    return TransformersEngine(space)
