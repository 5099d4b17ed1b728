"""The interpolation experiment asks what it says, and finds in records what was put there."""

import math

import pytest
import torch
from hydra.utils import instantiate

from embedspace.engines.base import Sampling
from embedspace.metrics import Score, zero_padded
from embedspace.runs.cases import prompt_sha256
from embedspace.runs.records import Record
from embedspace.space.nearest_rows import nearest_distances
from experiments.interpolation.experiment import Interpolation
from experiments.interpolation.metrics import COPIED, FIRST, RANDOM, SECOND
from tests.unit.test_configs import composed

STEPS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
KINDS = ["one topic", "two topics"]


def experiment(**changes):
    pairs = [{"kind": KINDS[n % 2], "first": f"Ask {n}?", "second": f"Tell {n} and more."} for n in range(10)]
    values = {
        "pairs": pairs,
        "ways": {"lerp": {"method": "lerp"}, "warped": {"method": "slerp", "align": "dtw"}, "left out": None},
        "zero_padded": True,
        "steps": STEPS,
        "answered_steps": [0.5],
        "random_seeds": [0, 1],
        "random_steps": [0.2, 0.4, 0.6, 0.8, 1.0],
    }
    return Interpolation(**{**values, **changes})


def recorded(cases, share, *, scored=True):
    """Records of a model whose turn is ``share`` of t, and whose answers are one of two texts."""
    for case in cases:
        tags, scores, text = case.tags, {}, ""
        t = float(tags.get("t", tags.get("end") == SECOND))
        turned = share(t) ** (1 + 0.02 * int(tags["pair"]))  # no pair is as the other
        made = turned if tags.get("path") != RANDOM else 0.0
        if scored and "path" in tags:
            wobble = 0.01 * int(tags["pair"])
            scores = {
                FIRST: Score(-10 * (0.3 + 2 * turned + wobble), 10),
                SECOND: Score(-10 * (0.3 + 2 * (1 - made)), 10),
            }
        if case.answered:
            text = "Water boils in a kettle." if made < 0.5 else "The orchestra plays a symphony."
        yield Record(
            key=case.key, choice=0, tags=tags, recipe=case.recipe, rows=1, sampling=Sampling(), space="",
            engine={}, text=text, token_ids=(), finish_reason="stop", seconds=0.0, scores=scores,
        )  # fmt: skip


@pytest.fixture(scope="module")
def cases(smollm2):
    return list(experiment().cases(smollm2))


def section(cases, share, **options):
    (found,) = experiment().analyse(list(recorded(cases, share, **options))).sections
    return found


def test_a_model_that_follows_t_is_called_a_path(cases):
    found = section(cases, lambda t: t)
    assert found.finding.startswith("A path, not a switch")
    assert found.verdict.startswith(
        "Between two prompts the answer changes as gradually as a straight line: "
    )
    assert "describes a path and tests nothing" in found.text


def test_a_few_pairs_cannot_tell_a_path_from_a_switch(cases):
    few = [case for case in cases if case.tags["pair"] < 4]
    found = section(few, lambda t: t)
    assert found.finding.startswith("4 pairs cannot tell a path from a switch")
    assert found.verdict.startswith("4 pairs of prompts are too few to tell a path from a switch: ")


def test_a_model_that_flips_is_called_a_switch_and_the_place_is_told(cases):
    found = section(cases, lambda t: 1 / (1 + math.exp(-60 * (t - 0.65))))
    assert found.finding.startswith("A switch, not a path")
    assert "half of it by t 0.65" in found.finding
    assert found.verdict.startswith("Between two prompts the answer switches: ")


def test_without_likelihoods_the_turn_is_read_from_the_answers(smollm2):
    answered = [case for case in experiment(answered_steps=STEPS).cases(smollm2) if case.answered]
    found = section(answered, lambda t: t, scored=False)
    assert "similarity of the answers given" in found.finding
    assert found.tables


