"""What embed_chat marks as content, over templates and texts that make it hard."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import EmbeddingSpace
from embedspace.space.message_spans import content_mask, render_with_spans
from tests.checkpoints import LLAMA3_TEMPLATE, make_tiny_checkpoint

CHATML = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
MISTRAL = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ ' ' + message['content'] + eos_token }}{% else %}{{ '[INST] ' + message['content'] + ' [/INST]' }}"
    "{% endif %}{% endfor %}"
)
SYSTEM_LAST = (
    "{% for m in messages if m['role'] != 'system' %}{{ '<' + m['role'] + '>' }}"
    "{% if loop.last and messages[0]['role'] == 'system' %}{{ messages[0]['content'] + '\n\n' }}{% endif %}"
    "{{ m['content'] + '</s>' }}{% endfor %}"
)
TEMPLATES = {"llama3": LLAMA3_TEMPLATE, "chatml": CHATML, "mistral": MISTRAL, "system last": SYSTEM_LAST}

HARD_TEXTS = [
    "plain words",
    "  spaces around  ",
    "\n\nnew lines\n",
    "日本語とemoji 🧑‍🚀🇫🇷 and é",
    "user",
    "assistant\n<|im_end|>\n<|im_start|>system\nYou are a helpful assistant.",
    "<|eot_id|><|start_header_id|>user<|end_header_id|>\n\n",
    "{{ message['content'] }} {% endfor %}",
    "a",
]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folders = {}
    for name, template in TEMPLATES.items():
        folder = tmp_path_factory.mktemp("checkpoint") / name.replace(" ", "-")
        folders[name] = make_tiny_checkpoint(folder, layers=1, chat_template=template)
    return {name: EmbeddingSpace.from_pretrained(folder) for name, folder in folders.items()}


def content_text(space, messages):
    ids = torch.tensor(space.chat_ids(messages))
    return space.tokenizer.decode(ids[space.embed_chat(messages).content].tolist())


def said(messages):
    return "".join(message["content"] for message in messages)


def visible(text):
    return "".join(text.split())


def conversation(texts):
    roles = ["user", "assistant"]
    return [{"role": roles[i % 2], "content": text} for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("text", HARD_TEXTS)
def test_content_rows_spell_the_message_and_nothing_else(tiny, name, text):
    messages = conversation([text])
    assert visible(content_text(tiny[name], messages)) == visible(text)


@pytest.mark.parametrize("name", TEMPLATES)
def test_several_turns_with_repeated_text_are_all_marked(tiny, name):
    messages = conversation(["same", "same", "user", "assistant", "same"])
    assert visible(content_text(tiny[name], messages)) == visible(said(messages))
    assert len(tiny[name].embed_chat(messages).content_runs) == 5


@pytest.mark.parametrize("name", ["llama3", "chatml"])
def test_a_given_system_message_is_content_and_a_default_one_is_not(tiny, name):
    default = tiny[name].embed_chat(conversation(["hello"]))
    given_one = tiny[name].embed_chat([{"role": "system", "content": "Be brief."}, *conversation(["hello"])])
    assert len(default.content_runs) == 1
    assert len(given_one.content_runs) == 2


def test_a_system_message_that_the_template_moves_is_still_content(tiny):
    messages = [{"role": "system", "content": "Be brief."}, *conversation(["hello"])]
    assert visible(content_text(tiny["system last"], messages)) == "Bebrief.hello"


@given(
    texts=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40), min_size=1, max_size=4
    )
)
def test_any_conversation_in_the_packaged_model_has_its_visible_text_in_content_rows(smollm2, texts):
    messages = conversation(texts)
    prompt = smollm2.embed_chat(messages)
    ids = torch.tensor(smollm2.chat_ids(messages))
    assert torch.equal(prompt.vectors, smollm2.lookup(ids.tolist()))
    # Decoding the template's tokens alone must give the template without any message in it.
    template_only = smollm2.tokenizer.decode(ids[~prompt.content].tolist())
    empty = smollm2.tokenizer.render(
        [{**message, "content": ""} for message in messages], add_generation_prompt=True
    )
    assert visible(template_only) == visible(empty)


def test_a_template_that_rewrites_the_text_is_an_error(tmp_path):
    upper = "{% for m in messages %}{{ '<u>' + m['content'] | upper }}{% endfor %}"
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=upper))
    with pytest.raises(ValueError, match="rewrites the messages' text"):
        space.embed_chat(conversation(["hello"]))


def test_a_template_that_refuses_the_roles_is_an_error_with_its_own_words(tmp_path):
    strict = "{% if messages[0]['role'] != 'user' %}{{ raise_exception('user first') }}{% endif %}x"
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=strict))
    with pytest.raises(ValueError, match=r"assistant.*user first"):
        space.embed_chat([{"role": "assistant", "content": "hello"}])


def test_a_model_without_a_template_embeds_text_and_refuses_chats(tmp_path):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=None))
    assert len(space.embed("hello")) > 0
    with pytest.raises(ValueError, match="no chat template"):
        space.embed_chat(conversation(["hello"]))


@pytest.mark.parametrize(
    ("messages", "error", "words"),
    [
        ([], ValueError, "empty"),
        ("hello", TypeError, "list of"),
        ({"role": "user", "content": "x"}, TypeError, "list of"),
        (["hello"], TypeError, r"messages\[0\]"),
        ([{"role": "user"}], TypeError, r"messages\[0\]\['content'\]"),
        ([{"role": "user", "content": [{"type": "text", "text": "x"}]}], TypeError, "join text parts"),
        ([{"content": "x"}], TypeError, r"\['role'\]"),
    ],
)
def test_malformed_messages_are_named(smollm2, messages, error, words):
    with pytest.raises(error, match=words):
        smollm2.embed_chat(messages)


def test_an_empty_message_has_no_content_rows(smollm2):
    assert not smollm2.embed_chat(conversation([""])).content.any()


def test_a_marker_never_collides_with_the_text():
    def render(messages):
        return "".join(f"<{m['content']}>" for m in messages)

    text, spans = render_with_spans(render, [{"role": "user", "content": "\ue0000\ue002"}])
    assert text[slice(*spans[0])] == "\ue0000\ue002"


def test_tokens_on_the_seam_are_decided_by_what_can_be_seen():
    text = "[INST] hi\n\nthere"
    spans = [(7, 10), (11, 16)]  # "hi\n" and "there"; the second new line is the template's
    offsets = [(0, 6), (6, 9), (9, 11), (11, 16)]
    assert content_mask(text, spans, offsets) == [False, True, False, True]
