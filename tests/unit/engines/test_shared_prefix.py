"""What prompts have in common is computed once, and nobody can tell from the answers."""

import dataclasses
import json

import pytest
import torch

from embedspace import EmbeddingSpace
from embedspace.engines import Sampling, TransformersEngine
from embedspace.engines.transformers.shared_prefix import MIN_SHARED_ROWS
from embedspace.space.shared_prefix import PrefixedPrompts
from tests.checkpoints import FAMILIES, make_tiny_checkpoint

GREEDY = Sampling(max_tokens=6)
ROWS = 3 * MIN_SHARED_ROWS


def prompt(*seeds_and_rows):
    """Random tokens: stretches of (seed, rows) one after another."""
    stretches = []
    for seed, rows in seeds_and_rows:
        generator = torch.Generator().manual_seed(seed)
        stretches += torch.randint(10, 400, (rows,), generator=generator).tolist()
    return stretches


def rows(space, ids):
    one = space.embed("a")
    return dataclasses.replace(one, vectors=space.lookup(ids), content=torch.ones(len(ids)).bool())


def alone(engine, ids, max_tokens=GREEDY.max_tokens):
    """The greedy answer of transformers' own loop to one prompt, with nothing kept from anywhere."""
    tokens = torch.tensor([ids])
    out = engine.model.generate(
        input_ids=tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=max_tokens,
        do_sample=False,
        pad_token_id=engine.model.config.pad_token_id,
    )
    return tuple(out[0, len(ids) :].tolist())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return TransformersEngine(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny")), batch_size=4)


@pytest.fixture
def computed(tiny):
    """Rows that went through the model, pass by pass."""
    passes = []

    def note(module, args, kwargs):
        given = kwargs.get("inputs_embeds") if kwargs.get("input_ids") is None else kwargs["input_ids"]
        passes.append(given.shape[0] * given.shape[1])

    handle = tiny.model.register_forward_pre_hook(note, with_kwargs=True)
    yield passes
    handle.remove()


@pytest.mark.parametrize("kind", ["rows", "ids"])
@pytest.mark.parametrize("family", FAMILIES)
def test_answers_are_those_of_each_prompt_alone(tmp_path, family, kind):
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path, family), batch_size=3)
    ids = [prompt((0, ROWS), (1 + i, rest)) for i, rest in enumerate([1, 9, 4, 30, 2, 2, 17])]
    asked = [rows(engine.space, tokens) for tokens in ids] if kind == "rows" else ids
    for _ in range(2):  # cold and warm
        answers = [completion.token_ids for completion in engine.generate(asked, GREEDY)]
        assert answers == [alone(engine, tokens) for tokens in ids]
    one_by_one = [next(iter(engine.generate([one], GREEDY))).token_ids for one in asked]
    assert one_by_one == answers


@pytest.mark.parametrize("family", ["mistral", "gemma2", "gemma3"])
def test_a_sliding_window_narrower_than_the_prompt_is_respected(tmp_path, family):
    folder = make_tiny_checkpoint(tmp_path, family)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "sliding_window": ROWS // 2}))
    engine = TransformersEngine(folder)
    assert engine.model.config.sliding_window == ROWS // 2
    ids = [prompt((0, ROWS), (1 + i, rest)) for i, rest in enumerate([1, 30, 4])]
    answers = [completion.token_ids for completion in engine.generate(ids, GREEDY)]
    assert answers == [alone(engine, tokens) for tokens in ids]


def test_a_prefix_goes_through_the_model_once_over_batches_and_calls(tiny, computed):
    rests = [3, 5, 4, 2, 6, 1]
    asked = [rows(tiny.space, prompt((10, ROWS), (20 + i, rest))) for i, rest in enumerate(rests)]
    once = Sampling(max_tokens=1)
    list(tiny.generate(asked, once))
    assert computed == [ROWS, 4 * 5, 2 * 6]
    computed.clear()
    list(tiny.generate(asked[:2], once))
    list(tiny.generate(asked[2:3], once))
    assert computed == [2 * 5, 4]


