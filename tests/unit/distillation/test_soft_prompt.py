"""Soft prompts: rows that do to the model what a system prompt does."""

import json

import pytest
import torch

from embedspace import SoftPrompt
from embedspace.distillation import Distillation, fidelity
from embedspace.distillation.placement import find_rows, full_conversation
from embedspace.distillation.questions import general_questions, written_questions
from embedspace.distillation.soft_rows import STARTS, messages_content, norm_bounds, start_rows, within
from embedspace.engines import Sampling, VLLMClient
from embedspace.errors import EngineError
from tests.local_hub import LocalHub
from tests.unit.space.test_table_download import connect

MESSAGES = [
    {
        "role": "system",
        "content": "You are a pirate. Answer every question in one short, salty sentence, matey!",
    }
]
QUESTIONS = ["What is rain?", "Who are you?", "Tell me a story.", "Why is the sky blue?", "How do birds fly?"]
NEW = ["What is the capital?", "Is it late?"]
FAST = Distillation(answer_tokens=5, epochs=6, batch_size=2, held_out=0.3, learning_rate=0.1)


@pytest.fixture(scope="module")
def soft(engine):
    return SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST)


def test_distilled_rows_come_nearer_to_the_messages_than_the_compressed_ones_they_start_from(engine, soft):
    assert soft.origin["divergence"]["after"] < soft.origin["divergence"]["start"]
    content = messages_content(engine.space, MESSAGES)
    start = SoftPrompt(start_rows(engine.space, content, 4, soft.origin["start"]), engine.space.fingerprint)
    learnt, compressed = (fidelity(engine, MESSAGES, each, QUESTIONS, max_tokens=5) for each in (soft, start))
    assert learnt.divergence.estimate < compressed.divergence.estimate
    assert len(soft) == 4


def test_the_start_is_the_better_compression(engine, soft):
    content = messages_content(engine.space, MESSAGES)
    assert soft.origin["start"] in STARTS
    for method in STARTS:
        assert start_rows(engine.space, content, 4, method).shape == (4, engine.space.hidden_size)


def test_norms_stay_where_those_of_the_vocabulary_are(engine, soft):
    low, high = norm_bounds(engine.space)
    assert ((soft.vectors.norm(dim=1) >= low - 1e-4) & (soft.vectors.norm(dim=1) <= high + 1e-4)).all()
    rows = torch.tensor([[10.0, 0.0], [0.0, 0.1], [1.0, 0.0]])
    assert within(rows, (0.5, 2.0)).tolist() == [[2.0, 0.0], [0.0, 0.5], [1.0, 0.0]]


def test_the_same_seed_gives_the_same_rows_and_another_one_others(engine, soft):
    again = SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST)
    assert torch.equal(again.vectors, soft.vectors)
    other = SoftPrompt.distill(
        engine, MESSAGES, QUESTIONS, tokens=4, settings=Distillation(**{**vars(FAST), "seed": 1})
    )
    assert not torch.equal(other.vectors, soft.vectors)


def test_an_interrupted_distillation_goes_on_where_it_was(engine, soft, tmp_path, monkeypatch):
    from embedspace.distillation import gradient_descent

    path, written = tmp_path / "state.safetensors", []
    save = gradient_descent.save_tensors

    def interrupted(*arguments):
        save(*arguments)
        written.append(1)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(gradient_descent, "save_tensors", interrupted)
    with pytest.raises(KeyboardInterrupt):
        SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST, checkpoint=path)
    resumed = SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST, checkpoint=path)
    assert torch.equal(resumed.vectors, soft.vectors)
    assert resumed.origin["divergence"] == soft.origin["divergence"]
    assert len(written) == len(soft.origin["divergence"]["epochs"]), "epochs were computed twice"
    with pytest.raises(ValueError, match="another distillation"):
        SoftPrompt.distill(engine, MESSAGES, QUESTIONS[:4], tokens=4, settings=FAST, checkpoint=path)


def test_sampled_answers_of_the_teacher_are_learnt_from_as_well(engine, soft):
    more = SoftPrompt.distill(
        engine, MESSAGES, QUESTIONS, tokens=4, settings=Distillation(**{**vars(FAST), "sampled_answers": 2})
    )
    assert not torch.equal(more.vectors, soft.vectors)


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "A list of words: rain, sea, sky, bird and story."}],
        [
            {"role": "system", "content": "Classify."},
            {"role": "user", "content": "What a day!"},
            {"role": "assistant", "content": "positive"},
        ],
    ],
)
def test_documents_and_examples_are_distilled_as_well(engine, messages):
    soft = SoftPrompt.distill(engine, messages, QUESTIONS, tokens=3, settings=FAST)
    assert soft.role == messages[0]["role"]
    prompt = engine.space.embed_chat(soft.conversation("Who?"))
    assert find_rows(prompt, soft.vectors)


