"""Vectors distilled from an instruction by one call."""

import json

import pytest
import torch

from embedspace import EmbeddingSpace, StyleVector
from embedspace.distillation import Distillation, fidelity
from embedspace.engines import VLLMClient
from embedspace.style import packaged_recipe, packaged_vectors
from embedspace.style.sharing import SHIPPED

QUESTIONS = ["What is rain?", "Who are you?", "Tell me a story.", "Why is the sky blue?", "How do birds fly?"]
INSTRUCTION = "Answer like a pirate."
FAST = Distillation(answer_tokens=5, epochs=8, batch_size=2, held_out=0.3, learning_rate=0.5)


@pytest.fixture(scope="module")
def vector(engine):
    return StyleVector.distill(engine, INSTRUCTION, QUESTIONS, settings=FAST)


def plain(engine, question):
    return engine.space.embed_chat([{"role": "user", "content": question}])


def test_a_distilled_vector_brings_the_answers_nearer_to_those_under_the_instruction(engine, vector):
    learnt = dict(vector.recipe.parameters)
    assert learnt["divergence"] < learnt["divergence_without"]
    messages = [{"role": "user", "content": INSTRUCTION}]
    measured = fidelity(
        engine, messages, lambda question: vector.apply(plain(engine, question)), QUESTIONS, max_tokens=5
    )
    assert len(measured.questions) == len(QUESTIONS)


def test_it_is_applied_to_the_rows_that_it_was_learnt_on_unless_others_are_named(engine, vector, tmp_path):
    prompt = plain(engine, "Who are you?")
    assert torch.equal(vector.apply(prompt).vectors, vector.apply(prompt, rows="last").vectors)
    assert not torch.equal(vector.apply(prompt).vectors, vector.apply(prompt, rows="content").vectors)
    vector.save(tmp_path / "pirate.safetensors")
    read = StyleVector.from_pretrained(tmp_path / "pirate.safetensors", engine.space)
    assert read.rows == "last"
    assert torch.equal(read.apply(prompt).vectors, vector.apply(prompt).vectors)
    assert (2 * vector).rows == "last"
    assert (vector + StyleVector.random(engine.space, norm=1.0, seed=0)).rows == "content"


def test_the_norm_is_bounded(engine, vector):
    bound = 1.4 * float(engine.space.norms.mean())
    assert 0 < vector.norm <= bound * (1 + 1e-5)
    assert StyleVector.distill(engine, INSTRUCTION, QUESTIONS, settings=FAST, norm=0.5).norm <= 0.5 * (
        1 + 1e-5
    )


def test_examples_of_the_style_are_part_of_the_teacher(engine, vector):
    shown = StyleVector.distill(
        engine, INSTRUCTION, QUESTIONS, settings=FAST, examples=[("What is bread?", "Arr, it be food!")]
    )
    assert not torch.equal(shown.vector, vector.vector)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"instruction": " "}, ValueError, "empty text"),
        ({"instruction": 3}, TypeError, "must be a string"),
        ({"questions": ["Why?"]}, ValueError, "has 1 entries"),
        ({"norm": 0.0}, ValueError, "norm must be positive"),
        ({"engine": VLLMClient("http://localhost:1")}, TypeError, "a VLLMClient computes none"),
    ],
)
def test_bad_input_is_named(engine, changes, error, words):
    given = {
        "engine": engine,
        "instruction": INSTRUCTION,
        "questions": QUESTIONS,
        "settings": FAST,
        **changes,
    }
    with pytest.raises(error, match=words):
        StyleVector.distill(**given)


def test_names_that_are_no_vector_are_refused_with_the_ones_there_are(engine):
    with pytest.raises(ValueError, match=r"neither a file.* nor a packaged name \(cheerful, pirate, terse\)"):
        StyleVector.from_pretrained("buccaneer", engine.space)
    assert packaged_recipe("buccaneer") is None
    assert packaged_recipe("pirate")[0] == INSTRUCTION


def test_the_packaged_vectors_were_learnt_from_the_packaged_recipes():
    space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    question = space.embed_chat([{"role": "user", "content": "What is the capital of France?"}])
    assert packaged_vectors() == ["cheerful", "pirate", "terse"]
    assert sum(path.stat().st_size for path in SHIPPED.iterdir()) < 100_000
    for name in packaged_vectors():
        shipped = StyleVector.from_pretrained(name, space)
        learnt = dict(shipped.recipe.parameters)
        instruction, examples = packaged_recipe(name)
        assert learnt["instruction"] == instruction
        assert json.loads(learnt["examples"]) == [list(pair) for pair in examples]
        assert learnt["divergence"] < 0.5 * learnt["divergence_without"]
        moved = (shipped.apply(question).vectors != question.vectors).any(dim=1)
        assert moved.sum() == 1
        assert space.tokenizer.decode(space.nearest(question.vectors[moved], k=1)[0][0].tolist()) == "?"