def test_completions_of_one_prompt_share_all_but_its_last_row(tiny, computed):
    asked = rows(tiny.space, prompt((11, ROWS)))
    list(tiny.generate([asked], Sampling(max_tokens=1, temperature=1.0, n=4)))
    assert computed == [ROWS - 1, 4]


def test_prompts_asked_one_by_one_share_from_the_first_on(tiny, computed):
    once = Sampling(max_tokens=1)
    for i in range(4):
        list(tiny.generate([rows(tiny.space, prompt((12, ROWS), (30 + i, 5)))], once))
    assert computed == [ROWS + 5, 5, 5, 5]


def test_one_prefix_is_kept_and_no_more(tiny, computed):
    def ask(seed):
        computed.clear()
        batch = [rows(tiny.space, prompt((seed, ROWS), (40 + i, 3))) for i in range(2)]
        list(tiny.generate(batch, Sampling(max_tokens=1)))
        return computed[0]

    assert [ask(13), ask(13), ask(14), ask(13)] == [ROWS, 6, ROWS, ROWS]


def test_a_few_common_rows_are_not_worth_a_pass_of_their_own(tiny, computed):
    few = [rows(tiny.space, prompt((15, MIN_SHARED_ROWS - 1), (50 + i, 5 - i))) for i in range(2)]
    list(tiny.generate(few, Sampling(max_tokens=1)))
    assert computed == [2 * (MIN_SHARED_ROWS - 1 + 5)]


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampled_answers_do_not_depend_on_what_is_kept(tiny, temperature):
    sampling = Sampling(max_tokens=8, temperature=temperature, seed=3)
    asked = [rows(tiny.space, prompt((16, ROWS), (60 + i, 3 * i + 1))) for i in range(4)]
    asked = [dataclasses.replace(one, recipe=tiny.space.embed(str(i)).recipe) for i, one in enumerate(asked)]
    fresh = TransformersEngine(tiny.space, batch_size=1)
    together = [completion.text for completion in tiny.generate(asked, sampling)]
    assert [c.text for c in tiny.generate(asked[::-1], sampling)] == together[::-1]
    for one, text in zip(asked, together, strict=True):
        fresh._prefix._rows = None
        assert next(iter(fresh.generate([one], sampling))).text == text


def test_scores_after_a_kept_prefix_are_those_of_a_plain_pass(tiny, computed):
    target = [11, 12, 13]
    for i, passes in enumerate(([ROWS + 4, 2], [4, 2], [4, 2])):
        ids = prompt((17, ROWS), (70 + i, 4))
        computed.clear()
        scores = tiny.score(rows(tiny.space, ids), target)
        assert computed == passes
        with torch.no_grad():
            logits = tiny.model(input_ids=torch.tensor([ids + target])).logits[0].double().log_softmax(-1)
        expected = logits[len(ids) - 1 : -1].gather(1, torch.tensor(target)[:, None])[:, 0]
        assert torch.allclose(scores.double(), expected, atol=1e-3)


def test_the_packaged_models_greedy_answers_are_those_to_token_ids_alone(smollm2):
    engine = TransformersEngine(smollm2, batch_size=3)
    prompts = PrefixedPrompts(
        smollm2, system="You answer questions about the world in one short sentence. " * 6
    )
    questions = [
        "What is the capital of France?",
        "Why is the sky blue?",
        "2+2?",
        "Écris un mot en français.",
    ]
    asked = list(prompts.many(questions))
    assert len(prompts.prefix) > MIN_SHARED_ROWS
    answers = [completion.token_ids for completion in engine.generate(asked, Sampling(max_tokens=12))]
    for question, answer in zip(questions, answers, strict=True):
        expected = alone(engine, smollm2.chat_ids(prompts.conversation(question)), 12)
        assert answer == expected


def test_a_closed_engine_keeps_nothing(tmp_path):
    engine = TransformersEngine(EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path)))
    ids = [prompt((0, ROWS), (i, 2)) for i in (1, 2)]
    list(engine.generate(ids, GREEDY))
    engine.close()
    assert engine._prefix._cache is None