def test_a_question_after_a_users_document_is_in_the_same_turn():
    assert full_conversation([{"role": "user", "content": "A"}], "B?")[0]["content"] == ["A", "\n\n", "B?"]
    assert [turn["role"] for turn in full_conversation(MESSAGES, "B?")] == ["system", "user"]


def test_soft_rows_are_no_content_so_that_other_transforms_leave_them_alone(engine, soft):
    prompt = engine.space.embed_chat(soft.conversation("Who are you?"))
    text = engine.space.embed("Who are you?")
    assert torch.equal(prompt.content_vectors, text.vectors.to(prompt.vectors))


def test_two_soft_prompts_stand_one_after_another(engine, soft):
    both = engine.space.embed_chat(
        [{"role": "system", "content": [soft, soft]}, {"role": "user", "content": "x"}]
    )
    one = engine.space.embed_chat(soft.conversation("x"))
    assert len(both) == len(one) + len(soft)


def test_a_soft_prompt_survives_its_folder_whose_card_says_how_it_was_made(engine, soft, tmp_path):
    soft.save(tmp_path / "pirate")
    read = SoftPrompt.load(tmp_path / "pirate", engine.space)
    assert torch.equal(read.vectors, soft.vectors)
    assert (read.role, read.origin) == (soft.role, json.loads(json.dumps(dict(soft.origin))))
    card = (tmp_path / "pirate" / "README.md").read_text()
    for fact in (
        MESSAGES[0]["content"],
        QUESTIONS[0],
        f"{soft.origin['divergence']['after']:.3f}",
        "seed",
        "license",
    ):
        assert fact in card
    assert torch.equal(SoftPrompt.from_pretrained(tmp_path / "pirate", engine.space).vectors, soft.vectors)


def test_a_soft_prompt_on_the_hub_is_read_by_its_name(engine, soft, tmp_path, monkeypatch):
    soft.save(tmp_path / "pirate")
    with LocalHub().running() as served:
        connect(monkeypatch, tmp_path, served)
        served.publish("maker/pirate", tmp_path / "pirate")
        read = SoftPrompt.from_pretrained("maker/pirate", engine.space)
    assert torch.equal(read.vectors, soft.vectors)
    with pytest.raises(ValueError, match="revision 'main' needs a soft prompt on the hub"):
        SoftPrompt.from_pretrained(tmp_path / "pirate", engine.space, revision="main")


def test_folders_that_are_damaged_or_of_another_space_are_refused(engine, soft, smollm2, tmp_path):
    soft.save(tmp_path)
    with pytest.raises(ValueError, match=f"{engine.space.fingerprint}.*{smollm2.fingerprint}"):
        SoftPrompt.load(tmp_path, smollm2)
    with pytest.raises(ValueError, match="is not a soft prompt"):
        SoftPrompt.load(tmp_path / "nowhere", engine.space)
    weights = tmp_path / "soft_prompt.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])
    with pytest.raises(ValueError, match="damaged or cut short"):
        SoftPrompt.load(tmp_path, engine.space)


def test_fidelity_of_the_messages_themselves_is_perfect_and_of_nothing_is_nothing(engine):
    whole = fidelity(
        engine,
        MESSAGES,
        lambda question: engine.space.embed_chat(full_conversation(MESSAGES, question)),
        NEW,
        max_tokens=6,
    )
    assert whole.divergence.estimate == pytest.approx(0, abs=1e-5)
    assert whole.equal_tokens.estimate == 1
    assert whole.equal_answers == 2
    assert whole.closed.estimate == pytest.approx(1)
    plain = fidelity(
        engine,
        MESSAGES,
        lambda question: engine.space.embed_chat([{"role": "user", "content": question}]),
        NEW,
        max_tokens=6,
    )
    assert plain.closed.estimate == pytest.approx(0, abs=1e-5)
    assert NEW[0] in plain.table()
    assert "2 questions" in str(plain)


