"""A view's prompts are those of the library's own functions."""

import pytest
import torch

from embedspace import compress, interpolate
from embedspace.playground.applied import Workbench
from embedspace.playground.view import View
from embedspace.space import kept_rows
from embedspace.space.kept_rows import common_places

MUSEUM = (
    "The museum in Lyon, founded in 1879, opens at nine. A ticket costs 14 euros, and a guide costs 20 euros."
)


@pytest.fixture(scope="module")
def bench(materials):
    return Workbench(materials)


def chat(space, text, system=""):
    turns = [{"role": "system", "content": system}] if system else []
    return space.embed_chat([*turns, {"role": "user", "content": text}])


def test_an_unmoved_view_is_the_conversation(bench, smollm2):
    applied = bench.apply(View(system="Be kind.", user="Why?"))
    assert torch.equal(applied.moved.vectors, chat(smollm2, "Why?", "Be kind.").vectors)
    assert torch.equal(smollm2.lookup(applied.text_ids), applied.moved.vectors)
    assert bench.control(View(system="Be kind.", user="Why?")) is None


def test_all_manipulations_together_are_the_functions_one_after_another(bench, smollm2, materials, style):
    view = View(
        user=MUSEUM,
        ratio=3.0,
        question="How much?",
        keep="Lyon",
        second="Why?",
        t=0.25,
        style=style,
        alpha=-0.5,
    )
    by_hand = compress(chat(smollm2, MUSEUM), ratio=3.0, query="How much?", keep=["Lyon"], only=-1)
    by_hand = interpolate(by_hand, chat(smollm2, "Why?"), t=0.25)
    by_hand = materials.styles[style].apply(by_hand, alpha=-0.5)
    assert torch.equal(bench.apply(view).moved.vectors, by_hand.vectors)
    assert bench.apply(view).moved.recipe == by_hand.recipe


def test_template_rows_stay_in_the_moved_prompt_and_in_its_control(bench, smollm2, style):
    view = View(user=MUSEUM, ratio=2.0, style=style, alpha=2.0, noise=0.5)
    template = chat(smollm2, MUSEUM)
    template = template.vectors[~template.content]
    for prompt in (bench.apply(view).moved, bench.control(view)):
        assert torch.equal(prompt.vectors[~prompt.content], template)


@pytest.mark.parametrize("change", [{"noise": 0.5}, {"second": "What is jazz?", "t": 0.5}, {"ratio": 2.0}])
def test_a_control_is_another_prompt_of_about_the_same_length(bench, change):
    view = View(user=MUSEUM, **change)
    moved, control = bench.apply(view).moved, bench.control(view)
    assert abs(len(moved) - len(control)) <= 3
    assert control.recipe != moved.recipe


def test_a_style_and_its_control_move_rows_equally_far(bench, style, smollm2):
    view = View(user="Tell me about bread.", style=style, alpha=1.5)
    base = bench.apply(view).base.vectors.float()
    far, control = (
        (p.vectors.float() - base).norm(dim=1).max() for p in (bench.apply(view).moved, bench.control(view))
    )
    assert far > 0
    assert float(control) == pytest.approx(float(far), rel=0.05)


def test_a_soft_prompt_stands_in_place_of_the_system_message(bench, smollm2, materials, soft):
    applied = bench.apply(View(system="Be kind.", user="Why?", soft=soft))
    rows = materials.softs[soft].vectors
    assert any(
        torch.equal(applied.base.vectors[at : at + len(rows)], rows) for at in range(len(applied.base))
    )
    assert applied.text_ids == smollm2.chat_ids(
        [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    )


def test_the_rows_that_compression_drops_are_those_that_its_text_lacks(bench, smollm2):
    view = View(user=MUSEUM, ratio=2.0, question="What does a guide cost?")
    applied = bench.apply(view)
    kept = kept_rows(smollm2, applied.base, applied.shortened)
    rows = applied.base.vectors[torch.tensor(kept)]
    assert all(own for own, content in zip(kept, applied.base.content.tolist(), strict=True) if not content)
    assert len(rows) <= len(applied.shortened)  # a separator may be added
    assert "a guide costs 20 euros" in smollm2.tokenizer.decode(
        [token for token, own in zip(applied.text_ids, kept, strict=True) if own]
    )


def test_of_two_equal_words_the_one_beside_kept_words_counts():
    assert common_places([7, 1, 2, 1, 3, 7], [7, 1, 3, 7]) == [(0, 0), (3, 1), (4, 2), (5, 3)]
    assert common_places([1, 2, 3], [1, 9, 3]) == [(0, 0), (2, 2)]
    assert common_places([1], []) == []


def test_an_applied_view_is_kept(bench):
    view = View(user="Once.", noise=0.25)
    assert bench.apply(view) is bench.apply(View(user="Once.", noise=0.25))
    assert bench.apply(view).base is bench.apply(View(user="Once.", noise=0.5)).base


def test_an_unknown_vector_is_refused_with_the_known_ones(bench):
    with pytest.raises(ValueError, match=r"no style vector 'nobody' here; there are: .*formal"):
        bench.apply(View(style="nobody"))
