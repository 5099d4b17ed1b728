"""Compression: exact lengths, template rows untouched, and what each method is by definition."""

import gc
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe, compress
from embedspace.compression import SALIENCE_VERSION
from embedspace.compression.methods import allot
from embedspace.compression.pooling import averaged, floored, merged
from embedspace.compression.text_units import Units
from embedspace.compression.token_information import is_informative, token_information
from embedspace.space import RowText
from embedspace.space.embedding_space import EmbeddingSpace
from embedspace.space.nearest_rows import token_ids

HIDDEN = 5
MADE = Recipe.of("made", {"by": "test"})
PLAIN = ["average", "truncate", "drop"]
PASSAGE = (
    "The company Brisk, founded in 2009 by engineer Mona Novak, has announced a new camera. "
    "It costs 41 dollars and is made of bamboo."
)


def prompt(mask, seed=0, dtype=torch.float32):
    rows = torch.randn(len(mask), HIDDEN, generator=torch.Generator().manual_seed(seed))
    return PromptEmbeds(rows.to(dtype), torch.tensor(mask), "s", MADE)


masks = st.lists(st.booleans(), min_size=1, max_size=40).filter(any)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@st.composite
def prompts_and_lengths(draw):
    made = prompt(draw(masks), draw(st.integers(0, 99)), draw(dtypes))
    length = draw(st.integers(len(made.content_runs), int(made.content.sum())))
    return made, length


def dense(pooling, rows):
    """The weights of a pooling as an ordinary matrix [length, rows]."""
    matrix = np.zeros((len(pooling.starts), rows))
    for bag, (start, size) in enumerate(zip(pooling.starts.tolist(), pooling.sizes.tolist(), strict=True)):
        for entry in range(start, start + size):
            matrix[bag, pooling.rows[entry]] += float(pooling.shares[entry])
    return matrix


@given(prompts_and_lengths(), st.sampled_from(PLAIN))
def test_the_length_is_exact_and_template_rows_are_bit_identical(case, method):
    made, length = case
    short = compress(made, length=length, method=method)
    assert int(short.content.sum()) == length
    assert torch.equal(short.vectors[~short.content], made.vectors[~made.content])
    assert len(short.content_runs) == len(made.content_runs)
    assert short.vectors.dtype == made.vectors.dtype


