"""Settings shared by all tests."""

import os
import signal
import tempfile
from pathlib import Path

import hypothesis
import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
# No run of a test is a look at the sealed sets.
os.environ.setdefault(
    "EMBEDSPACE_SEALED_SETS", str(Path(tempfile.mkdtemp(prefix="embedspace-")) / "sets.json")
)
if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):  # they share the cores
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // workers)))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    signal.signal(signal.SIGINT, signal.default_int_handler)  # workers ignore it, and so would their children

# Speed belongs in benchmarks: a slow machine must not fail a property.
hypothesis.settings.register_profile(
    "embedspace",
    deadline=None,
    max_examples=60,
    derandomize=True,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture, hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("embedspace")


@pytest.fixture(scope="session")
def smollm2():
    """The embedding space of the packaged model."""
    from embedspace import EmbeddingSpace

    return EmbeddingSpace.from_pretrained("smollm2-135m-instruct")


@pytest.fixture(scope="session")
def qwen():
    """The embedding space of Qwen2.5-Coder-0.5B-Instruct, from wheels."""
    from embedspace import EmbeddingSpace

    return EmbeddingSpace.from_pretrained("qwen2.5-coder-0.5b-instruct")


@pytest.fixture(scope="session")
def gemma():
    """The embedding space of Gemma 3 270M, a base model, from wheels."""
    from embedspace import EmbeddingSpace

    return EmbeddingSpace.from_pretrained("gemma-3-270m")
