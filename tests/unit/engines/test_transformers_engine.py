"""The in-process engine: embeddings and token ids are the same thing, and batches change nothing."""

import dataclasses
import threading

import pytest
import torch

from embedspace import EmbeddingSpace, PromptEmbeds, Recipe
from embedspace.engines import Engine, Sampling, TransformersEngine
from tests.checkpoints import make_tiny_checkpoint

QUESTIONS = [
    "What is the capital of France?",
    "Name a colour.",
    "Écris un mot en français.",
    "Why is the sky blue? Explain it to a child in one short sentence, please.",
    "2+2?",
]
GREEDY = Sampling(max_tokens=12)


@pytest.fixture(scope="module")
def engine(smollm2):
    return TransformersEngine(smollm2, batch_size=3)


@pytest.fixture(scope="module")
def prompts(smollm2):
    return [smollm2.embed_chat([{"role": "user", "content": question}]) for question in QUESTIONS]


@pytest.fixture(scope="module")
def ids(smollm2):
    return [smollm2.chat_ids([{"role": "user", "content": question}]) for question in QUESTIONS]


def texts(completions):
    return [completion.text for completion in completions]


def test_it_is_an_engine_and_says_what_it_is(engine):
    assert isinstance(engine, Engine)
    assert engine.describe()["model"] == "smollm2-135m-instruct"


def test_greedy_answers_to_embeddings_equal_those_to_token_ids(engine, prompts, ids):
    by_rows, by_ids = list(engine.generate(prompts, GREEDY)), list(engine.generate(ids, GREEDY))
    assert [c.token_ids for c in by_rows] == [c.token_ids for c in by_ids]
    assert "Paris" in by_rows[0].text


def test_greedy_answers_equal_transformers_own_generate(engine, prompts, ids):
    for completion, tokens in zip(engine.generate(prompts, GREEDY), ids, strict=True):
        out = engine.model.generate(
            input_ids=torch.tensor([tokens]),
            attention_mask=torch.ones(1, len(tokens)),
            max_new_tokens=GREEDY.max_tokens,
            do_sample=False,
        )
        assert tuple(out[0, len(tokens) :].tolist()) == completion.token_ids


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_do_not_depend_on_the_batch_or_the_order(engine, prompts, temperature):
    sampling = dataclasses.replace(GREEDY, temperature=temperature, seed=5)
    together = texts(engine.generate(prompts, sampling))
    assert [next(iter(engine.generate([prompt], sampling))).text for prompt in prompts] == together
    assert texts(engine.generate(prompts[::-1], sampling))[::-1] == together


def test_sampling_follows_the_seed_and_n_gives_different_answers(engine, prompts):
    sampling = Sampling(max_tokens=8, temperature=1.0, n=4, seed=1)
    first, again = (list(engine.generate(prompts[:2], sampling)) for _ in range(2))
    assert texts(first) == texts(again)
    assert [(c.prompt_index, c.index) for c in first] == [(p, i) for p in range(2) for i in range(4)]
    assert len({c.text for c in first[:4]}) > 1
    assert texts(engine.generate(prompts[:2], dataclasses.replace(sampling, seed=2))) != texts(first)


def test_sampled_tokens_follow_the_models_distribution(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, layers=1)
    engine = TransformersEngine(folder, batch_size=500)
    prompt = engine.space.embed("a token")
    drawn = [
        completion.token_ids[0]
        for seed in range(8)
        for completion in engine.generate([prompt], Sampling(max_tokens=1, temperature=1.5, n=500, seed=seed))
    ]
    with torch.no_grad():
        logits = engine.model(inputs_embeds=prompt.vectors[None].float()).logits[0, -1]
    expected = (logits / 1.5).softmax(dim=-1)
    measured = torch.bincount(torch.tensor(drawn), minlength=len(expected)) / len(drawn)
    # Total variation of 4,000 draws from the right distribution over k likely tokens is about
    # sqrt(k / (2 pi 4000)); another temperature is far outside.
    assert (measured - expected).abs().sum() / 2 < 0.15
    wrong = (logits / 0.75).softmax(dim=-1)
    assert (measured - wrong).abs().sum() / 2 > 0.25


