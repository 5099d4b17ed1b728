"""Style vectors distilled from instructions: without the instruction the model answers as it does with it."""

import pytest
import torch

from embedspace import StyleVector
from embedspace.distillation import Optimisation
from embedspace.distillation.answer_logits import added_to
from embedspace.distillation.objectives import MAX_CANDIDATES, teacher_divergence, teacher_sequences
from embedspace.engines import Sampling

QUESTIONS = ["What is rain?", "Who are you?", "Tell me a story.", "Why is the sky blue?", "How do birds fly?"]
NEW = ["What is the capital?", "Is it late?", "Zwei Wörter?"]
INSTRUCTION = "Please answer in one short sentence."
ADDED = added_to("content")


def chats(engine, texts, instruction=""):
    return [
        engine.space.embed_chat([{"role": "user", "content": f"{instruction} {text}".strip()}])
        for text in texts
    ]


def planted(engine, texts):
    """Prompts whose answers one vector can imitate."""
    vector = StyleVector.random(engine.space, norm=2.0, seed=3)
    return [vector.apply(prompt) for prompt in chats(engine, texts)]


def sequences(engine, texts, *, wanted=None, guidance=0.0, tokens=6, batch_size=2):
    plain = chats(engine, texts)
    return teacher_sequences(
        engine,
        plain,
        chats(engine, texts, INSTRUCTION) if wanted is None else wanted,
        plain,
        guidance=guidance,
        max_tokens=tokens,
        batch_size=batch_size,
    )


def fit(engine, *, order=1, wanted=None, avoided=None, **settings):
    texts = QUESTIONS[::order]
    settings = {
        "epochs": 4, "learning_rate": 0.1, "norm": 4.0, "answer_tokens": 6, "batch_size": 2, **settings
    }  # fmt: skip
    optimisation = Optimisation(engine, chats(engine, texts), answers="distilled", **settings)
    return StyleVector.fit(
        engine.space,
        planted(engine, texts) if wanted is None else wanted,
        chats(engine, texts) if avoided is None else avoided,
        method="optimised",
        optimisation=optimisation,
    )


def test_what_one_vector_can_imitate_is_learnt_and_holds_for_new_questions(engine):
    style = fit(engine, epochs=40, patience=40)
    new = sequences(engine, NEW, wanted=planted(engine, NEW))
    before = teacher_divergence(engine, new, torch.zeros(engine.space.hidden_size), ADDED).mean()
    assert teacher_divergence(engine, new, style.vector, ADDED).mean() < 0.5 * before
    assert 0 < style.norm <= 4.0 * (1 + 1e-5)
    assert len(style.apply(new[0].prompt)) == len(new[0].prompt)


def test_a_teacher_without_guidance_says_what_the_engine_answers(engine):
    found = sequences(engine, QUESTIONS, batch_size=3)
    answers = engine.generate(chats(engine, QUESTIONS, INSTRUCTION), Sampling(max_tokens=6))
    assert [tuple(sequence.answer.tolist()) for sequence in found] == [answer.token_ids for answer in answers]


@pytest.mark.parametrize("guidance", [0.0, 1.5])
def test_a_teacher_sequence_is_the_guided_distribution_over_likely_tokens(engine, guidance):
    sequence = sequences(engine, QUESTIONS[:1], guidance=guidance)[0]
    ids = sequence.answer.tolist()
    wanted, avoided = (
        engine.model(
            inputs_embeds=torch.cat([prompt.vectors, engine.space.lookup(ids)])[None].to(engine.dtype)
        )
        .logits[0, len(prompt) - 1 : -1]
        .double()
        .log_softmax(dim=-1)
        for prompt in (
            chats(engine, QUESTIONS[:1], INSTRUCTION)[0],
            chats(engine, QUESTIONS[:1])[0],
        )
    )
    likely, candidates = wanted.topk(MAX_CANDIDATES, dim=1)
    expected = (likely + guidance * (likely - avoided.gather(1, candidates))).log_softmax(dim=1)
    for place, token in enumerate(ids):
        found = dict(zip(sequence.candidates[place].tolist(), sequence.logprobs[place].tolist(), strict=True))
        known = dict(zip(candidates[place].tolist(), expected[place].tolist(), strict=True))
        assert found == pytest.approx(known, abs=1e-3)
        assert token == max(known, key=known.__getitem__)


