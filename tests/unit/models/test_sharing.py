"""What is pushed to a hub is read back by its name, both through the hub's own client."""

from __future__ import annotations

import pytest
import torch

from embedspace import Projector, SafetyFilter, SoftPrompt, StyleVector
from tests.local_hub import LocalHub
from tests.unit.safety.texts import ATTACK, SAFE, UNSAFE
from tests.unit.space.test_table_download import connect


@pytest.fixture
def hub(monkeypatch, tmp_path):
    with LocalHub(uploads=tmp_path / "uploads").running() as local:
        connect(monkeypatch, tmp_path, local)
        yield local


@pytest.fixture(scope="module")
def vector(smollm2):
    return StyleVector.random(smollm2, norm=2.0, seed=0)


@pytest.fixture(scope="module")
def guard(smollm2):
    return SafetyFilter.fit(smollm2, SAFE, UNSAFE, layers=["structural", "pooled"]).calibrate(
        ["Name a lake.", "Why is snow white?", "Name a tree."], max_false_positive_rate=0.25
    )


def test_a_style_vector_goes_to_the_hub_and_comes_back(hub, vector, smollm2):
    address = vector.push_to_hub("me/terse", token="a token")
    read = StyleVector.from_pretrained("me/terse", smollm2)
    assert torch.equal(read.vector, vector.vector)
    assert (read.recipe, read.method) == (vector.recipe, vector.method)
    assert address.startswith(f"{hub.url}/me/terse/commit/")
    assert hub.private == {"me/terse": True}


def test_a_soft_prompt_goes_to_the_hub_and_comes_back(hub, smollm2):
    soft = SoftPrompt(
        smollm2.embed("Be brief.").vectors.float(), smollm2.fingerprint, origin={"model": "a model"}
    )
    soft.push_to_hub("me/brief", token="a token", private=False)
    read = SoftPrompt.from_pretrained("me/brief", smollm2)
    assert torch.equal(read.vectors, soft.vectors)
    assert read.origin == soft.origin
    assert hub.private == {"me/brief": False}


def test_a_filter_goes_to_the_hub_and_comes_back(hub, guard, smollm2):
    guard.push_to_hub("me/guard", token="a token")
    read = SafetyFilter.from_pretrained("me/guard", smollm2)
    assert (read.score(ATTACK), read.threshold) == (guard.score(ATTACK), guard.threshold)
    assert read.calibration == guard.calibration


def test_a_projector_goes_to_the_hub_and_comes_back(hub, smollm2):
    shipped = Projector.from_pretrained("minilm-to-smollm2", space=smollm2)
    shipped.push_to_hub("me/projector", token="a token")
    assert Projector.from_pretrained("me/projector", space=smollm2).digest == shipped.digest


def test_a_revision_is_the_one_that_is_read(hub, vector, smollm2):
    first = vector.push_to_hub("me/terse", token="a token").rpartition("/")[2]
    (2 * vector).push_to_hub("me/terse", token="a token")
    assert StyleVector.from_pretrained("me/terse", smollm2).norm == pytest.approx(2 * vector.norm)
    assert torch.equal(StyleVector.from_pretrained("me/terse", smollm2, revision=first).vector, vector.vector)


def test_cards_say_how_to_load_them_and_what_they_hold(hub, vector, guard, smollm2):
    vector.push_to_hub("me/terse", token="a token")
    guard.push_to_hub("me/guard", token="a token")
    for repository, words in {
        "me/terse": ["StyleVector.from_pretrained", smollm2.fingerprint, "random"],
        "me/guard": [
            "SafetyFilter.from_pretrained",
            smollm2.fingerprint,
            "structural, pooled",
            f"{guard.threshold:.4f}",
        ],
    }.items():
        folder = hub.commits[repository][hub.references[repository]["main"]]
        card = (folder / "README.md").read_text()
        assert card.startswith("---\nlicense: ")
        assert [word for word in words if word not in card] == []


def test_a_name_that_cannot_be_one_of_the_hub_and_an_unknown_one_say_so(
    hub, vector, guard, smollm2, tmp_path
):
    with pytest.raises(ValueError, match="'terse' is no hub id; give owner/name"):
        vector.push_to_hub("terse")
    with pytest.raises(ValueError, match="nobody/nothing"):
        SafetyFilter.from_pretrained("nobody/nothing", smollm2)
    with pytest.raises(ValueError, match=r"there is no style vector 'vectors/lost.safetensors'"):
        StyleVector.from_pretrained("vectors/lost.safetensors", smollm2)
    vector.save(tmp_path / "style_vector.safetensors")
    assert StyleVector.from_pretrained(tmp_path, smollm2).norm == vector.norm
    with pytest.raises(ValueError, match="revision 'main' needs a style vector on the hub"):
        StyleVector.from_pretrained(tmp_path, smollm2, revision="main")
    guard.save(tmp_path / "guard")
    with pytest.raises(ValueError, match="revision 'main' needs a filter on the hub"):
        SafetyFilter.from_pretrained(tmp_path / "guard", smollm2, revision="main")