def test_log_probabilities_are_the_models_own_and_agree_with_score(engine, prompts):
    sampling = dataclasses.replace(GREEDY, logprobs=3)
    for prompt, completion in zip(prompts, engine.generate(prompts, sampling), strict=True):
        scores = engine.score(prompt, completion.token_ids)
        assert torch.allclose(torch.tensor(completion.logprobs), scores, atol=1e-3)
        assert all(len(step) == 3 for step in completion.top_logprobs)
        assert all(
            max(step.values()) == pytest.approx(logprob)
            for step, logprob in zip(completion.top_logprobs, completion.logprobs, strict=True)
        )


def test_scores_equal_a_plain_forward_pass_and_do_not_depend_on_company(engine, prompts, ids):
    continuations = ["The capital of France is Paris.", "No", " x" * 40]
    (together,) = engine.score_all([(prompts[0], continuations)])
    for text, scores in zip(continuations, together, strict=True):
        target = engine.space.tokenize(text)
        with torch.no_grad():
            logits = engine.model(torch.tensor([ids[0] + target])).logits[0].double().log_softmax(-1)
        expected = logits[len(ids[0]) - 1 : -1].gather(1, torch.tensor(target)[:, None])[:, 0]
        assert torch.allclose(scores.double(), expected, atol=1e-3)
        assert torch.allclose(engine.score(ids[0], text), scores, atol=1e-3)


def test_scores_of_several_prompts_together_are_those_of_each_alone(engine, prompts, ids):
    longer = [engine.space.embed("One and two. " * count) for count in (1, 7, 3)]
    asked = [
        *((prompt, ["Paris", " It is the very same."]) for prompt in [*prompts[:3], *longer]),
        *((own, [" Yes"]) for own in ids[:2]),
        (prompts[0], []),
    ]
    together = engine.score_all(asked)
    assert [len(own) for own in together] == [len(continuations) for _, continuations in asked]
    for (prompt, continuations), own in zip(asked, together, strict=True):
        for text, scores in zip(continuations, own, strict=True):
            assert torch.allclose(engine.score(prompt, text), scores, atol=1e-3)


def test_one_prompt_that_cannot_be_scored_is_named_before_any_is(engine, prompts):
    with pytest.raises(ValueError, match="no tokens to score"):
        engine.score_all([(prompts[0], ["Paris"]), (prompts[1], [""])])


def test_stop_strings_end_a_completion_and_are_not_part_of_it(engine, prompts):
    (whole,) = engine.generate(prompts[:1], GREEDY)
    assert " of France" in whole.text
    (cut,) = engine.generate(prompts[:1], dataclasses.replace(GREEDY, stop=(" of Fr", "never")))
    assert cut.text == whole.text[: whole.text.index(" of Fr")]
    assert cut.finish_reason == "stop"
    assert cut.token_ids == whole.token_ids[: len(cut.token_ids)]


def test_finish_reasons_tell_the_end_of_the_answer_from_the_limit(engine, prompts):
    whole, cut = (next(iter(engine.generate(prompts[:1], Sampling(max_tokens=n)))) for n in (30, 3))
    assert whole.finish_reason == "stop"
    assert whole.token_ids[-1] == engine.model.generation_config.eos_token_id
    assert (cut.finish_reason, len(cut.token_ids)) == ("length", 3)


def test_bad_prompts_of_a_batch_fail_alone(engine, prompts, tmp_path):
    stranger = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, hidden_size=576, layers=1))
    nan = prompts[0].with_content(prompts[0].content_vectors * torch.nan)
    narrow = PromptEmbeds(torch.zeros(3, 8), torch.ones(3).bool(), prompts[0].space, Recipe.of("made", {}))
    long = PromptEmbeds.concat([prompts[0]] * 250)
    mixed = [prompts[0], nan, prompts[1], narrow, stranger.embed("hello"), long, prompts[2], [], [10**6]]
    completions = list(engine.generate(mixed, GREEDY))
    assert [c.prompt_index for c in completions] == list(range(9))
    assert texts(completions[i] for i in (0, 2, 6)) == texts(engine.generate(prompts[:3], GREEDY))
    words = {
        1: "NaN",
        3: "hidden size 576",
        4: "lives in the space",
        5: "at most 8191",
        7: "no token ids",
        8: "1000000",
    }
    for position, word in words.items():
        assert word in completions[position].error
        assert completions[position].finish_reason == "error"


