"""Style vectors found by gradient: they make the wanted answers likelier on prompts they were not fitted on."""

import pytest
import torch

from embedspace import StyleVector
from embedspace.distillation import Optimisation
from embedspace.distillation.objectives import answer_nll

QUESTIONS = ["What is rain?", "Who are you?", "Tell me a story.", "Why is the sky blue?", "How do birds fly?"]
NEW = ["What is the capital?", "Is it late?"]
BETTER = ["the river", "the river runs"]
WORSE = ["Zwei Wörter", "weather"]


def chats(engine, texts):
    return [engine.space.embed_chat([{"role": "user", "content": text}]) for text in texts]


def fit(engine, positive=BETTER, negative=WORSE, prompts=None, **settings):
    prompts = chats(engine, QUESTIONS) if prompts is None else prompts
    settings = {"epochs": 10, "learning_rate": 0.2, "norm": 4.0, **settings}
    optimisation = Optimisation(engine, prompts, **settings)
    return StyleVector.fit(engine.space, positive, negative, method="optimised", optimisation=optimisation)


def margin(engine, prompts):
    """Log-odds of the better over the worse answers, as the engine scores them."""
    return sum(
        float(engine.score(prompt, better).mean() - engine.score(prompt, worse).mean())
        for prompt in prompts
        for better, worse in zip(BETTER, WORSE, strict=True)
    )


def test_the_better_answers_become_likelier_on_prompts_that_were_not_learnt_on(engine):
    style = fit(engine)
    new = chats(engine, NEW)
    assert margin(engine, [style.apply(prompt) for prompt in new]) > margin(engine, new)
    assert 0 < style.norm <= 4.0 * (1 + 1e-5)
    assert style.method == "optimised"


def test_equal_seeds_give_equal_vectors_whatever_the_order_of_prompts_and_answers(engine):
    style = fit(engine)
    shuffled = fit(engine, BETTER[::-1], WORSE[::-1], chats(engine, QUESTIONS[::-1]))
    assert torch.equal(style.vector, shuffled.vector)
    assert not torch.equal(style.vector, fit(engine, seed=1).vector)


def test_whole_answers_belong_to_their_prompts_in_any_order(engine):
    better = [f"the river {number}" for number in range(len(QUESTIONS))]
    worse = [f"weather {number}" for number in range(len(QUESTIONS))]
    style = fit(engine, better, worse, answers="whole", batch_size=2, patience=10)
    again = fit(
        engine,
        better[::-1],
        worse[::-1],
        chats(engine, QUESTIONS[::-1]),
        answers="whole",
        batch_size=2,
        patience=10,
    )
    assert torch.equal(style.vector, again.vector)


def test_the_nll_of_answers_is_what_the_engine_scores(engine):
    prompts = chats(engine, QUESTIONS[:3])
    answers = [engine.space.tokenize(text) for text in ("the river", "a", "token model reads")]
    style = StyleVector.random(engine.space, norm=1.0, seed=0)
    nlls = answer_nll(engine, list(zip(prompts, answers, strict=True)), style.vector)
    for nll, prompt, answer in zip(nlls.tolist(), prompts, answers, strict=True):
        assert nll == pytest.approx(-float(engine.score(style.apply(prompt), answer).mean()), abs=1e-4)


def test_the_model_is_left_as_it_was(engine):
    before = {name: tensor.clone() for name, tensor in engine.model.state_dict().items()}
    fit(engine, epochs=2)
    assert all(torch.equal(tensor, before[name]) for name, tensor in engine.model.state_dict().items())
    assert all(parameter.grad is None for parameter in engine.model.parameters())


@pytest.mark.parametrize(
    ("positive", "negative", "message"),
    [
        ([], WORSE, "positive has 0 answers"),
        (BETTER[:1], WORSE, "positive has 1 answers"),
        (BETTER, ["x", " "], r"negative\[1\] is an empty text"),
        (BETTER, BETTER[::-1], "are the same"),
    ],
)
def test_answers_that_show_no_style_are_refused(engine, positive, negative, message):
    with pytest.raises(ValueError, match=message):
        fit(engine, positive, negative)


def test_answers_prompts_and_engines_that_do_not_fit_are_refused(engine, smollm2):
    with pytest.raises(TypeError, match=r"positive\[0\] must be a string"):
        fit(engine, [3, "x"])
    with pytest.raises(ValueError, match="2 whole answers for 5 prompts"):
        fit(engine, answers="whole")
    with pytest.raises(ValueError, match=smollm2.fingerprint):
        fit(engine, prompts=[smollm2.embed("a"), smollm2.embed("b")])
    optimisation = Optimisation(engine, chats(engine, QUESTIONS))
    with pytest.raises(ValueError, match="the engine of the same model"):
        StyleVector.fit(smollm2, BETTER, WORSE, method="optimised", optimisation=optimisation)
    with pytest.raises(ValueError, match="only that method takes one"):
        StyleVector.fit(engine.space, BETTER, WORSE, method="pca", optimisation=optimisation)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("prompts", []),
        ("answers", "some"),
        ("rows", "some"),
        ("norm", 0.0),
        ("norm", float("nan")),
        ("contrast", -1.0),
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("held_out", 1.0),
        ("patience", 0),
        ("restarts", 0),
        ("seed", -1),
    ],
)
def test_settings_out_of_range_are_named(engine, name, value):
    with pytest.raises(ValueError, match=rf"Optimisation\.{name}"):
        Optimisation(**{"engine": engine, "prompts": chats(engine, NEW), name: value})