@pytest.mark.parametrize("rows", ["content", "last", "all"])
def test_the_loss_of_a_sequence_is_its_divergence_after_the_moved_prompt(engine, rows):
    found = sequences(engine, QUESTIONS[:3], tokens=5)
    style = StyleVector.random(engine.space, norm=1.0, seed=0)
    losses = teacher_divergence(engine, found, style.vector, added_to(rows)).tolist()
    for sequence, loss in zip(found, losses, strict=True):
        moved = style.apply(sequence.prompt, rows=rows)
        expected = 0.0
        for place in range(len(sequence.answer)):
            said = torch.cat([moved.vectors, engine.space.lookup(sequence.answer[:place].tolist())])
            logits = engine.model(inputs_embeds=said[None].to(engine.dtype)).logits[0, -1]
            likely = logits.double().log_softmax(dim=0)[sequence.candidates[place]]
            teacher = sequence.logprobs[place].double()
            expected += float((teacher.exp() * (teacher - likely)).sum()) / len(sequence.answer)
        assert loss == pytest.approx(expected, abs=1e-4)


def test_guidance_leads_further_than_the_instruction(engine):
    """Towards what is likelier with the instruction than without it, the guided teacher goes further."""
    gains = []
    for guidance in (0.0, 2.0):
        gain = 0.0
        for sequence, wanted in zip(
            sequences(engine, QUESTIONS, guidance=guidance, tokens=1),
            chats(engine, QUESTIONS, INSTRUCTION),
            strict=True,
        ):
            tokens = [[token] for token in sequence.candidates[0].tolist()]
            asked, plain = (
                torch.cat(engine.score_all([(prompt, tokens)])[0]) for prompt in (wanted, sequence.prompt)
            )
            gain += float((sequence.logprobs[0].exp() * (asked - plain)).sum())
        gains.append(gain)
    assert gains[1] > gains[0]


def test_a_distilled_vector_does_not_depend_on_the_order_of_the_prompts_but_on_its_settings(engine):
    style = fit(engine)
    assert torch.equal(style.vector, fit(engine, order=-1).vector)
    other = fit(engine, guidance=0.5)
    assert not torch.equal(style.vector, other.vector)
    assert (
        dict(style.recipe.parameters)["answers"] == "taught"
    )  # as in recipes recorded before the option was renamed
    assert other.recipe.digest != style.recipe.digest


def test_the_rows_that_a_vector_is_learnt_on_decide_it(engine):
    style = fit(engine, rows="last")
    assert dict(style.recipe.parameters)["rows"] == "last"
    assert not torch.equal(style.vector, fit(engine).vector)
    texts = [engine.space.embed(text) for text in QUESTIONS]
    settings = Optimisation(engine, texts, answers="distilled", rows="template")
    with pytest.raises(ValueError, match="no row of the prompt is marked"):
        StyleVector.fit(engine.space, texts, texts[::-1], method="optimised", optimisation=settings)


def test_a_distilled_vector_survives_a_file(engine, tmp_path):
    style = fit(engine)
    style.save(tmp_path / "style.safetensors")
    read = StyleVector.load(tmp_path / "style.safetensors", engine.space)
    assert torch.equal(read.vector, style.vector)
    assert read.recipe == style.recipe


def test_examples_that_are_no_prompts_or_of_another_number_are_refused(engine, smollm2):
    with pytest.raises(TypeError, match=r"positive\[0\] must be a prompt for answers='distilled', got a str"):
        fit(engine, wanted=["a", "b"])
    with pytest.raises(ValueError, match="positive has 2 distilled answers for 5 prompts"):
        fit(engine, wanted=chats(engine, QUESTIONS[:2]))
    with pytest.raises(ValueError, match="positive has 0 answers"):
        fit(engine, wanted=[])
    with pytest.raises(ValueError, match="are the same"):
        fit(engine, avoided=planted(engine, QUESTIONS))
    with pytest.raises(ValueError, match=smollm2.fingerprint):
        fit(engine, wanted=[smollm2.embed(text) for text in QUESTIONS])
    broken = planted(engine, QUESTIONS)
    broken[1] = broken[1].with_content(torch.full_like(broken[1].vectors[broken[1].content], float("nan")))
    with pytest.raises(ValueError, match="finite"):
        fit(engine, wanted=broken)


@pytest.mark.parametrize(
    ("name", "value"), [("guidance", -1.0), ("guidance", float("nan")), ("answer_tokens", 0)]
)
def test_settings_of_distillation_that_are_out_of_range_are_named(engine, name, value):
    with pytest.raises(ValueError, match=rf"Optimisation\.{name}"):
        Optimisation(engine, chats(engine, NEW), answers="distilled", **{name: value})


def test_the_former_name_of_distilled_answers_is_accepted(engine):
    assert Optimisation(engine, chats(engine, NEW), answers="taught").answers == "distilled"