def test_a_prompt_near_the_end_of_the_context_gets_what_room_is_left(tmp_path):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, layers=1))
    row = engine.space.embed("a")
    long, longer, short = (PromptEmbeds.concat([row] * (512 // len(row) - left)) for left in (3, 1, 200))
    completions = list(engine.generate([long, short, longer], Sampling(max_tokens=8)))
    assert [len(c.token_ids) for c in completions] == [3, 8, 1]
    assert [c.finish_reason for c in completions] == ["length"] * 3


def test_prompts_are_read_as_they_are_needed(engine, prompts):
    read = []

    def endless():
        while True:
            read.append(1)
            yield prompts[0]

    next(engine.generate(endless(), Sampling(max_tokens=1)))
    assert len(read) <= engine.batch_size


def test_a_bfloat16_engine_answers_too(smollm2, prompts):
    engine = TransformersEngine(smollm2, dtype="bfloat16")
    assert "Paris" in next(iter(engine.generate(prompts[:1], GREEDY))).text


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"max_tokens": 0}, "max_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"temperature": float("nan")}, "temperature is nan"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"n": 0}, "n is 0"),
        ({"n": 2}, "temperature 0"),
        ({"seed": -1}, "seed is -1"),
        ({"stop": ("",)}, "stop is"),
        ({"logprobs": 21}, "logprobs is 21"),
    ],
)
def test_sampling_out_of_range_names_the_field(fields, words):
    with pytest.raises(ValueError, match=words):
        Sampling(**fields)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"dtype": "int8"}, "int8"), ({"device": "abacus"}, "abacus"), ({"batch_size": 0}, "batch_size")],
)
def test_engine_options_out_of_range_name_the_value(smollm2, options, words):
    with pytest.raises(ValueError, match=words):
        TransformersEngine(smollm2, **options)


def test_an_empty_continuation_cannot_be_scored(engine, prompts):
    with pytest.raises(ValueError, match="no tokens to score"):
        engine.score(prompts[0], "")


@pytest.mark.parametrize("stop", [(), ("capital", "is "), (".",)])
def test_the_pieces_of_a_stream_are_the_answer_of_generate(engine, prompts, ids, stop):
    sampling = Sampling(max_tokens=12, stop=stop)
    for prompt in (prompts[0], ids[0], prompts[2]):
        (whole,) = engine.generate([prompt], sampling)
        assert "".join(engine.stream(prompt, sampling)) == whole.text
    assert len(list(engine.stream(prompts[0], GREEDY))) > 3


def test_an_abandoned_stream_ends_the_generation(engine, prompts):
    pieces = engine.stream(prompts[0], Sampling(max_tokens=2000))
    next(pieces)
    pieces.close()
    assert not [each for each in threading.enumerate() if each.name == "embedspace-stream"]
    assert "".join(engine.stream(prompts[0], GREEDY))


def test_a_prompt_that_cannot_be_answered_is_an_error_of_its_stream(engine, prompts):
    foreign = dataclasses.replace(prompts[0], space="another")
    with pytest.raises(ValueError, match="another"):
        list(engine.stream(foreign, GREEDY))
    with pytest.raises(ValueError, match="one completion can be streamed"):
        list(engine.stream(prompts[0], Sampling(n=2, temperature=1.0)))


def test_loading_a_model_fills_no_log_with_bars_and_leaves_the_callers_bars_as_they_were(tmp_path, capfd):
    from transformers.utils import logging

    before = logging.is_progress_bar_enabled()
    folder = make_tiny_checkpoint(tmp_path)
    capfd.readouterr()
    TransformersEngine(str(folder))
    assert "Loading weights" not in capfd.readouterr().err
    assert logging.is_progress_bar_enabled() == before