def test_the_divergence_is_that_of_the_whole_distributions(engine, soft):
    one = fidelity(engine, MESSAGES, soft, NEW[:1], max_tokens=4).questions[0]
    teacher, student = (
        engine.space.embed_chat(messages)
        for messages in (full_conversation(MESSAGES, NEW[0]), soft.conversation(NEW[0]))
    )
    answer = next(iter(engine.generate([teacher], Sampling(max_tokens=4)))).token_ids
    expected = 0.0
    for place in range(len(answer)):
        said = [
            torch.cat([prompt.vectors.float(), engine.space.lookup(answer[:place]).float()])
            for prompt in (teacher, student)
        ]
        p, q = (engine.model(inputs_embeds=rows[None]).logits[0, -1].double().log_softmax(0) for rows in said)
        expected += float((p.exp() * (p - q)).sum()) / len(answer)
    assert one.divergence == pytest.approx(expected, abs=1e-4)


def test_packaged_questions_are_many_and_different():
    assert len(set(general_questions())) == len(general_questions()) >= 50


def test_a_model_that_writes_no_questions_is_an_error_that_asks_for_some(engine):
    assert written_questions(engine, engine.space, MESSAGES, count=3) == []
    with pytest.raises(ValueError, match=r"wrote only 0 questions.*questions=\[\.\.\.\]"):
        SoftPrompt.distill(engine, MESSAGES, tokens=4, settings=FAST)
    with pytest.raises(ValueError, match="end with a user's turn"):
        SoftPrompt.distill(engine, [{"role": "user", "content": "A document of words."}], tokens=2)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"questions": ["One?"]}, ValueError, "has 1 entries and at least 2"),
        ({"questions": []}, ValueError, "has 0 entries"),
        ({"questions": "Why?"}, TypeError, "must be a list"),
        ({"questions": ["Why?", " "]}, ValueError, r"questions\[1\] is an empty text"),
        ({"questions": ["Why?", 3]}, TypeError, r"questions\[1\] must be a string"),
        ({"questions": ["Why?", "Why?"]}, ValueError, "twice"),
        ({"messages": [{"role": "system", "content": " "}]}, ValueError, "no content"),
        ({"messages": []}, ValueError, "no content"),
        ({"messages": "Be brief."}, TypeError, "must be a list"),
        ({"tokens": 5000}, ValueError, r"tokens is 5000; the messages have \d+ content rows"),
        ({"tokens": 0}, ValueError, "tokens is 0"),
    ],
)
def test_bad_input_is_named(engine, changes, error, words):
    given = {"messages": MESSAGES, "questions": QUESTIONS, "tokens": 4, "settings": FAST, **changes}
    with pytest.raises(error, match=words):
        SoftPrompt.distill(engine, **given)


def test_an_engine_without_gradients_is_named():
    client = VLLMClient("http://localhost:1")
    with pytest.raises(TypeError, match="a VLLMClient computes none"):
        SoftPrompt.distill(client, MESSAGES, QUESTIONS)


def test_messages_and_soft_prompts_of_another_space_are_refused(engine, soft, smollm2):
    with pytest.raises(ValueError, match=smollm2.fingerprint):
        SoftPrompt.distill(engine, [{"role": "system", "content": smollm2.embed("a b c d e f")}], QUESTIONS)
    with pytest.raises(ValueError, match=smollm2.fingerprint):
        smollm2.embed_chat(soft.conversation("Who?"))


def test_a_loss_that_is_not_finite_ends_the_distillation_and_says_what_to_change(engine, monkeypatch):
    from embedspace.distillation import soft_rows

    divergence = soft_rows.teacher_divergence
    monkeypatch.setattr(
        soft_rows, "teacher_divergence", lambda *arguments: divergence(*arguments) * float("nan")
    )
    with pytest.raises(ValueError, match=r"loss is nan in epoch 1; lower learning_rate"):
        SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST)


def test_memory_that_runs_out_says_what_to_lower(engine, monkeypatch):
    def full(*arguments, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    from embedspace.distillation import answer_logits

    monkeypatch.setattr(answer_logits, "_continued_logits", full)
    with pytest.raises(EngineError, match=r"lower\s+batch_size \(now 2\) or answer_tokens"):
        SoftPrompt.distill(engine, MESSAGES, QUESTIONS, tokens=4, settings=FAST)


@pytest.mark.parametrize("name", ["answer_tokens", "epochs", "batch_size", "patience", "temperature"])
def test_settings_out_of_range_are_named(name):
    with pytest.raises(ValueError, match=rf"Distillation\.{name} is 0"):
        Distillation(**{name: 0})


def test_rows_that_are_no_soft_prompt_are_refused():
    with pytest.raises(TypeError, match="float32"):
        SoftPrompt(torch.zeros(2, 4, dtype=torch.bfloat16), "s")
    with pytest.raises(ValueError, match="at least one row"):
        SoftPrompt(torch.zeros(0, 4), "s")
    with pytest.raises(ValueError, match="finite"):
        SoftPrompt(torch.full((2, 4), float("nan")), "s")
