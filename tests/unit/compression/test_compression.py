"""Compression: exact lengths, template rows untouched, and what each method is by definition."""

import gc
import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe, compress
from embedspace.compression.methods import allot
from embedspace.compression.pooling import averaged, floored, merged
from embedspace.compression.token_information import (
    number_parts,
    surprisal,
    token_information,
    token_texts,
    word_numbers,
)
from embedspace.compression.token_selection import TokenFeatures, salient
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


def random_features(words: torch.Tensor, seed: int) -> TokenFeatures:
    generator = torch.Generator().manual_seed(seed)
    return TokenFeatures(
        torch.rand(len(words), generator=generator), words, torch.rand(len(words), generator=generator) < 0.5
    )


@given(st.lists(st.integers(1, 4), min_size=1, max_size=10), st.integers(0, 99), st.floats(0, 1), st.data())
def test_salience_keeps_the_first_informative_words_for_their_share_of_the_length(sizes, seed, opening, data):
    words = torch.tensor([word for word, size in enumerate(sizes) for _ in range(size)])
    features = random_features(words, seed)
    length = data.draw(st.integers(1, len(words)))
    kept = set(salient(features, length, opening=opening, fold=0.0).rows.tolist())
    assert len(kept) == length
    share, left = round(opening * length), length
    for word in dict.fromkeys(words[features.informative].tolist()):
        rows = set((words == word).nonzero().flatten().tolist())
        if share <= 0:
            break
        share -= len(rows)
        if len(rows) <= left:
            assert rows <= kept
            left -= len(rows)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=10), st.integers(0, 99), st.data())
def test_salience_keeps_whole_words_in_order_and_the_best_first(sizes, seed, data):
    words = torch.tensor([word for word, size in enumerate(sizes) for _ in range(size)])
    features = random_features(words, seed)
    length = data.draw(st.integers(1, len(words)))
    kept = salient(features, length, opening=0.0, fold=0.0).rows.tolist()
    assert kept == sorted(set(kept))
    assert len(kept) == length
    means = [float(features.information[words == word].double().mean()) for word in range(len(sizes))]
    best = int(np.argmax(means))
    if sizes[best] <= length:
        assert set((words == best).nonzero().flatten().tolist()) <= set(kept)


@given(st.integers(1, 20), st.integers(0, 99), st.floats(0.01, 1), st.data())
def test_folding_brings_every_row_left_out_into_the_nearest_kept_one(count, seed, fold, data):
    features = random_features(torch.arange(count), seed)
    length = data.draw(st.integers(1, count))
    kept = salient(features, length, opening=0.3, fold=0.0).rows.numpy()
    weights = dense(salient(features, length, opening=0.3, fold=fold), count)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    for row in range(count):
        bag = int(np.abs(kept - row).argmin())
        assert (weights[:, row] > 0).nonzero()[0].tolist() == [bag]
        share = 1.0 if row in kept else fold
        assert weights[bag, row] == pytest.approx(share * weights[bag, kept[bag]])


def test_rows_of_the_table_are_recognised_and_moved_rows_go_to_the_nearest(smollm2):
    ids = smollm2.tokenize(PASSAGE)
    rows = smollm2.lookup(ids)
    assert token_ids(smollm2, rows).tolist() == ids
    assert token_ids(smollm2, rows.float() + 0.001).tolist() == ids
    assert token_ids(smollm2, rows.float()).tolist() == ids


def test_words_are_whole_and_digits_and_names_have_more_information_than_function_words(smollm2):
    ids = smollm2.tokenize("In 2009 Mr Kowalski, the dentist, had cats.")
    texts = token_texts(smollm2, ids)
    assert "".join(texts) == "In 2009 Mr Kowalski, the dentist, had cats."
    numbers = word_numbers(texts)
    assert len({n for n, text in zip(numbers, texts, strict=True) if text in {"2", "0", "9"}}) == 1
    assert numbers == sorted(numbers)
    found = dict(zip(texts, token_information(smollm2, ids, texts).tolist(), strict=True))
    assert found[","] == 0 < found[" the"] < found[" dentist"] < found["2"]


def test_tokens_of_parts_of_characters_are_one_word_and_no_punctuation(smollm2):
    ids = smollm2.tokenize("鬱")
    texts = token_texts(smollm2, ids)
    assert len(ids) > 1
    assert len(set(word_numbers(texts))) == 1
    assert (token_information(smollm2, ids, texts) > 0).all()


def test_words_of_unspaced_scripts_are_tokens_and_no_word_is_longer_than_eight():
    assert word_numbers(["東", "京", " a", "b"]) == [0, 1, 2, 2]
    assert word_numbers(["x"] * 14) == [0] * 12 + [1] * 2


def test_the_default_keeps_the_informative_words_and_says_so_in_the_recipe(smollm2):
    made = smollm2.embed_chat([{"role": "user", "content": PASSAGE}])
    short = compress(made, ratio=2, space=smollm2)
    text = smollm2.read(short)
    assert all(word in text for word in ("Brisk", "2009", "41", "camera"))
    parameters = dict(short.recipe.parameters)
    assert parameters["method"] == "salience"
    assert parameters["information"] == "vocabulary"
    assert short.recipe.inputs == (made.recipe,)


def test_the_default_is_the_same_with_a_space_with_an_engine_and_with_neither(smollm2, engine):
    made = smollm2.embed_chat([{"role": "user", "content": PASSAGE}])
    given, asked, bare = compress(made, 4, space=smollm2), compress(made, 4, engine=engine), compress(made, 4)
    assert torch.equal(given.vectors, asked.vectors)
    assert torch.equal(given.vectors, bare.vectors)
    assert given.recipe == bare.recipe == asked.recipe


