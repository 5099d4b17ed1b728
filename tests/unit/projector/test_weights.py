"""The projector that comes with the package, against what its card says."""

import json

import pytest

from embedspace import Projector
from embedspace.engines import TransformersEngine
from embedspace.projector.card import EXAMPLES, card_metrics
from embedspace.projector.weights_file import SHIPPED

NAME = "minilm-to-smollm2"


@pytest.fixture(scope="module")
def projector(smollm2):
    return Projector.from_pretrained(NAME, space=smollm2)


def test_it_is_small_and_for_the_packaged_pair_of_models(projector):
    assert sum(path.stat().st_size for path in (SHIPPED / NAME).iterdir()) <= 8_000_000
    assert (projector.config.encoder, projector.config.space_name) == (
        "all-minilm-l6-v2",
        "smollm2-135m-instruct",
    )
    assert projector.tokens <= 8
    assert projector.encoder.fingerprint == projector.config.encoder_fingerprint


def test_it_gives_the_metrics_of_its_card(projector, smollm2):
    said = json.loads((SHIPPED / NAME / "config.json").read_text())["metrics"]["examples of the card"]
    found = card_metrics(projector, TransformersEngine(smollm2, dtype="float32"), EXAMPLES)
    # The card's figures are of the weights before they were rounded to half precision.
    assert found["nats per token"] == pytest.approx(said["nats per token"], abs=0.01)
    assert found["closed"] == pytest.approx(said["closed"], abs=0.01)


def test_the_card_says_what_the_configuration_holds(projector):
    card = (SHIPPED / NAME / "README.md").read_text()
    for values in projector.config.metrics.values():
        assert f"{100 * values['closed'][0]:.0f}% (" in card
    for kind in projector.config.training["sentences"]:
        assert kind in card


def test_it_tells_sentences_apart(projector, smollm2):
    """Against the better control, on sentences that nobody trained on."""
    from embedspace.projector.evaluation import score_conditions

    soft = projector(projector.encode(EXAMPLES)).detach()
    closed = score_conditions(TransformersEngine(smollm2, dtype="float32"), soft, EXAMPLES).gap_closed()
    assert closed.low > 0.5


def test_its_soft_tokens_can_be_read(projector, smollm2):
    assert (
        "violin"
        in smollm2.read(projector.project("She plays the violin in a small orchestra.", smollm2)).lower()
    )
