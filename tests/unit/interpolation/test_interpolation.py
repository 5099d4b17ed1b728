"""Between prompts: the ends are exact, the way is symmetric, the length moves, template rows stay."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe, interpolate
from embedspace.interpolation import blend, path
from embedspace.interpolation.alignment import warping

HIDDEN = 5
MEAN = torch.linspace(-1, 1, HIDDEN)
ALIGNMENTS = ["resample", "pad", "dtw"]
METHODS = ["lerp", "slerp"]
MADE = Recipe.of("made", {"by": "test"})


class Space:
    """The mean row is all that interpolation asks of a space."""

    mean = MEAN

    def require(self, prompt):
        if prompt.space != "s":
            raise ValueError("another space")


SPACE = Space()


def prompt(runs, seed=0, dtype=torch.float32, template=2, space="s"):
    """Content runs of these lengths with equal template rows between and around them."""
    own = torch.Generator().manual_seed(seed)
    frame = torch.Generator().manual_seed(12345)
    rows, content = [], []
    for length in [*runs, None]:
        rows.append(torch.randn(template, HIDDEN, generator=frame))
        content += [False] * template
        if length is not None:
            rows.append(torch.randn(length, HIDDEN, generator=own))
            content += [True] * length
    return PromptEmbeds(torch.cat(rows).to(dtype), torch.tensor(content), space, MADE)


lengths = st.integers(1, 9)
dtypes = st.sampled_from([torch.float32, torch.bfloat16])


@st.composite
def pairs(draw):
    runs, dtype = draw(st.integers(1, 3)), draw(dtypes)
    shapes = [[draw(lengths) for _ in range(runs)] for _ in range(2)]
    return tuple(prompt(shape, seed, dtype) for seed, shape in enumerate(shapes))


options = st.fixed_dictionaries(
    {
        "method": st.sampled_from(METHODS),
        "align": st.sampled_from(ALIGNMENTS),
        "match_norm": st.booleans(),
    }
)


def same_bits(a, b):
    return torch.equal(a.vectors.view(torch.uint8), b.vectors.view(torch.uint8)) and torch.equal(
        a.content, b.content
    )


@given(pairs(), options)
def test_the_ends_are_the_prompts_bit_for_bit_with_their_lengths(pair, chosen):
    a, b = pair
    assert same_bits(interpolate(a, b, 0, space=SPACE, **chosen), a)
    assert same_bits(interpolate(a, b, 1.0, space=SPACE, **chosen), b)


@given(pairs(), options, st.floats(0, 1))
def test_the_way_back_is_the_way_there_bit_for_bit(pair, chosen, t):
    a, b = pair
    there = interpolate(a, b, t, space=SPACE, **chosen)
    assert same_bits(there, interpolate(b, a, 1 - t, space=SPACE, **chosen))
    assert there.vectors.dtype == a.vectors.dtype


@pytest.mark.parametrize("align", ["resample", "pad"])
def test_the_middle_is_one_point_from_both_sides_for_long_prompts(align):
    a, b = prompt([300], 0), prompt([200], 1)
    for chosen in ({"method": "slerp"}, {"method": "slerp", "match_norm": True}, {"match_norm": True}):
        there, back = (
            interpolate(*ends, 0.5, align=align, space=SPACE, **chosen) for ends in ((a, b), (b, a))
        )
        assert same_bits(there, back)
        turned = PromptEmbeds(b.vectors.T.contiguous().T, b.content, "s", MADE)
        for ends in ((a, turned), (turned, a)):
            assert same_bits(there, interpolate(*ends, 0.5, align=align, space=SPACE, **chosen))


@given(pairs(), options, st.floats(0.001, 0.999))
def test_template_rows_stay_and_lengths_move_as_the_alignment_says(pair, chosen, t):
    a, b = pair
    between = interpolate(a, b, t, space=SPACE, **chosen)
    assert torch.equal(between.vectors[~between.content], a.vectors[~a.content])
    for run, x, y in zip(between.content_runs, a.content_runs, b.content_runs, strict=True):
        ends = x.stop - x.start, y.stop - y.start
        length = run.stop - run.start
        if chosen["align"] == "resample":
            assert abs(length - ((1 - t) * ends[0] + t * ends[1])) <= 0.5 + 1e-6
        else:
            assert length == max(ends)


@given(pairs(), st.floats(0, 1), st.sampled_from(METHODS))
def test_equal_lengths_are_blended_row_by_row_as_numpy_does_it(pair, t, method):
    a = pair[0]
    b = a.with_content(torch.randn(int(a.content.sum()), HIDDEN, generator=torch.Generator().manual_seed(7)))
    x, y = (p.content_vectors.double().numpy() - MEAN.double().numpy() for p in (a, b))
    if method == "lerp":
        expected = (1 - t) * x + t * y
    else:
        norms = [np.linalg.norm(end, axis=1, keepdims=True) for end in (x, y)]
        angle = np.arccos(np.clip((x / norms[0] * y / norms[1]).sum(axis=1, keepdims=True), -1, 1))
        arc = (np.sin((1 - t) * angle) * x / norms[0] + np.sin(t * angle) * y / norms[1]) / np.sin(angle)
        expected = arc * ((1 - t) * norms[0] + t * norms[1])
    expected += MEAN.double().numpy()
    tolerance = 1e-5 if a.vectors.dtype == torch.float32 else 0.03
    for align in ALIGNMENTS:
        found = interpolate(a, b, t, method=method, align=align, space=SPACE).content_vectors
        np.testing.assert_allclose(found.double().numpy(), expected, atol=tolerance)


@given(pairs(), st.floats(0, 1))
def test_slerp_and_matched_norms_keep_rows_as_far_from_the_mean_as_their_ends(pair, t):
    a = pair[0].to(torch.float32)
    b = a.with_content(-a.content_vectors.flip(0) + 0.1)
    x, y = (np.linalg.norm((p.content_vectors - MEAN).double().numpy(), axis=1) for p in (a, b))
    for chosen in ({"method": "slerp"}, {"match_norm": True}):
        rows = interpolate(a, b, t, space=SPACE, **chosen).content_vectors
        found = np.linalg.norm((rows - MEAN).double().numpy(), axis=1)
        np.testing.assert_allclose(found, (1 - t) * x + t * y, rtol=1e-4)


@given(pairs(), st.floats(0, 1))
def test_between_a_prompt_and_itself_there_is_only_the_prompt(pair, t):
    assert same_bits(interpolate(pair[0], pair[0], t), pair[0])


@given(st.integers(0, 999), st.floats(-6, 0), st.sampled_from([-1.0, 1.0]), st.floats(0, 1))
def test_slerp_is_exact_where_rows_nearly_agree_or_nearly_oppose(seed, exponent, sign, t):
    generator = torch.Generator().manual_seed(seed)
    x, off = torch.randn(2, 1, 64, generator=generator, dtype=torch.float64)
    rows = x.float(), (sign * x + 10**exponent * off).float()
    content, mean = torch.ones(1, dtype=torch.bool), torch.zeros(64)
    a, b = (PromptEmbeds(row, content, "s", MADE) for row in rows)
    space = Space()
    space.mean = mean
    found = interpolate(a, b, t, method="slerp", space=space).vectors.double().numpy()
    # By rotation in the plane of both ends, all in float64.
    ends = [row.double().numpy() for row in rows]
    lengths = [np.linalg.norm(end) for end in ends]
    units = [end / length for end, length in zip(ends, lengths, strict=True)]
    angle = 2 * np.arctan2(np.linalg.norm(units[0] - units[1]), np.linalg.norm(units[0] + units[1]))
    across = units[1] - units[0] * (units[0] @ units[1].T)
    across /= np.linalg.norm(across)
    expected = np.cos(t * angle) * units[0] + np.sin(t * angle) * across
    expected *= (1 - t) * lengths[0] + t * lengths[1]
    slack = 1e-5 + 1e-6 / abs(np.sin(angle))  # how far float32 ends determine the plane itself
    np.testing.assert_allclose(found, expected, atol=slack * max(lengths))


def test_slerp_survives_rows_that_agree_and_rows_that_are_opposite():
    rows = torch.tensor([[1.0, 0, 0, 0, 0], [0, 2.0, 0, 0, 0], [0, 0, 0, 0, 0]])
    content = torch.ones(3, dtype=torch.bool)
    a = PromptEmbeds(rows + MEAN, content, "s", MADE)
    b = PromptEmbeds(torch.stack([rows[0], -rows[1], rows[2]]) + MEAN, content, "s", MADE)
    middle = interpolate(a, b, 0.5, method="slerp", space=SPACE).vectors
    assert middle.isfinite().all()
    torch.testing.assert_close(middle[0], rows[0] + MEAN)


def test_resampled_rows_are_rows_of_the_prompts_and_never_mixtures_of_neighbours():
    a = prompt([9], 0)
    b = a.with_content(a.content_vectors[[1, 4, 7]])
    middle = interpolate(a, b, 0.5).content_vectors
    assert len(middle) == 6
    expected = (a.content_vectors[[0, 2, 3, 5, 6, 8]] + b.content_vectors[[0, 0, 1, 1, 2, 2]]) / 2
    torch.testing.assert_close(middle, expected)


def test_padding_is_rows_of_zeros_at_the_end_of_the_shorter_prompt():
    a, b = prompt([5], 0), prompt([2], 1)
    middle = interpolate(a, b, 0.25, align="pad").content_vectors
    torch.testing.assert_close(middle[2:], 0.75 * a.content_vectors[2:])
    torch.testing.assert_close(middle[:2], 0.75 * a.content_vectors[:2] + 0.25 * b.content_vectors)


@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 99))
def test_warping_is_the_cheapest_of_all_ways_that_lay_every_row(shorter, extra, seed):
    generator = torch.Generator().manual_seed(seed)
    long = torch.randn(shorter + extra, HIDDEN, generator=generator)
    short = torch.randn(shorter, HIDDEN, generator=generator)
    found = warping(long, short, MEAN).tolist()
    assert found[0] == 0
    assert found[-1] == shorter - 1
    assert all(after - before in (0, 1) for before, after in itertools.pairwise(found))

    def unit(rows):
        rows = rows.double().numpy() - MEAN.double().numpy()
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    distance = 1 - unit(long) @ unit(short).T

    def cheapest(row, on):
        if row == 0:
            return distance[0, 0] if on == 0 else math.inf
        return distance[row, on] + min(cheapest(row - 1, on), cheapest(row - 1, on - 1) if on else math.inf)

    cost = sum(distance[row, on] for row, on in enumerate(found))
    assert cost == pytest.approx(cheapest(len(long) - 1, shorter - 1))


def test_warping_lays_repeated_rows_on_the_row_they_repeat():
    rows = torch.randn(4, HIDDEN, generator=torch.Generator().manual_seed(1))
    stretched = rows[[0, 0, 1, 2, 2, 2, 3]]
    assert warping(stretched, rows, MEAN).tolist() == [0, 0, 1, 2, 2, 2, 3]


@given(pairs(), st.integers(2, 6), options)
def test_a_path_is_the_interpolations_at_evenly_spaced_points(pair, steps, chosen):
    a, b = pair
    found = path(a, b, steps, space=SPACE, **chosen)
    assert same_bits(found[0], a)
    assert same_bits(found[-1], b)
    for step, between in enumerate(found):
        assert same_bits(between, interpolate(a, b, step / (steps - 1), space=SPACE, **chosen))


@given(pairs(), st.sampled_from(ALIGNMENTS), st.floats(0, 1))
def test_a_blend_of_two_is_their_interpolation(pair, align, t):
    a, b = (p.to(torch.float32) for p in pair)
    mixed = blend([a, b], [1 - t, t], align=align, space=SPACE)
    between = interpolate(a, b, t, align=align, space=SPACE)
    if len(mixed) == len(between):  # lengths at an exact half may be rounded the other way
        torch.testing.assert_close(mixed.vectors, between.vectors, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("align", ALIGNMENTS)
def test_a_blend_is_the_weighted_mean_and_a_weight_of_one_is_that_prompt(align):
    prompts = [prompt([6, 3], seed) for seed in range(4)]
    weights = [0.1, 0.2, 0.3, 0.4]
    mixed = blend(prompts, weights, align=align, space=SPACE)
    expected = sum(w * p.vectors.double() for w, p in zip(weights, prompts, strict=True))
    torch.testing.assert_close(mixed.vectors, expected.float())
    shorter = prompt([2, 1], 9)
    assert same_bits(blend([prompts[0], shorter], [0, 1], align=align, space=SPACE), shorter)


def test_recipes_hold_the_parameters_and_both_prompts():
    a, b = prompt([3], 0), prompt([4], 1)
    recipe = interpolate(a, b, 0.25, method="slerp", space=SPACE).recipe
    assert recipe.operation == "interpolate"
    assert dict(recipe.parameters)["t"] == 0.25
    assert recipe.inputs == (a.recipe, b.recipe)


def test_chat_prompts_blend_within_one_template(smollm2):
    a, b = (
        smollm2.embed_chat([{"role": "user", "content": text}])
        for text in ("Tell me about the river Thames, please.", "Cats?")
    )
    between = interpolate(a, b, 0.5)
    assert torch.equal(between.vectors[~between.content], a.vectors[~a.content])
    assert len(a) > len(between) > len(b)


def test_the_caller_chooses_whose_template_rows_are_kept():
    a, b = prompt([3], 0), prompt([5], 1, template=1)
    with pytest.raises(ValueError, match="template='first'"):
        interpolate(a, b, 0.5)
    first, last = (interpolate(a, b, 0.5, template=whose) for whose in ("first", "last"))
    assert torch.equal(first.vectors[~first.content], a.vectors[~a.content])
    assert torch.equal(last.vectors[~last.content], b.vectors[~b.content])
    assert torch.equal(first.content_vectors, last.content_vectors)
    assert same_bits(first, interpolate(b, a, 0.5, template="last"))


def test_the_ends_are_exact_even_where_template_rows_differ_in_the_sign_of_a_zero():
    a, b = prompt([3], 0), prompt([5], 1)
    a.vectors[0, 0], b.vectors[0, 0] = 0.0, -0.0
    for chosen in ({}, {"align": "pad"}, {"method": "slerp", "space": SPACE}):
        assert same_bits(interpolate(a, b, 0, **chosen), a)
        assert same_bits(interpolate(a, b, 1, **chosen), b)


def test_prompts_of_a_space_in_use_need_not_be_told_it(smollm2):
    a, b = smollm2.embed("Tell me about the river Thames."), smollm2.embed("Cats, please?")
    for chosen in ({"method": "slerp"}, {"align": "dtw"}, {"match_norm": True}):
        assert same_bits(interpolate(a, b, 0.3, **chosen), interpolate(a, b, 0.3, space=smollm2, **chosen))


@pytest.mark.parametrize("t", [-0.01, 1.01, float("nan"), float("inf")])
def test_t_outside_zero_to_one_is_an_error(t):
    with pytest.raises(ValueError, match=r"must be in \[0, 1\]"):
        interpolate(prompt([2]), prompt([3]), t)


@pytest.mark.parametrize("chosen", [{"method": "slerp"}, {"align": "dtw"}, {"match_norm": True}])
def test_what_needs_the_mean_row_says_so(chosen):
    with pytest.raises(ValueError, match="space="):
        interpolate(prompt([2]), prompt([3]), 0.5, **chosen)


def test_prompts_that_do_not_fit_together_are_refused():
    a = prompt([3])
    broken = a.with_content(torch.full((3, HIDDEN), torch.nan))
    bare = PromptEmbeds(a.vectors, torch.zeros_like(a.content), "s", MADE)
    for b, message in (
        (prompt([3], space="other"), "different embedding spaces"),
        (prompt([3], dtype=torch.float16), "different dtypes"),
        (prompt([3, 2]), "1 and 2 runs"),
        (broken, "NaN"),
        (bare, "has none"),
    ):
        for call in (lambda b=b: interpolate(a, b, 0.5), lambda b=b: blend([a, b], [0.5, 0.5])):
            with pytest.raises(ValueError, match=message):
                call()
    with pytest.raises(ValueError, match="another space"):
        interpolate(
            prompt([3], space="other"), prompt([3], 1, space="other"), 0.5, method="slerp", space=SPACE
        )


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"method": "cubic"}, "lerp, slerp"),
        ({"align": "stretch"}, "resample, pad, dtw"),
        ({"template": "both"}, "same, first, last"),
    ],
)
def test_unknown_options_are_refused_with_the_allowed_ones(chosen, message):
    with pytest.raises(ValueError, match=message):
        interpolate(prompt([2]), prompt([3]), 0.5, **chosen)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([0.5, 0.6], "sum to 1"),
        ([1.5, -0.5], "not negative"),
        ([0.5, float("nan")], "finite"),
        ([1.0], "one weight for each prompt"),
    ],
)
def test_weights_that_are_no_shares_of_one_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        blend([prompt([2]), prompt([3], 1)], weights)


def test_a_blend_of_nothing_and_a_path_of_one_step_are_refused():
    with pytest.raises(ValueError, match="0 prompts"):
        blend([], [])
    with pytest.raises(ValueError, match="at least 2"):
        path(prompt([2]), prompt([3]), 1)


@pytest.mark.parametrize("t", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_blended_rows_are_computed_in_float32_and_rounded_once(smollm2, t, dtype):
    rows = torch.randn(2, 300, smollm2.hidden_size, generator=torch.Generator().manual_seed(0)).to(dtype)
    x, y = (
        PromptEmbeds(part, torch.ones(300, dtype=torch.bool), smollm2.fingerprint, Recipe.of("x", {}))
        for part in rows
    )
    exact = rows[0].double() * (1 - t) + rows[1].double() * t
    got = interpolate(x, y, t).vectors
    assert got.dtype == dtype
    least = (exact.to(dtype).double() - exact).abs()
    assert bool(((got.double() - exact).abs() <= least + 1e-6).all())