def test_a_prompt_finds_a_space_in_use_and_a_space_that_nobody_holds_is_asked_for(smollm2):
    def space():
        return EmbeddingSpace("of the test", smollm2.folder, smollm2.tokenizer, smollm2.table, "f" * 32, None)

    first, second = space(), space()
    made = first.embed(PASSAGE)
    assert len(compress(made, length=5)) == 5
    del second
    gc.collect()
    assert len(compress(made, length=5)) == 5
    del first
    gc.collect()
    for method in ("salience", "merge"):
        with pytest.raises(ValueError, match=r"f{32} is in use: pass the prompt's space="):
            compress(made, length=5, method=method)
    assert len(compress(made, length=5, method="drop")) == 5


@pytest.mark.parametrize("method", ["merge", "salience"])
@pytest.mark.parametrize("ratio", [1.5, 2, 4, 8, 1000])
def test_methods_that_need_the_vocabulary_keep_lengths_and_template_rows(smollm2, method, ratio):
    made = smollm2.embed_chat(
        [
            {"role": "user", "content": PASSAGE},
            {"role": "assistant", "content": "Fine."},
            {"role": "user", "content": "What does it cost, please?"},
        ]
    )
    short = compress(made, ratio, method=method, space=smollm2)
    rows, runs = int(made.content.sum()), len(made.content_runs)
    assert int(short.content.sum()) == max(runs, -int(-rows // ratio))
    assert torch.equal(short.vectors[~short.content], made.vectors[~made.content])


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


@pytest.fixture(scope="module")
def engine(smollm2):
    from embedspace.engines import TransformersEngine

    return TransformersEngine(smollm2)


def test_surprisal_is_what_the_engine_scores_token_by_token(smollm2, engine):
    made = smollm2.embed_chat([{"role": "user", "content": "It costs 41 dollars."}])
    found = surprisal(made, smollm2, engine)
    ids = smollm2.chat_ids([{"role": "user", "content": "It costs 41 dollars."}])
    np.testing.assert_allclose(found[5:].numpy(), -engine.score(ids[:5], ids[5:]).double().numpy(), atol=1e-3)
    assert found[0] == 0


def test_surprising_rows_are_kept_and_the_engine_brings_its_space(smollm2, engine):
    made = smollm2.embed("The cat sat on the zygote. The cat sat on the mat.")
    chosen = {"method": "salience", "information": "surprisal", "words": False, "opening": 0.0}
    short = compress(made, length=3, engine=engine, **chosen)
    best = surprisal(made, smollm2, engine).argsort(descending=True)[:3].sort().values
    assert torch.equal(short.vectors, made.vectors[best])
    assert "engine" in dict(short.recipe.parameters)


def test_an_engine_of_another_model_reads_the_text_with_its_own_tokenizer(smollm2, tmp_path):
    from embedspace.engines import TransformersEngine
    from tests.checkpoints import make_tiny_checkpoint

    other = TransformersEngine(make_tiny_checkpoint(tmp_path / "tiny"))
    made = smollm2.embed(PASSAGE)
    chosen = {"method": "salience", "information": "surprisal"}
    assert len(compress(made, length=7, space=smollm2, engine=other, **chosen)) == 7
    foreign = PromptEmbeds(made.vectors, made.content, "elsewhere", MADE)
    with pytest.raises(ValueError, match="space="):
        compress(foreign, length=7, engine=other, **chosen)


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
        ({"ratio": 2, "information": "luck"}, "vocabulary, surprisal"),
        ({"ratio": 2, "opening": 1.1}, r"opening.*\[0, 1\]"),
        ({"ratio": 2, "opening": float("nan")}, r"opening.*\[0, 1\]"),
        ({"ratio": 2, "fold": -0.1}, r"\[0, 1\]"),
        ({"ratio": 2, "fold": float("nan")}, r"\[0, 1\]"),
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


@pytest.mark.parametrize(
    ("text", "numbers"),
    [
        ("The fee is $1,250.50 a year", ["$1,250.50"]),
        ("a rate of 3.5% or 12", ["3.5%", "12"]),
        ("from 10:30, on page 7.", ["10:30", "7"]),
        ("no number, 50-50 - or $ alone", ["50-50"]),
    ],
)
def test_a_number_is_one_word_with_its_signs(smollm2, text, numbers):
    texts = token_texts(smollm2, smollm2.tokenize(text))
    found, words = token_information(smollm2, smollm2.tokenize(text), texts), word_numbers(texts)
    of_number = [place for place, part in enumerate(number_parts(texts)) if part]
    joined: dict[int, str] = {}
    for place in of_number:
        joined[words[place]] = joined.get(words[place], "") + texts[place].strip()
    assert list(joined.values()) == numbers
    assert {float(found[place]) for place in of_number} == {float(found.max())}


def test_what_leads_to_a_number_counts_nearly_as_much_and_less_with_every_word(smollm2):
    text = "The bank, as agreed, takes a fee of $25 in the winter"
    ids = smollm2.tokenize(text)
    texts = token_texts(smollm2, ids)
    found = token_information(smollm2, ids, texts).tolist()
    fee = texts.index(" fee")
    number = found[texts.index(" $")]
    assert found[fee + 1] == pytest.approx(number * 0.99)
    assert found[fee] == pytest.approx(number * 0.99**2)
    assert found[texts.index(" in")] < found[texts.index(" winter")]
    kept = compress(smollm2.embed(text), length=8, opening=0.0, space=smollm2)
    assert smollm2.read(kept) == ", takes a fee of $25"
    kept = compress(smollm2.embed(text), length=8, opening=0.25, space=smollm2)
    assert smollm2.read(kept) == "The bank a fee of $25"