def test_too_few_records_are_said_to_be_too_little(cases):
    (empty,) = experiment().analyse([]).sections
    assert "Too little" in empty.finding
    assert empty.verdict == ""


def test_every_way_and_control_is_in_the_tables_and_the_one_left_out_is_not(cases):
    ways, effects, leaving, kinds, _ = section(cases, lambda t: t).tables
    assert [row[0] for row in ways.rows] == ["lerp", "warped", COPIED]
    assert {row[0] for row in effects.rows} == {
        "lerp against straight line", "warped against lerp", f"{COPIED} against lerp",
    }  # fmt: skip
    assert [row[0] for row in leaving.rows] == ["lerp", RANDOM]
    assert [(row[0], row[1]) for row in kinds.rows] == [(kind, 5) for kind in KINDS]


def test_a_wider_turn_shows_as_a_difference_with_its_effect_size(cases):
    made = list(recorded(cases, lambda t: t))
    sharp = list(recorded(cases, lambda t: 1 / (1 + math.exp(-40 * (t - 0.5)))))
    mixed = [b if a.tags.get("path") == "warped" else a for a, b in zip(made, sharp, strict=True)]
    effects = experiment().analyse(mixed).sections[0].tables[1]
    difference = next(row[2] for row in effects.rows if row[:2] == ["warped against lerp", "width"])
    assert difference.estimate < -0.5
    assert difference.known or difference.items >= 10


def test_random_paths_differ_by_seed_and_pair_and_start_where_the_others_do(cases):
    ends = [case for case in cases if case.tags.get("path") == RANDOM and case.tags["t"] == 1.0]
    assert len({prompt_sha256(case.prompt) for case in ends}) == len(ends) == 20


def test_what_is_answered_comes_first_and_cases_come_alike_each_time(smollm2, cases):
    order = [case.answered for case in cases if "path" in case.tags]
    assert order == sorted(order, reverse=True)
    again = list(experiment().cases(smollm2))
    assert [(case.key, case.recipe, case.tags) for case in again] == [
        (case.key, case.recipe, case.tags) for case in cases
    ]


def test_distance_to_the_vocabulary_is_zero_on_its_rows_and_as_computed_by_hand_elsewhere(smollm2):
    rows = smollm2.lookup([5, 900, 40_000]).float()
    moved = rows + 0.05 * torch.randn(rows.shape, generator=torch.Generator().manual_seed(0))
    by_hand = (
        torch.cdist(moved.double(), smollm2.lookup(range(smollm2.vocab_size)).double()).min(dim=1).values
    )
    assert nearest_distances(smollm2, rows).abs().max() == 0
    assert torch.allclose(nearest_distances(smollm2, moved).double(), by_hand, atol=1e-5)


def test_zero_padding_blends_template_rows_and_keeps_zeros_at_its_ends(smollm2):
    a, b = (smollm2.embed_chat([{"role": "user", "content": text}]) for text in ("Hi", "Hello my old friend"))
    assert torch.equal(zero_padded(a, b, 0.0).vectors[: len(a)], a.vectors)
    assert not zero_padded(a, b, 0.0).vectors[len(a) :].any()
    half = zero_padded(a, b, 0.5).vectors
    assert torch.allclose(half[len(a) :].float(), b.vectors[len(a) :].float() / 2)


def test_the_splits_share_no_prompt_and_have_pairs_of_every_kind():
    development, held_out = (
        instantiate(
            composed("experiment=interpolation", f"data/interpolation={split}", "out=unused").experiment
        )
        for split in ("development", "held_out")
    )
    reported = [
        {pair[end] for pair in split.pairs for end in ("first", "second")}
        for split in (development, held_out)
    ]
    assert len(held_out.pairs) >= 12
    assert {pair["kind"] for pair in development.pairs} == {pair["kind"] for pair in held_out.pairs}
    assert len(reported[1]) == 2 * len(held_out.pairs)
    # Prompts of the demo and of development may be alike; what is reported on has been seen by neither.
    assert not reported[0] & reported[1]