@given(masks, st.floats(1, 50), st.sampled_from([*PLAIN, "floor_average"]))
def test_a_ratio_is_rounded_up_to_rows_and_leaves_every_message_one(mask, ratio, method):
    made = prompt(mask)
    rows, runs = int(made.content.sum()), len(made.content_runs)
    wanted = max(runs, -int(-rows // ratio))
    assert len(compress(made, ratio, method=method)) == len(made) - rows + wanted


@given(prompts_and_lengths(), st.sampled_from([*PLAIN, "merge", "salience", "floor_average"]))
def test_ratio_one_and_the_full_length_are_the_prompt_itself(case, method):
    made, _ = case
    assert compress(made, ratio=1, method=method) is made
    assert compress(made, length=int(made.content.sum()), method=method) is made


@given(st.integers(1, 60), st.data())
def test_every_content_row_weighs_the_same_in_the_average_and_none_is_lost(rows, data):
    length = data.draw(st.integers(1, rows))
    weights = dense(averaged(rows, length), rows)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.sum(axis=0), length / rows)
    # The share of a row in a bin is the part of the bin that the row covers, as real intervals have it.
    width = rows / length
    for bag in range(length):
        for row in range(rows):
            overlap = max(0.0, min(row + 1, (bag + 1) * width) - max(row, bag * width))
            assert weights[bag, row] == pytest.approx(overlap / width, abs=1e-9)


def test_every_content_row_reaches_the_compressed_prompt():
    made = prompt([True] * 10)
    before = compress(made, length=4, method="average").vectors
    for row in range(10):
        changed = made.vectors.clone()
        changed[row] += 1
        moved = made.with_content(changed)
        assert not torch.equal(compress(moved, length=4, method="average").vectors, before)


@given(prompts_and_lengths())
def test_averages_are_those_of_an_independent_computation_within_each_run(case):
    made, length = case
    made = made.to(torch.float32)
    short = compress(made, length=length, method="average")
    for old, new in zip(made.content_runs, short.content_runs, strict=True):
        rows, wanted = made.vectors[old].double().numpy(), new.stop - new.start
        fine = np.repeat(rows, wanted, axis=0).reshape(wanted, len(rows), HIDDEN).mean(axis=1)
        np.testing.assert_allclose(short.vectors[new].numpy(), fine, atol=1e-5)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_lengths_are_shared_out_in_proportion_and_no_run_gets_more_than_it_has(rows, data):
    length = data.draw(st.integers(len(rows), sum(rows)))
    lengths = allot(rows, length)
    assert sum(lengths) == length
    assert all(1 <= own <= count for own, count in zip(lengths, rows, strict=True))
    exact = [length * count / sum(rows) for count in rows]
    if min(exact) >= 1:
        assert all(abs(own - share) < 1 for own, share in zip(lengths, exact, strict=True))


def test_truncation_keeps_the_first_rows_and_dropping_evenly_spaced_ones():
    made = prompt([True] * 10)
    assert torch.equal(compress(made, length=3, method="truncate").vectors, made.vectors[:3])
    assert torch.equal(compress(made, length=5, method="drop").vectors, made.vectors[1::2])


def test_the_floor_kernel_loses_the_tail_and_pools_the_template_too():
    weights = dense(floored(10, 4), 10)
    assert weights[:, 8:].sum() == 0
    made = prompt([False, *[True] * 9])
    short = compress(made, length=3, method="floor_average")
    pooled = torch.nn.functional.avg_pool1d(made.vectors.T[None], 2)[0].T[:4]
    torch.testing.assert_close(short.vectors, pooled)


@given(st.integers(2, 9), st.integers(0, 99), st.data())
def test_merging_joins_the_most_similar_neighbours_one_after_another(count, seed, data):
    rows = torch.randn(count, HIDDEN, generator=torch.Generator().manual_seed(seed))
    mean = torch.linspace(-1, 1, HIDDEN)
    length = data.draw(st.integers(1, count))
    groups = [[row] for row in range(count)]
    centred = rows.double().numpy() - mean.double().numpy()
    while len(groups) > length:
        means = [centred[group].mean(axis=0) for group in groups]
        units = [row / np.linalg.norm(row) for row in means]
        best = int(np.argmax([x @ y for x, y in itertools.pairwise(units)]))
        groups[best : best + 2] = [groups[best] + groups[best + 1]]
    found = merged(rows, length, mean)
    assert found.starts.tolist() == [group[0] for group in groups]
    expected = [rows.double().numpy()[group].mean(axis=0) for group in groups]
    np.testing.assert_allclose(found(rows).numpy(), expected, atol=1e-5)


def test_rows_of_the_table_are_recognised_and_moved_rows_go_to_the_nearest(smollm2):
    ids = smollm2.tokenize(PASSAGE)
    rows = smollm2.lookup(ids)
    assert token_ids(smollm2, rows).tolist() == ids
    assert token_ids(smollm2, rows.float() + 0.001).tolist() == ids
    assert token_ids(smollm2, rows.float()).tolist() == ids


def test_the_default_keeps_names_and_numbers_and_says_so_in_the_recipe(smollm2):
    made = smollm2.embed_chat([{"role": "user", "content": PASSAGE}])
    short = compress(made, ratio=2, space=smollm2)
    text = smollm2.read(short)
    assert all(word in text for word in ("Brisk", "2009", "41"))
    parameters = dict(short.recipe.parameters)
    assert parameters["method"] == "salience"
    assert parameters["information"] == "vocabulary"
    assert parameters["version"] == SALIENCE_VERSION
    assert not {"only", "keep", "query", "matched", "engine"} & parameters.keys()
    assert short.recipe.inputs == (made.recipe,)


def test_the_default_is_the_same_with_a_space_and_without(smollm2):
    made = smollm2.embed_chat([{"role": "user", "content": PASSAGE}])
    given, bare = compress(made, 4, space=smollm2), compress(made, 4)
    assert torch.equal(given.vectors, bare.vectors)
    assert given.recipe == bare.recipe


def test_a_prompt_finds_a_space_in_use_and_a_space_that_nobody_holds_is_asked_for(smollm2):
    def space():
        return EmbeddingSpace("of the test", smollm2.folder, smollm2.tokenizer, smollm2.table, "f" * 32, None)

    first, second = space(), space()
    made = first.embed(PASSAGE)
    assert 1 <= len(compress(made, length=5)) <= 5
    del second
    gc.collect()
    assert len(compress(made, length=5, method="merge")) == 5
    del first
    gc.collect()
    for method in ("salience", "merge"):
        with pytest.raises(ValueError, match=r"f{32} is in use: pass the prompt's space="):
            compress(made, length=5, method=method)
    assert len(compress(made, length=5, method="drop")) == 5


CHAT = [
    {"role": "user", "content": PASSAGE},
    {"role": "assistant", "content": "Fine."},
    {"role": "user", "content": "What does it cost, please?"},
]


@pytest.mark.parametrize("ratio", [1.5, 2, 4, 8, 1000])
def test_merging_keeps_the_exact_length_and_salience_at_most_it(smollm2, ratio):
    made = smollm2.embed_chat(CHAT)
    rows, runs = int(made.content.sum()), len(made.content_runs)
    length = max(runs, -int(-rows // ratio))
    merged, kept = (compress(made, ratio, method=method, space=smollm2) for method in ("merge", "salience"))
    assert int(merged.content.sum()) == length
    assert runs <= int(kept.content.sum()) <= length
    for short in (merged, kept):
        assert torch.equal(short.vectors[~short.content], made.vectors[~made.content])
        assert len(short.content_runs) == runs
        assert dict(short.recipe.parameters)["length"] == length


@given(st.integers(1, 36))
def test_salience_keeps_rows_of_the_prompt_and_nearly_as_many_as_it_may(smollm2, length):
    made = smollm2.embed(PASSAGE)
    kept = compress(made, length=min(length, len(made)), space=smollm2)
    # Two rows a word at most, with the separator before it, fit into what is left.
    assert length - 3 <= len(kept) <= length
    known = {row.numpy(force=True).tobytes() for row in made.vectors.float()}
    known |= {
        row.numpy(force=True).tobytes()
        for row in smollm2.lookup([*smollm2.tokenize(" "), *smollm2.tokenize("\n")]).float()
    }
    assert all(row.numpy(force=True).tobytes() in known for row in kept.vectors.float())


def test_the_shortest_unit_of_a_message_survives_at_any_ratio(smollm2):
    word = "Donaudampfschifffahrtsgesellschaft"
    made = smollm2.embed(word)
    assert len(made) > 4
    assert smollm2.read(compress(made, 1000, space=smollm2)) == word
    made = smollm2.embed_chat([{"role": "user", "content": word}, {"role": "assistant", "content": "Yes."}])
    short = compress(made, 1000, space=smollm2)
    first = short.content_runs[0]
    assert smollm2.read(smollm2.embed(word)) == smollm2.tokenizer.decode(
        token_ids(smollm2, short.vectors[first]).tolist()
    )
    assert len(short.content_runs) == 2


def test_a_length_that_is_too_small_for_the_shortest_words_is_an_error_with_their_rows(smollm2):
    made = smollm2.embed("Donaudampfschifffahrtsgesellschaft")
    with pytest.raises(
        ValueError, match=rf"length is 2; the shortest words of 1 messages take {len(made)} rows"
    ):
        compress(made, length=2, space=smollm2)


def test_empty_space_around_and_between_words_is_no_reason_to_fail(smollm2):
    for text in ("   ", "\n", "...", "  12  ", "a", "\n\n\nword\n\n\n"):
        made = smollm2.embed(text)
        assert 1 <= len(compress(made, 2, space=smollm2)) <= len(made)


@given(st.lists(st.integers(0, 49_000), min_size=2, max_size=30), st.floats(1, 40))
def test_any_sequence_of_tokens_can_be_compressed(smollm2, ids, ratio):
    rows = smollm2.lookup(ids)
    made = PromptEmbeds(rows, torch.ones(len(ids), dtype=torch.bool), smollm2.fingerprint, MADE)
    short = compress(made, ratio, space=smollm2)
    assert 1 <= len(short) <= len(made)


def test_matched_norms_move_mixed_rows_out_and_leave_kept_rows_alone(smollm2):
    made = smollm2.embed(PASSAGE)
    plain, pushed = (
        compress(made, 3, method="merge", space=smollm2, match_norm=norm) for norm in (False, True)
    )

    def distance(short):
        return (short.vectors.float() - smollm2.mean).norm(dim=1)

    assert (distance(pushed) >= distance(plain) - 0.05).all()
    assert distance(pushed).mean() > distance(plain).mean()
    kept = [compress(made, 3, space=smollm2, match_norm=norm).vectors for norm in (False, True)]
    assert torch.equal(*kept)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({}, "either ratio or length"),
        ({"ratio": 2, "length": 3}, "either ratio or length"),
        ({"ratio": 0.5}, "at least 1"),
        ({"ratio": float("nan")}, "at least 1"),
        ({"ratio": float("inf")}, "at least 1"),
        ({"length": 0}, "from 2 to 5"),
        ({"length": 1}, "from 2 to 5"),
        ({"length": 6}, "from 2 to 5"),
        ({"length": 2.5}, "whole number"),
        ({"ratio": 2, "method": "median"}, "average, merge, salience, truncate, drop, floor_average"),
        ({"ratio": 2, "information": "luck"}, "vocabulary, surprisal, attention"),
        ({"ratio": 2, "opening": 1.1}, r"opening.*\[0, 1\]"),
        ({"ratio": 2, "opening": float("nan")}, r"opening.*\[0, 1\]"),
        ({"ratio": 2, "opening": -0.1}, r"opening.*\[0, 1\]"),
        ({"ratio": 2, "method": "drop", "query": "Why?"}, "method='salience'"),
        ({"ratio": 2, "method": "merge", "keep": "not"}, "method='salience'"),
        ({"ratio": 2, "method": "merge"}, "space="),
        ({"ratio": 2, "method": "salience"}, "space="),
        ({"ratio": 2, "match_norm": True}, "space="),
    ],
)
def test_bounds_and_missing_pieces_are_errors_that_say_what_is_allowed(asked, message):
    with pytest.raises(ValueError, match=message):
        compress(prompt([True, True, False, True, True, True]), **asked)


def test_prompts_that_cannot_be_compressed_are_refused(smollm2):
    with pytest.raises(ValueError, match="has none"):
        compress(prompt([False, False]), 2)
    broken = prompt([True, True])
    broken.vectors[1, 0] = torch.nan
    with pytest.raises(ValueError, match=r"row 1\)"):
        compress(broken, 2)
    foreign = PromptEmbeds(smollm2.embed(PASSAGE).vectors, smollm2.embed(PASSAGE).content, "other", MADE)
    with pytest.raises(ValueError, match="the space other"):
        compress(foreign, 2, space=smollm2)
    with pytest.raises(ValueError, match="engine="):
        compress(smollm2.embed(PASSAGE), 2, space=smollm2, method="salience", information="surprisal")


def test_words_are_worth_more_than_signs_and_numbers_more_than_the_commonest_words(smollm2):
    text = "The bank, as agreed, takes a fee of $25 in the winter."
    ids = smollm2.tokenize(text)
    units = Units.of(RowText.of(smollm2, ids))
    found = token_information(smollm2, ids, units).tolist()
    values = dict(zip(units.texts, (found[row] for row in units.rows), strict=False))
    assert values[","] == values["."] == 0
    assert min(values[word] for word in (" bank", " fee", " winter")) > values[" in"] > 0
    assert values[" $25"] > values[" in"]
    informative = dict(zip(units.texts, is_informative(ids, units), strict=True))
    assert informative[" bank"]
    assert informative[" $25"]
    assert not informative[" in"]
    assert not informative[","]


def test_the_opening_keeps_the_first_informative_words(smollm2):
    made = smollm2.embed(
        "Harbour rules: the ferry waits for nobody at 17 minutes past every single odd hour in Trieste"
    )
    whole = compress(made, length=6, opening=1.0, space=smollm2)
    assert smollm2.read(whole).startswith("Harbour rules")
