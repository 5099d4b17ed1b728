"""Prompts with a shared beginning are the whole conversation's, whatever stands at the seam."""

import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import EmbeddingSpace
from embedspace.space.shared_prefix import PrefixedPrompts
from embedspace.space.tokenizer import Tokenizer
from tests.checkpoints import END, END_HEADER, END_OF_TURN, START_HEADER, make_tiny_checkpoint
from tests.unit.space.test_conversation import CHATML, HARD_TEXTS, TEMPLATES

SYSTEM = "Answer in one word. Réponds en un mot.\n"
FEW_SHOT = [("The capital of France?", "Paris"), ("  Two and two? ", "4\n"), (f"{END_OF_TURN}x", END)]
USER_TEXTS = st.lists(
    st.one_of(
        st.sampled_from([*HARD_TEXTS, START_HEADER, END_HEADER, END_OF_TURN, "<|", "\n", " ", "\u0301", ""]),
        st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
    ),
    max_size=4,
).map("".join)

PIPELINES = {
    "plain": lambda fields: None,
    "prefix space": lambda fields: fields["pre_tokenizer"].update(add_prefix_space=True),
    "metaspace": lambda fields: fields.update(
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": True}
    ),
    "greedy to the right": lambda fields: _flag(fields, rstrip=True),
    "greedy to the left": lambda fields: _flag(fields, lstrip=True),
    "whole words": lambda fields: _flag(fields, single_word=True),
    "normalised": lambda fields: (
        _flag(fields, normalized=True),
        fields.update(normalizer={"type": "NFC"}),
    ),
    "longer tokens": lambda fields: fields["added_tokens"].extend(
        {**fields["added_tokens"][-1], "id": 480 + number, "content": content}
        for number, content in enumerate([f"{END_HEADER}\n\nuser", f"{END_HEADER}\n\n[INST] a", "user\na"])
    ),
}
"""Ways in which a tokenizer may look over the seam."""


def _flag(fields, **flags):
    for token in fields["added_tokens"]:
        token.update(flags)


@pytest.fixture(scope="module")
def spaces(tmp_path_factory):
    made = {}
    for template, source in TEMPLATES.items():
        for pipeline, change in PIPELINES.items():
            folder = tmp_path_factory.mktemp("checkpoint")
            make_tiny_checkpoint(folder, layers=1, hidden_size=8, padded_rows=16, chat_template=source)
            path = folder / "tokenizer.json"
            fields = json.loads(path.read_text())
            change(fields)
            path.write_text(json.dumps(fields))
            made[template, pipeline] = EmbeddingSpace.from_pretrained(folder)
    return made


def same(prompt, whole):
    return (
        torch.equal(prompt.vectors, whole.vectors)
        and torch.equal(prompt.content, whole.content)
        and (prompt.space, prompt.recipe) == (whole.space, whole.recipe)
    )


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("template", TEMPLATES)
@pytest.mark.parametrize("beginning", [(None, ()), (SYSTEM, ()), (None, FEW_SHOT), (SYSTEM, FEW_SHOT)])
@given(texts=st.lists(USER_TEXTS, min_size=1, max_size=3))
def test_every_prompt_is_that_of_the_whole_conversation(spaces, template, pipeline, beginning, texts):
    space = spaces[template, pipeline]
    system, few_shot = beginning
    prompts = PrefixedPrompts(space, system=system, few_shot=few_shot)
    for text, prompt in zip(texts, prompts.many(texts, batch_size=2), strict=True):
        assert same(prompt, space.embed_chat(prompts.conversation(text)))


@given(text=USER_TEXTS)
def test_the_packaged_models_prompts_are_those_of_the_whole_conversation(smollm2, text):
    for system in (None, SYSTEM):
        prompts = PrefixedPrompts(smollm2, system=system, few_shot=FEW_SHOT[:1])
        assert same(prompts(text), smollm2.embed_chat(prompts.conversation(text)))


