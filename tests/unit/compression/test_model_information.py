"""Token information under a model: surprisal, and the attention that tokens get when a text is repeated."""

from contextlib import contextmanager

import numpy as np
import pytest
import torch

from embedspace import compress
from embedspace.compression.model_information import _REQUEST, copy_attention, surprisal
from embedspace.compression.text_units import Units
from embedspace.engines import TransformersEngine
from embedspace.space import RowText, token_ids, token_texts
from tests.checkpoints import make_tiny_checkpoint

PASSAGE = (
    "The company Brisk, founded in 2009 by engineer Mona Novak, has announced a new camera. "
    "It costs 41 dollars and is made of bamboo."
)
WAYS = {"surprisal": surprisal, "attention": copy_attention}


@pytest.fixture(scope="module")
def engine(smollm2):
    return TransformersEngine(smollm2)


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """Of another, smaller model with its own tokenizer."""
    return TransformersEngine(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")))


def parameters(prompt):
    return dict(prompt.recipe.parameters)


@contextmanager
def given_rows(engine):
    """Numbers of rows that a model is given, call after call."""
    seen = []
    hook = engine.model.base_model.register_forward_pre_hook(
        lambda module, args, options: seen.append(options["inputs_embeds"].shape[1]), with_kwargs=True
    )
    try:
        yield seen
    finally:
        hook.remove()


def test_surprisal_is_what_the_engine_scores_token_by_token(smollm2, engine):
    messages = [{"role": "user", "content": "It costs 41 dollars."}]
    found = surprisal(smollm2.embed_chat(messages).vectors, smollm2, engine)
    ids = smollm2.chat_ids(messages)
    np.testing.assert_allclose(found[5:].numpy(), -engine.score(ids[:5], ids[5:]).double().numpy(), atol=1e-3)
    assert found[0] == 0


def test_the_most_surprising_words_are_kept(smollm2, engine):
    made = smollm2.embed("The cat sat on the mat. The cat sat on the zygote. The cat sat on the mat.")
    values = surprisal(made.vectors, smollm2, engine)
    units = Units.of(RowText.of(smollm2, token_ids(smollm2, made.vectors).tolist()))
    means = [
        float(values[first:last].mean()) if word else -1.0
        for first, last, word in zip(units.rows, units.rows[1:], units.is_word, strict=False)
    ]
    best = units.texts[int(np.argmax(means))]
    short = compress(made, length=5, information="surprisal", opening=0.0, engine=engine)
    assert best.strip() in smollm2.tokenizer.decode(token_ids(smollm2, short.vectors).tolist())
    assert parameters(short)["information"] == "surprisal"
    assert "engine" in parameters(short)


def test_surprisal_of_a_passage_is_given_the_rows_before_it(smollm2, engine):
    chat = smollm2.embed_chat([{"role": "system", "content": PASSAGE}, {"role": "user", "content": PASSAGE}])
    values = surprisal(chat.vectors[: chat.content_runs[1].stop], smollm2, engine)
    first, second = (float(values[run].mean()) for run in chat.content_runs)
    assert second < first / 3  # it is a repetition
    # So a row kept of one message need not be one kept of the other.
    short = compress(chat, 3, information="surprisal", opening=0.0, engine=engine)
    kept = [token_ids(smollm2, short.vectors[run]).tolist() for run in short.content_runs]
    assert kept[0] != kept[1]


def test_attention_is_one_probability_a_row(smollm2, engine):
    made = smollm2.embed(PASSAGE)
    found = copy_attention(made.vectors, smollm2, engine)
    assert found.shape == (len(made),)
    assert found.dtype == torch.float64
    assert bool(found.isfinite().all())
    assert bool(((found > 0) & (found <= 1)).all())


def test_attention_is_that_of_an_independent_computation(smollm2, engine):
    made = smollm2.embed("The ferry to Trieste leaves at 17:05.")
    request = smollm2.lookup(smollm2.tokenize(_REQUEST))
    rows = torch.cat([request[:1], made.vectors, request, made.vectors])[None].to(engine.device, engine.dtype)
    usual = engine.model.config._attn_implementation
    engine.model.set_attn_implementation("eager")
    try:
        with torch.inference_mode():
            layers = engine.model(inputs_embeds=rows, output_attentions=True, use_cache=False).attentions
    finally:
        engine.model.set_attn_implementation(usual)
    expected = []
    for layer in layers:
        for head in layer[0].double().numpy():
            expected.append(head[-len(made) :, 1 : 1 + len(made)].max(axis=0))
    found = copy_attention(made.vectors, smollm2, engine).numpy()
    np.testing.assert_allclose(found, np.mean(expected, axis=0), atol=1e-4)


@pytest.mark.parametrize("information", WAYS)
def test_the_model_s_own_engine_keeps_at_most_the_length(smollm2, engine, information):
    chat = smollm2.embed_chat(
        [{"role": "system", "content": PASSAGE}, {"role": "user", "content": "Who is she?"}]
    )
    for ratio in (1.5, 3, 8):  # scored once
        short = compress(chat, ratio, information=information, engine=engine)
        rows = int(chat.content.sum())
        assert 2 <= int(short.content.sum()) <= max(2, -(-rows // ratio))
        assert torch.equal(short.vectors[~short.content], chat.vectors[~chat.content])


def test_attention_serves_a_question_too(smollm2, engine):
    made = smollm2.embed(PASSAGE + " The office is in Trieste. Dogs may come on Fridays, if they are small.")
    short = compress(made, 4, query="Where is the office?", information="attention", engine=engine)
    assert parameters(short)["matched"] is True
    assert "office is in Trieste" in smollm2.tokenizer.decode(token_ids(smollm2, short.vectors).tolist())
    assert len(short) <= -(-len(made) // 4)


@pytest.mark.parametrize("information", WAYS)
def test_an_engine_of_another_model_reads_the_text_with_its_own_tokenizer(smollm2, other, information):
    made = smollm2.embed(PASSAGE)
    found = WAYS[information](made.vectors, smollm2, other)
    assert found.shape == (len(made),)
    assert bool(found.isfinite().all())
    short = compress(made, length=9, information=information, engine=other, space=smollm2)
    assert 1 <= len(short) <= 9
    assert "engine" in parameters(short)
    assert len(compress(other.space.embed(PASSAGE), 4, information=information, engine=other)) > 0


def test_the_surprisal_of_another_model_s_tokens_is_all_there(smollm2, other):
    made = smollm2.embed(PASSAGE)
    text = "".join(token_texts(smollm2, smollm2.tokenize(PASSAGE)))
    theirs = other.space.tokenize(text)
    own = surprisal(other.space.lookup(theirs), other.space, other)
    assert float(surprisal(made.vectors, smollm2, other).sum()) == pytest.approx(float(own.sum()), rel=1e-6)


@pytest.mark.parametrize("information", WAYS)
@pytest.mark.parametrize("text", ["Ünïcödé 東京 🎉 नई दिल्ली", "鬱"])
def test_texts_with_characters_of_several_tokens_are_scored_by_another_model(
    smollm2, other, information, text
):
    made = smollm2.embed(text)
    found = WAYS[information](made.vectors, smollm2, other)
    assert found.shape == (len(made),)
    assert bool(found.isfinite().all())


@pytest.mark.parametrize("family", ["gemma3", "gpt2"])
def test_attention_works_in_other_architectures(smollm2, tmp_path, family):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, family))
    made = engine.space.embed(PASSAGE * 3)
    usual = engine.model.config._attn_implementation
    found = copy_attention(made.vectors, engine.space, engine)
    assert bool(found.isfinite().all())
    assert float(found.std()) > 0
    assert engine.model.config._attn_implementation == usual


def test_long_passages_are_read_in_windows_and_each_by_itself(other):
    rows = other.space.lookup(
        other.space.tokenize("The tower of Pisa leans south, and 14 bells hang in it. " * 12)
    )
    with given_rows(other) as seen:
        found = copy_attention(rows, other.space, other)
    assert found.shape == (len(rows),)
    assert len(seen) > 1
    # Two copies of the text, and for each window a request to repeat it.
    request = 1 + len(other.space.tokenize(_REQUEST))
    assert sum(seen) == 2 * len(rows) + len(seen) * request
    assert max(seen) < 600
    window = (seen[0] - request) // 2
    alone = copy_attention(rows[:window], other.space, other)
    torch.testing.assert_close(found[:window], alone, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("more", [1, 201, 401])
def test_a_passage_or_last_window_of_one_row_has_finite_attention(other, more):
    ids = other.space.tokenize(PASSAGE * 12)[:more]
    assert len(ids) == more
    assert bool(copy_attention(other.space.lookup(ids), other.space, other).isfinite().all())


@pytest.mark.parametrize("information", WAYS)
def test_a_text_is_scored_once_for_all_lengths_and_again_when_it_changes(other, information):
    first, second = (
        other.space.embed(f"A text for {information} that is {number}.") for number in ("one", "two")
    )
    with given_rows(other) as seen:
        for ratio in (2, 3, 4):
            compress(first, ratio, information=information, engine=other)
        assert len(seen) == 1
        compress(second, 2, information=information, engine=other)
        assert len(seen) == 2


def test_the_attention_implementation_is_restored_also_after_an_error(smollm2, engine, monkeypatch):
    usual = engine.model.config._attn_implementation
    ids = smollm2.tokenize("Alpha beta gamma delta.")
    before = engine.score(ids[:2], ids[2:])
    copy_attention(smollm2.embed("One more text that is new here.").vectors, smollm2, engine)
    assert engine.model.config._attn_implementation == usual

    def fail(*args, **options):
        raise RuntimeError("out of memory")

    handle = engine.model.base_model.layers[1].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="out of memory"):
            copy_attention(smollm2.embed("And another one, also new.").vectors, smollm2, engine)
    finally:
        handle.remove()
    assert engine.model.config._attn_implementation == usual
    assert torch.equal(engine.score(ids[:2], ids[2:]), before)


def test_a_failure_is_not_cached(smollm2, engine):
    made = smollm2.embed("Third text that is new here as well.")

    def fail(*args):
        raise RuntimeError("out of memory")

    handle = engine.model.base_model.layers[0].register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError):
            copy_attention(made.vectors, smollm2, engine)
    finally:
        handle.remove()
    assert copy_attention(made.vectors, smollm2, engine).shape == (len(made),)


@pytest.mark.parametrize("information", WAYS)
def test_information_of_a_model_needs_an_engine(smollm2, information):
    with pytest.raises(ValueError, match=rf"information='{information}' needs a model: pass engine="):
        compress(smollm2.embed(PASSAGE), 2, information=information, space=smollm2)


def test_surprisal_beyond_the_context_is_an_error_and_attention_reads_on(smollm2, other):
    made = other.space.embed(PASSAGE * 12)
    assert len(made) > other.space.context_length
    with pytest.raises(ValueError, match="shorten it first"):
        compress(made, 4, information="surprisal", engine=other)
    assert len(compress(made, 4, information="attention", engine=other)) <= -(-len(made) // 4)
