"""The simulation agrees with the arithmetic where that is exact, and with itself."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from experiments.corpus.scale import Costs, Scale, simulate

COSTS = Costs(64, 64, 576, 2, 0.0015, 2, 1.25e8, 575.0, 64, 2.7e8, 0.5)


def test_a_payload_is_the_rows_in_base64() -> None:
    assert COSTS.payload_bytes() == 64 * 576 * 2 * 4 / 3


@settings(max_examples=20)
@given(
    servers=st.integers(1, 16),
    client=st.floats(1e-4, 1.0),
    speed=st.floats(10, 1e5),
    network=st.floats(1e5, 1e9),
)
def test_no_simulated_rate_exceeds_what_the_scarcest_resource_allows(
    servers: int, client: float, speed: float, network: float
) -> None:
    costs = replace(
        COSTS,
        client_seconds=client,
        server_tokens_per_second=speed,
        network_bytes_per_second=network,
        spread=0.0,
    )
    queue = simulate(costs, servers, 300 * servers, seed=0)
    assert queue.prompts_per_second <= costs.bottleneck(servers)[1] * 1.0001
    assert all(0 <= share <= 1.0001 for share in queue.busy.values())


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({}, "servers"),
        ({"client_seconds": 1.0}, "client"),
        ({"network_bytes_per_second": 1e5}, "network"),
    ],
)
def test_a_long_queue_comes_near_the_reckoned_rate_of_the_resource_that_ends_first(
    changes: dict[str, float], name: str
) -> None:
    costs = replace(COSTS, **changes)
    queue = simulate(costs, 1, 20_000, seed=0)
    assert costs.bottleneck(1)[0] == name
    assert queue.prompts_per_second == pytest.approx(costs.bottleneck(1)[1], rel=0.05)
    assert max(queue.busy, key=queue.busy.__getitem__) == name


def test_equal_seeds_make_equal_tables(tmp_path: Path) -> None:
    scale = Scale(COSTS, [1, 2], [10**6, 10**9], simulated=200, seed=3)
    assert scale.run(tmp_path) == scale.run(tmp_path)
    assert (tmp_path / "scale.json").exists()
    assert "1e6 prompts" in scale.run(tmp_path)
