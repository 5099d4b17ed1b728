"""Settings of another type than the class takes are refused by name, and those that Hydra makes pass."""

from __future__ import annotations

import pytest

from embedspace._util.setting_types import require_types
from experiments.run import checked
from tests.unit.test_configs import composed


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("experiment.norm=abc", "experiment.norm is 'abc'; it must be a number"),
        ("experiment.norm=[1]", r"experiment.norm is \[1\]; it must be a number"),
        ("experiment.rows=everything", "experiment.rows is 'everything'; it must be .*'content'"),
        ("experiment.alphas=[1,x]", r"experiment.alphas is \[1, 'x'\]; it must be a list, each a number"),
        ("experiment.asked_questions=2.5", "is 2.5; it must be a whole number or null"),
        ("sampling.max_tokens=true", "sampling.max_tokens is True; it must be a whole number"),
    ],
)
def test_a_value_of_another_type_is_refused_with_what_is_allowed(override: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        checked(composed("experiment=style", override, "out=unused"))


def test_a_whole_number_is_a_number_and_null_is_taken_where_it_may_be() -> None:
    checked(
        composed("experiment=style", "experiment.norm=2", "experiment.asked_questions=null", "out=unused")
    )


def test_nodes_inside_others_are_looked_at_too() -> None:
    node = {"parts": [{"_target_": "embedspace.engines.Sampling", "temperature": "hot"}]}
    with pytest.raises(ValueError, match=r"^x\.parts\[0\]\.temperature is 'hot'; it must be a number"):
        require_types(node, "x")
