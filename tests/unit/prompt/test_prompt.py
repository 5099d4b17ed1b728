"""PromptEmbeds and Recipe: values that cannot be put together wrongly."""

import dataclasses
import itertools
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe

MADE = Recipe.of("made", {"by": "test"})


def prompt(content, hidden=4, space="s", dtype=torch.float32):
    rows = torch.arange(len(content) * hidden, dtype=dtype).reshape(len(content), hidden)
    return PromptEmbeds(rows, torch.tensor(content, dtype=torch.bool), space, MADE)


masks = st.lists(st.booleans(), min_size=1, max_size=12)


@given(masks)
def test_runs_are_the_stretches_of_adjacent_content_rows(mask):
    runs = prompt(mask).content_runs
    assert [i for run in runs for i in range(run.start, run.stop)] == [i for i, own in enumerate(mask) if own]
    assert all(b.start > a.stop for a, b in itertools.pairwise(runs))


@given(masks.filter(any))
def test_replacing_content_row_by_row_leaves_template_rows_bit_identical(mask):
    old = prompt(mask)
    new = old.with_content(-old.content_vectors)
    assert torch.equal(new.vectors[~old.content], old.vectors[~old.content])
    assert torch.equal(new.content_vectors, -old.content_vectors)
    assert torch.equal(new.content, old.content)


@given(masks.filter(any), st.data())
def test_runs_can_be_replaced_by_any_number_of_rows(mask, data):
    old = prompt(mask)
    sizes = [data.draw(st.integers(0, 5)) for _ in old.content_runs]
    if not sum(sizes) + sum(not own for own in mask):
        sizes[0] = 1
    new = old.with_runs([torch.full((size, 4), -1.0) for size in sizes])
    assert len(new) == len(old) - sum(mask) + sum(sizes)
    assert torch.equal(new.vectors[~new.content], old.vectors[~old.content])
    assert int(new.content.sum()) == sum(sizes)


def test_another_number_of_rows_over_several_runs_is_ambiguous():
    with pytest.raises(ValueError, match="with_runs"):
        prompt([True, False, True]).with_content(torch.zeros(3, 4))


def test_another_number_of_rows_in_one_run_replaces_it():
    new = prompt([False, True, True, False]).with_content(torch.zeros(5, 4))
    assert new.content.tolist() == [False, *[True] * 5, False]


def test_concat_joins_rows_masks_and_recipes():
    a, b = prompt([True, False]), prompt([True])
    both = PromptEmbeds.concat([a, b])
    assert torch.equal(both.vectors, torch.cat([a.vectors, b.vectors]))
    assert both.content.tolist() == [True, False, True]
    assert both.recipe.inputs == (MADE, MADE)


def test_a_prompt_cannot_be_changed_in_place():
    with pytest.raises(dataclasses.FrozenInstanceError):
        prompt([True]).space = "other"


def test_casting_is_recorded_and_casting_to_the_same_dtype_is_nothing():
    original = prompt([True])
    assert original.to(torch.float32) is original
    assert original.to(torch.bfloat16).vectors.dtype == torch.bfloat16
    assert original.to(torch.bfloat16).recipe.operation == "to"


@pytest.mark.parametrize(
    ("make", "error", "words"),
    [
        (lambda: PromptEmbeds(torch.zeros(2, 3).long(), torch.ones(2).bool(), "s", MADE), TypeError, "int64"),
        (lambda: PromptEmbeds([[0.0]], torch.ones(1).bool(), "s", MADE), TypeError, "list"),
        (lambda: PromptEmbeds(torch.zeros(2, 3), torch.ones(2), "s", MADE), TypeError, "float32"),
        (lambda: PromptEmbeds(torch.zeros(2, 3), torch.ones(3).bool(), "s", MADE), ValueError, "2 rows"),
        (lambda: PromptEmbeds(torch.zeros(0, 3), torch.ones(0).bool(), "s", MADE), ValueError, r"\[0, 3\]"),
        (lambda: PromptEmbeds(torch.zeros(3), torch.ones(3).bool(), "s", MADE), ValueError, r"\[3\]"),
        (lambda: PromptEmbeds.concat([]), ValueError, "at least one"),
        (lambda: PromptEmbeds.concat([prompt([True]), prompt([True], space="t")]), ValueError, "s and t"),
        (
            lambda: PromptEmbeds.concat([prompt([True]), prompt([True], dtype=torch.float16)]),
            ValueError,
            "dtypes",
        ),
        (lambda: prompt([False]).with_content(torch.zeros(1, 4)), ValueError, "no content rows"),
        (lambda: prompt([True]).with_content(torch.zeros(1, 5)), ValueError, r"\[rows, 4\]"),
        (lambda: Recipe.of("x", {"vector": [1, 2]}), TypeError, "'vector' of 'x' is a list"),
    ],
)
def test_malformed_parts_are_named(make, error, words):
    with pytest.raises(error, match=words):
        make()


values = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text())
recipes = st.recursive(
    st.builds(
        lambda name, parameters: Recipe.of(name, parameters), st.text(), st.dictionaries(st.text(), values)
    ),
    lambda inner: st.builds(
        lambda name, inputs: Recipe.of(name, {}, *inputs), st.text(), st.lists(inner, max_size=3)
    ),
    max_leaves=6,
)


@given(recipes)
def test_a_recipe_survives_json_and_hashes_by_value(recipe):
    again = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert again == recipe
    assert hash(again) == hash(recipe)
    assert again.digest == recipe.digest


def test_recipes_that_a_careless_key_would_confuse_have_different_digests():
    digests = {
        Recipe.of("embed", {"text": "a"}).digest,
        Recipe.of("embed", {"tex": "ta"}).digest,
        Recipe.of("embed", {"text": "1"}).digest,
        Recipe.of("embed", {"text": 1}).digest,
        Recipe.of("embed", {"text": 1.0}).digest,
        Recipe.of("embed", {"text": True}).digest,
        Recipe.of("embed", {}, Recipe.of("text", {})).digest,
    }
    assert len(digests) == 7
