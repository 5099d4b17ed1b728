"""Rows stand wherever a message's text does."""

import pytest
import torch

from embedspace import EmbeddingCache, EmbeddingSpace, PromptEmbeds, SoftPrompt
from embedspace.runs.replayer import Replayer
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.space.test_conversation import MISTRAL, SYSTEM_LAST

QUESTION = {"role": "user", "content": "Why does bread rise?"}


def system(content):
    return [{"role": "system", "content": content}, QUESTION]


def adapter_rows(space, rows, seed=0):
    """Trained rows as an adapter gives them: none of them is content."""
    vectors = torch.randn(rows, space.hidden_size, generator=torch.Generator().manual_seed(seed))
    prompt = space.embed("x" * rows)
    return PromptEmbeds(vectors, torch.zeros(rows, dtype=torch.bool), space.fingerprint, prompt.recipe)


def same(a, b):
    return torch.equal(a.vectors, b.vectors) and torch.equal(a.content, b.content)


@pytest.mark.parametrize(
    "content",
    [
        lambda space: space.embed("Answer in rhyme."),
        lambda space: [space.embed("Answer in"), " rhyme."],
        lambda space: ["Answer", space.embed(" in"), space.embed(" rhyme"), "."],
        lambda space: ["Answer in rhyme."],
    ],
)
def test_the_rows_of_a_text_give_what_the_text_gives(smollm2, content):
    assert same(smollm2.embed_chat(system(content(smollm2))), smollm2.embed_chat(system("Answer in rhyme.")))


def test_trained_rows_stand_in_the_template_bit_by_bit_and_are_not_content(smollm2):
    soft = adapter_rows(smollm2, 3)
    prompt = smollm2.embed_chat(system(soft))
    text = smollm2.embed_chat(system(""))
    before = len(smollm2.tokenize("<|im_start|>system\n"))
    assert prompt.vectors.dtype == torch.float32
    assert torch.equal(prompt.vectors[before : before + 3], soft.vectors)
    rest = torch.cat([prompt.vectors[:before], prompt.vectors[before + 3 :]])
    assert torch.equal(rest, text.vectors.float())
    assert (
        smollm2.read(PromptEmbeds(rest, text.content, prompt.space, text.recipe)).count("<|im_start|>") == 3
    )
    assert torch.equal(prompt.content_vectors, smollm2.embed("Why does bread rise?").vectors.float())


@pytest.mark.parametrize("template", [MISTRAL, SYSTEM_LAST])
def test_a_template_that_moves_or_wraps_a_message_moves_its_rows(tmp_path, template):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=template))
    soft = adapter_rows(space, 2)
    prompt = space.embed_chat([{"role": "system", "content": soft}, QUESTION])
    places = [row for row in range(len(prompt)) if torch.equal(prompt.vectors[row], soft.vectors[0])]
    assert len(places) == 1
    assert torch.equal(prompt.vectors[places[0] + 1], soft.vectors[1])


def test_a_template_that_repeats_the_rows_is_refused(tmp_path):
    twice = "{% for m in messages %}{{ m['content'] + '|' + m['content'] }}{% endfor %}"
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, chat_template=twice))
    with pytest.raises(ValueError, match="2 of the 1 parts that are rows"):
        space.embed_chat([{"role": "user", "content": adapter_rows(space, 2)}])


def test_text_that_looks_like_a_marker_stays_text(smollm2):
    odd = "\ue0100\ue002 and \ue010\ue001"
    prompt = smollm2.embed_chat(system([odd, adapter_rows(smollm2, 2)]))
    assert len(prompt) == len(smollm2.embed_chat(system(odd))) + 2


def test_many_and_cached_conversations_equal_single_ones(smollm2, tmp_path):
    chats = [system(adapter_rows(smollm2, 3, seed)) for seed in (0, 1)] + [system("Be brief.")]
    singles = [smollm2.embed_chat(chat) for chat in chats]
    with EmbeddingCache(tmp_path / "cache.sqlite") as cache:
        for _ in range(2):
            many = list(smollm2.embed_many([*chats, "plain"], cache=cache))
            assert all(same(a, b) and a.recipe == b.recipe for a, b in zip(many, singles, strict=False))


def test_a_conversation_with_rows_is_replayed(smollm2):
    prompt = smollm2.embed_chat(system(["First: ", smollm2.embed("a"), smollm2.embed("b").to(torch.float32)]))
    again = Replayer(smollm2, {}).prompt(prompt.recipe)
    assert same(again, prompt)
    assert again.recipe == prompt.recipe
    alone = smollm2.embed_chat(system(smollm2.embed("a")))
    assert Replayer(smollm2, {}).prompt(alone.recipe).recipe == alone.recipe


def test_a_soft_prompt_is_replayed_from_its_folder_only(smollm2):
    soft = SoftPrompt(adapter_rows(smollm2, 3).vectors, smollm2.fingerprint)
    prompt = smollm2.embed_chat(soft.conversation("Why?"))
    assert same(Replayer(smollm2, {}, {soft.digest: soft}).prompt(prompt.recipe), prompt)
    with pytest.raises(ValueError, match="--vector FOLDER"):
        Replayer(smollm2, {}).prompt(prompt.recipe)


def test_rows_of_another_space_or_with_a_template_are_refused(smollm2, tmp_path):
    tiny = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1))
    with pytest.raises(ValueError, match=tiny.fingerprint):
        smollm2.embed_chat(system(tiny.embed("a")))
    with pytest.raises(
        ValueError, match=r"messages\[0\]\['content'\]: .*template rows among its .*space\.embed"
    ):
        smollm2.embed_chat(system(smollm2.embed_chat([QUESTION])))
    with pytest.raises(TypeError, match=r"messages\[0\]\['content'\]: .*SoftPrompt"):
        smollm2.embed_chat(system(torch.zeros(2, 576)))
    with pytest.raises(TypeError, match="must be a string"):
        smollm2.chat_ids(system(smollm2.embed("a")))