@pytest.mark.parametrize("text", HARD_TEXTS)
def test_the_prefix_is_what_the_prompts_begin_with(smollm2, text):
    prompts = PrefixedPrompts(smollm2, system=SYSTEM)
    shared = len(prompts.prefix) - 1  # the template's last token may merge with the text
    prompt = prompts.prompt(text)
    assert torch.equal(prompt.vectors[:shared], prompts.prefix.vectors[:shared])
    assert torch.equal(prompt.content[:shared], prompts.prefix.content[:shared])


def test_the_default_system_message_is_there_once(smollm2):
    read = smollm2.read(PrefixedPrompts(smollm2).prompt("hello"))
    assert read.count("You are a helpful AI assistant") == 1
    assert read.count("<|im_start|>system") == 1


def test_only_what_follows_the_last_special_token_is_tokenised_again(spaces, monkeypatch):
    prompts = PrefixedPrompts(spaces["chatml", "plain"], system=SYSTEM * 50, few_shot=FEW_SHOT[:2])
    seen = []
    encode = Tokenizer.encode_batch
    monkeypatch.setattr(
        Tokenizer, "encode_batch", lambda self, texts: seen.extend(texts) or encode(self, texts)
    )
    list(prompts.many(["hello", "you"]))
    # This template's own words are no special tokens of this tokenizer: no seam in it is safe.
    assert min(map(len, seen)) > 50 * len(SYSTEM)
    prompts = PrefixedPrompts(spaces["llama3", "plain"], system=SYSTEM * 50, few_shot=FEW_SHOT[:2])
    seen.clear()
    list(prompts.many(["hello", "you"]))
    assert [text.startswith(END_HEADER) for text in seen] == [True, True]
    assert max(map(len, seen)) < 100


def test_texts_are_read_as_they_are_needed(smollm2):
    read = []

    def endless():
        while True:
            read.append(1)
            yield "hello"

    next(PrefixedPrompts(smollm2).many(endless(), batch_size=3))
    assert len(read) == 3


def test_a_template_that_asks_about_the_users_text_is_followed(tmp_path):
    asking = CHATML.replace(
        "{% for message in messages %}",
        "{% if 'secret' in messages[-1]['content'] %}{{ '[careful] ' }}{% endif %}{% for message in messages %}",
        1,
    )
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=asking))
    prompts = PrefixedPrompts(space, system=SYSTEM)
    for text in ("a word", ""):
        assert same(prompts(text), space.embed_chat(prompts.conversation(text)))
    with pytest.raises(ValueError, match="rewrites the messages' text"):
        prompts("a secret")


@pytest.mark.parametrize(
    ("build", "error", "words"),
    [
        (lambda s: PrefixedPrompts(s, few_shot=["ab"]), ValueError, r"few_shot\[0\] must be a pair"),
        (lambda s: PrefixedPrompts(s, few_shot=[("a", "b", "c")]), ValueError, r"few_shot\[0\]"),
        (lambda s: PrefixedPrompts(s, few_shot=[("a", 1)]), TypeError, r"messages\[1\]\['content'\]"),
        (lambda s: PrefixedPrompts(s, system=1), TypeError, r"messages\[0\]\['content'\]"),
        (lambda s: PrefixedPrompts(s)(1), TypeError, "text 0: a user turn must be a string"),
        (lambda s: list(PrefixedPrompts(s).many(["a", "\ud800"])), ValueError, "surrogate"),
    ],
)
def test_wrong_use_is_named(smollm2, build, error, words):
    with pytest.raises(error, match=words):
        build(smollm2)


def test_a_model_without_a_template_is_refused_at_once(tmp_path):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=None))
    with pytest.raises(ValueError, match="no chat template"):
        PrefixedPrompts(space, system="x")


def test_a_template_that_begins_with_the_users_text_shares_nothing(tmp_path):
    bare = "{% for m in messages %}{{ m['content'] + eos_token }}{% endfor %}"
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=bare))
    prompts = PrefixedPrompts(space)
    assert same(prompts("hello"), space.embed_chat(prompts.conversation("hello")))
    with pytest.raises(ValueError, match="rows is 0"):
        print(prompts.prefix)
