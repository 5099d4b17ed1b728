"""Style vectors: the identities that a user would assume, and what each method is by definition."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from embedspace import PromptEmbeds, Recipe, StyleVector
from embedspace.space.embedding_space import EmbeddingSpace
from embedspace.style.directions import fit_direction

FORMAL = [
    "I would be grateful if you could reply at your earliest convenience.",
    "We regret to inform you that the meeting has been postponed.",
    "Please accept my sincere apologies for the delay.",
    "It is my pleasure to welcome you.",
]
CASUAL = [
    "hey, hit me back when you can!",
    "so yeah, we're pushing the meeting, sorry",
    "oops my bad, totally forgot about it lol",
    "yo come on in, make yourself at home buddy",
]
METHODS = ["mean_difference", "pca", "logistic"]
MADE = Recipe.of("made", {"by": "test"})
HIDDEN = 6


def vector(values, space="s"):
    return StyleVector(torch.tensor(values, dtype=torch.float32), space, "test", MADE)


def prompts(dtype=None):
    """Small prompts of random rows, negative zeros among them, with any layout of content rows."""

    def make(drawn):
        mask, seed, kind = drawn
        rows = torch.randn(len(mask), HIDDEN, generator=torch.Generator().manual_seed(seed))
        rows[0, 0] = -0.0
        return PromptEmbeds(rows.to(kind), torch.tensor(mask), "s", MADE)

    kinds = (
        st.sampled_from([torch.float32, torch.bfloat16, torch.float16]) if dtype is None else st.just(dtype)
    )
    masks = st.lists(st.booleans(), min_size=1, max_size=12).filter(any)
    return st.tuples(masks, st.integers(0, 99), kinds).map(make)


floats = st.floats(-8, 8, width=32)
vectors = st.lists(floats, min_size=HIDDEN, max_size=HIDDEN).map(vector)
alphas = st.floats(-4, 4)


def bits(prompt):
    return prompt.vectors.contiguous().view(torch.uint8).tolist()


@given(prompts(), vectors)
def test_alpha_zero_and_a_vector_minus_itself_leave_every_bit_of_a_prompt(prompt, style):
    assert bits(style.apply(prompt, 0)) == bits(prompt)
    assert bits((style - style).apply(prompt, 3.0)) == bits(prompt)
    assert style.apply(prompt, 0).vectors.dtype == prompt.vectors.dtype


@given(prompts(), vectors, alphas)
def test_twice_the_vector_at_one_is_the_vector_at_two(prompt, style, alpha):
    assert bits((2 * style).apply(prompt, 1)) == bits(style.apply(prompt, 2))
    assert bits((alpha * style).apply(prompt, 1)) == bits(style.apply(prompt, alpha))
    assert bits((-style).apply(prompt, alpha)) == bits(style.apply(prompt, -alpha))


@given(prompts(), vectors, alphas)
def test_content_rows_move_by_alpha_times_the_vector_and_template_rows_not_at_all(prompt, style, alpha):
    moved = style.apply(prompt, alpha)
    assert torch.equal(moved.vectors[~prompt.content], prompt.vectors[~prompt.content])
    shift = np.float32(alpha) * style.vector.numpy()
    expected = torch.from_numpy(prompt.content_vectors.float().numpy() + shift).to(prompt.vectors.dtype)
    assert torch.equal(moved.content_vectors, expected)
    assert torch.equal(moved.content, prompt.content)


@given(prompts(torch.float32), vectors.filter(lambda style: style.norm > 0.1))
def test_the_caller_can_move_other_rows(prompt, style):
    last = torch.zeros(len(prompt), dtype=torch.bool)
    last[-1] = True
    ending = torch.zeros(len(prompt), dtype=torch.bool)
    ending[max(row for row, content in enumerate(prompt.content.tolist()) if content)] = True
    for rows, mask in (("all", torch.ones_like(last)), (last, last), ("last", ending)):
        changed = (style.apply(prompt, 1, rows=rows).vectors != prompt.vectors).any(dim=1)
        assert torch.equal(changed, mask)
    if not prompt.content.all():
        changed = (style.apply(prompt, 1, rows="template").vectors != prompt.vectors).any(dim=1)
        assert torch.equal(changed, ~prompt.content)


@given(vectors, vectors, st.floats(0.1, 8))
def test_algebra_is_that_of_the_tensors(a, b, factor):
    assert torch.equal((a + b).vector, a.vector + b.vector)
    assert torch.equal((a - b).vector, a.vector - b.vector)
    assert torch.equal((a * factor).vector, (factor * a).vector)
    assert torch.equal((a / factor).vector, a.vector / factor)
    assert torch.equal((-1 * -a).vector, a.vector)
    assert a.norm == pytest.approx(float(np.linalg.norm(a.vector.double().numpy())))
    if min(a.norm, b.norm) > 1e-3:
        x, y = a.vector.double().numpy(), b.vector.double().numpy()
        cosine = x @ y / np.linalg.norm(x) / np.linalg.norm(y)
        assert a.similarity(b) == pytest.approx(cosine, abs=1e-6) == b.similarity(a)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 10_000), high=st.integers(2, 7), low=st.integers(2, 7))
def test_swapping_the_sides_negates_every_bit_and_all_methods_have_one_norm(method, seed, high, low):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(high, HIDDEN, generator=generator, dtype=torch.float64) + 1
    negative = torch.randn(low, HIDDEN, generator=generator, dtype=torch.float64)
    forth, back = fit_direction(positive, negative, method), fit_direction(negative, positive, method)
    assert torch.equal(forth, -back)
    difference = np.linalg.norm(positive.numpy().mean(axis=0) - negative.numpy().mean(axis=0))
    assert float(forth.norm()) == pytest.approx(difference, rel=1e-5)


@pytest.mark.parametrize("method", METHODS)
@given(seed=st.integers(0, 10_000), low=st.integers(2, 7), order=st.permutations(range(5)))
def test_no_bit_depends_on_the_order_of_the_examples(method, seed, low, order):
    generator = torch.Generator().manual_seed(seed)
    positive = torch.randn(5, HIDDEN, generator=generator, dtype=torch.float64)
    negative = torch.randn(low, HIDDEN, generator=generator, dtype=torch.float64)
    other = negative[list(order)] if low == 5 else negative.flip(0)
    again = fit_direction(positive[list(order)], other, method)
    assert torch.equal(again, fit_direction(positive, negative, method))


def test_the_mean_difference_is_that_of_the_examples_mean_rows(smollm2):
    def means(texts):
        rows = [smollm2.lookup(smollm2.tokenize(text)).double().numpy().mean(axis=0) for text in texts]
        return np.mean(rows, axis=0)

    fitted = StyleVector.fit(smollm2, FORMAL, CASUAL[:3])
    np.testing.assert_allclose(fitted.vector.numpy(), means(FORMAL) - means(CASUAL[:3]), atol=1e-6)
    assert fitted.space == smollm2.fingerprint


def test_pca_of_pairs_is_their_first_singular_direction_and_pca_of_a_pool_its_widest():
    generator = torch.Generator().manual_seed(3)
    positive = torch.randn(9, HIDDEN, generator=generator, dtype=torch.float64) + 0.5
    negative = torch.randn(9, HIDDEN, generator=generator, dtype=torch.float64)
    pairs = (positive - negative).numpy()
    _, vectors = np.linalg.eigh(pairs.T @ pairs)
    _check_direction(fit_direction(positive, negative, "pca"), vectors[:, -1])
    from sklearn.decomposition import PCA

    pool = PCA(n_components=1).fit(torch.cat([positive, negative[:5]]).numpy())
    _check_direction(fit_direction(positive, negative[:5], "pca"), pool.components_[0])


def _check_direction(found, expected):
    found = found.double().numpy()
    assert abs(found @ expected) / np.linalg.norm(found) == pytest.approx(1, abs=1e-6)


def test_logistic_finds_the_direction_that_separates_where_the_mean_difference_does_not():
    # The sides differ a little along the first axis; along the second they are wide and differ by chance.
    generator = torch.Generator().manual_seed(0)
    sides = torch.randn(2, 200, HIDDEN, generator=generator, dtype=torch.float64) * 0.01
    sides[0, :, 0] += 1
    wide = torch.randn(2, 200, generator=generator, dtype=torch.float64) * 10
    sides[:, :, 1] += wide
    sides[0, :, 1] += 1 - (wide[0].mean() - wide[1].mean())
    separating, difference = (fit_direction(*sides, method) for method in ("logistic", "mean_difference"))
    assert separating[0] / separating.norm() > difference[0] / difference.norm() + 0.1


@pytest.mark.parametrize("method", METHODS)
def test_a_fitted_vector_tells_styles_apart_on_texts_it_has_not_seen(smollm2, method):
    style = StyleVector.fit(smollm2, FORMAL, CASUAL, method=method).vector
    formal = smollm2.embed("We kindly request your presence at the ceremony.").vectors.float().mean(dim=0)
    casual = smollm2.embed("dude you gotta come, it's gonna be fun").vectors.float().mean(dim=0)
    assert formal @ style > casual @ style


def test_random_vectors_have_the_norm_asked_for_and_follow_the_seed(smollm2):
    a, again, b = (StyleVector.random(smollm2, norm=0.7, seed=seed) for seed in (1, 1, 2))
    assert a.norm == pytest.approx(0.7, rel=1e-6)
    assert torch.equal(a.vector, again.vector)
    assert abs(a.similarity(b)) < 0.2


def test_a_file_gives_back_every_bit_and_the_recipe(tmp_path, smollm2):
    style = StyleVector.fit(smollm2, FORMAL, CASUAL, method="pca")
    style.save(tmp_path / "new" / "formal.safetensors")
    again = StyleVector.load(tmp_path / "new" / "formal.safetensors", smollm2)
    assert torch.equal(again.vector, style.vector)
    assert (again.space, again.method, again.recipe) == (style.space, style.method, style.recipe)


def test_recipes_name_the_vector_the_method_and_alpha(smollm2):
    style = StyleVector.fit(smollm2, FORMAL, CASUAL)
    moved = style.apply(smollm2.embed("hello there"), 0.8)
    assert dict(moved.recipe.parameters) == {
        "alpha": 0.8,
        "method": "mean_difference",
        "rows": "content",
        "vector": style.digest,
    }
    assert moved.recipe.inputs == (smollm2.embed("hello there").recipe, style.recipe)
    assert StyleVector.fit(smollm2, FORMAL[::-1], CASUAL).recipe == style.recipe


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        ([], CASUAL, "positive has 0 examples"),
        (FORMAL, [], "negative has 0 examples"),
        (FORMAL[:1], CASUAL, "positive has 1 examples and at least 2"),
        (FORMAL, FORMAL[::-1], "the same mean"),
        (FORMAL, ["fine", ""], r"negative\[1\] is an empty text"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_examples_that_show_no_style_are_refused(smollm2, method, positive, negative, message):
    with pytest.raises(ValueError, match=message):
        StyleVector.fit(smollm2, positive, negative, method=method)


def test_examples_of_another_kind_or_space_or_with_nan_are_refused(smollm2):
    good = smollm2.embed("good morning")
    foreign = PromptEmbeds(good.vectors, good.content, "elsewhere", MADE)
    broken = good.with_content(torch.full_like(good.vectors, torch.nan))
    bare = PromptEmbeds(good.vectors, torch.zeros_like(good.content), good.space, MADE)
    for example, message in ((foreign, "elsewhere"), (broken, "NaN"), (bare, "has none")):
        with pytest.raises(ValueError, match=message):
            StyleVector.fit(smollm2, [good, example], CASUAL)
    with pytest.raises(TypeError, match=r"positive\[1\] must be a string"):
        StyleVector.fit(smollm2, ["fine", 3], CASUAL)
    with pytest.raises(TypeError, match="list of examples"):
        StyleVector.fit(smollm2, "formal", CASUAL)


def test_unknown_methods_are_refused_with_the_list_of_methods(smollm2):
    with pytest.raises(ValueError, match="mean_difference, pca, logistic, optimised"):
        StyleVector.fit(smollm2, FORMAL, CASUAL, method="median")
    with pytest.raises(ValueError, match="needs optimisation=Optimisation"):
        StyleVector.fit(smollm2, FORMAL, CASUAL, method="optimised")


@pytest.mark.parametrize("alpha", [float("nan"), float("inf"), -float("inf")])
def test_alpha_must_be_finite(alpha):
    prompt = PromptEmbeds(torch.ones(2, HIDDEN), torch.tensor([True, False]), "s", MADE)
    with pytest.raises(ValueError, match="alpha must be a finite number"):
        vector([1.0] * HIDDEN).apply(prompt, alpha)


def test_prompts_that_cannot_be_moved_are_refused():
    style = vector([1.0] * HIDDEN)
    rows, content = torch.ones(2, HIDDEN), torch.tensor([True, False])
    broken = rows.clone()
    broken[1, 2] = torch.inf
    for prompt, message in (
        (PromptEmbeds(rows, content, "other", MADE), "the space other"),
        (PromptEmbeds(rows, torch.tensor([False, False]), "s", MADE), "has none"),
        (PromptEmbeds(broken, content, "s", MADE), r"row 1\)"),
    ):
        with pytest.raises(ValueError, match=message):
            style.apply(prompt)
    good = PromptEmbeds(rows, content, "s", MADE)
    for mask, message in (
        (torch.tensor([True]), "boolean mask"),
        (torch.tensor([0, 1]), "boolean mask"),
        (torch.tensor([False, False]), "no row"),
        ("every", "content, last, template, all"),
    ):
        with pytest.raises(ValueError, match=message):
            style.apply(good, rows=mask)


def test_values_that_are_no_style_vector_are_refused():
    for values, message in (([1.0, torch.nan], "finite"), ([], r"\[hidden\]"), ([[1.0]], r"\[hidden\]")):
        with pytest.raises(ValueError, match=message):
            vector(values)
    with pytest.raises(TypeError, match="float32"):
        StyleVector(torch.ones(3, dtype=torch.float64), "s", "test", MADE)


def test_vectors_of_different_spaces_do_not_mix_and_factors_are_finite():
    a, b = vector([1.0, 2.0]), vector([1.0, 2.0], space="other")
    for operation in (a.__add__, a.__sub__, a.similarity):
        with pytest.raises(ValueError, match="different embedding spaces"):
            operation(b)
    for operation in (lambda: a / 0, lambda: a * float("nan"), lambda: a / float("inf")):
        with pytest.raises(ValueError, match=r"divided by 0|finite number"):
            operation()
    with pytest.raises(ValueError, match="zero vector"):
        a.similarity(a - a)
    with pytest.raises(TypeError):
        a + 1
    with pytest.raises(TypeError):
        a * "2"


@pytest.mark.parametrize("norm", [0.0, -1.0, float("nan"), float("inf")])
def test_a_random_vector_needs_a_positive_norm(smollm2, norm):
    with pytest.raises(ValueError, match="norm must be positive"):
        StyleVector.random(smollm2, norm=norm, seed=0)


def test_loading_into_another_space_is_an_error(tmp_path, smollm2):
    elsewhere = EmbeddingSpace("other", smollm2.folder, smollm2.tokenizer, smollm2.table, "0" * 32, None)
    StyleVector.fit(elsewhere, FORMAL, CASUAL).save(tmp_path / "v.safetensors")
    with pytest.raises(ValueError, match=r"0{32}"):
        StyleVector.load(tmp_path / "v.safetensors", smollm2)


def _rewritten(path, tensors=None, **changes):
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        metadata = {**file.metadata(), **changes}
    metadata = {name: value for name, value in metadata.items() if value is not None}
    save_file(tensors or load_file(path), path, metadata=metadata)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "there is no file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), "damaged or cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:5]), "damaged or cut short"),
        (lambda path: path.write_bytes(b""), "damaged or cut short"),
        (lambda path: save_file({"vector": torch.ones(576)}, path), "not a file of StyleVector.save"),
        (lambda path: _rewritten(path, format="another"), "not a file of StyleVector.save"),
        (lambda path: _rewritten(path, space=None), "not a file of StyleVector.save"),
        (lambda path: _rewritten(path, {"other": torch.ones(576)}), "no tensor `vector`"),
        (lambda path: _rewritten(path, {"vector": torch.ones(575)}), "hidden 575"),
        (lambda path: _rewritten(path, {"vector": torch.full((576,), torch.nan)}), "finite float32"),
        (lambda path: _rewritten(path, {"vector": torch.ones(576).half()}), "finite float32"),
        (lambda path: _rewritten(path, recipe="{"), "recipe in the metadata"),
        (lambda path: _rewritten(path, recipe=json.dumps({"operation": 1})), "recipe in the metadata"),
    ],
)
def test_damaged_and_foreign_files_are_refused(tmp_path, smollm2, damage, message):
    path = tmp_path / "v.safetensors"
    StyleVector.fit(smollm2, FORMAL, CASUAL).save(path)
    damage(path)
    with pytest.raises(ValueError, match=message):
        StyleVector.load(path, smollm2)
