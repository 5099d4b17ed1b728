"""What is compressed of a prompt (only=) and what survives in it (keep=)."""

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from embedspace import PromptEmbeds, Recipe, compress
from embedspace.compression.passages import ContentText, keep_mask, part_mask
from embedspace.prompt import mask_from_text
from embedspace.space import RowText, token_ids

DOCUMENT = (
    "The museum in Lyon, founded in 1879, opens at nine. A ticket costs 14 euros, not 12. The director is Paula Adams. "
    "Model X-200/B is shown on the second floor, and dogs must never come in."
)
SYSTEM, ANSWER, QUESTION = "Answer briefly, please.", "It opens at nine.", "And how much is a ticket today?"


@pytest.fixture(scope="module")
def chat(smollm2):
    roles = ("system", "user", "assistant", "user")
    texts = (SYSTEM, DOCUMENT, ANSWER, QUESTION)
    return smollm2.embed_chat([{"role": r, "content": t} for r, t in zip(roles, texts, strict=True)])


@pytest.fixture(scope="module")
def plain(smollm2):
    return smollm2.embed(DOCUMENT)


def read(space, vectors):
    return space.tokenizer.decode(token_ids(space, vectors).tolist())


def message(space, prompt, number):
    return read(space, prompt.vectors[prompt.content_runs[number]])


def rows_of(space, prompt, mask):
    return read(space, prompt.vectors[mask])


def untouched(old, new, scope):
    """Whether the rows outside of ``scope`` stand in the new prompt bit by bit, with their marks."""
    groups = [
        (own, list(rows)) for own, rows in itertools.groupby(range(len(old)), lambda row: bool(scope[row]))
    ]
    place = 0
    for number, (own, rows) in enumerate(groups):
        if own:
            continue
        tail = len(new) - len(rows) if number == len(groups) - 1 else None
        starts = [tail] if tail is not None else range(place, len(new) - len(rows) + 1)
        found = next(
            (
                start
                for start in starts
                if torch.equal(new.vectors[start : start + len(rows)], old.vectors[rows])
                and torch.equal(new.content[start : start + len(rows)], old.content[rows])
            ),
            None,
        )
        if found is None or found < place:
            return False
        place = found + len(rows)
    return True


@pytest.mark.parametrize("only", [1, -3, [1], [-3, 1]])
def test_a_message_is_compressed_by_its_number_and_the_others_stay(smollm2, chat, only):
    short = compress(chat, 3, only=only, space=smollm2)
    texts = [message(smollm2, short, number) for number in range(4)]
    assert [texts[0], *texts[2:]] == [SYSTEM, ANSWER, QUESTION]
    own = chat.content_runs[1]
    rows = own.stop - own.start
    assert 1 <= len(short) - (len(chat) - rows) <= -(-rows // 3)
    scope = torch.zeros(len(chat), dtype=torch.bool)
    scope[own] = True
    assert untouched(chat, short, scope)
    assert torch.equal(mask_from_text(dict(short.recipe.parameters)["only"]), scope)


def test_ratio_and_length_count_the_selected_rows_alone(smollm2, chat):
    outside = len(chat) - (chat.content_runs[1].stop - chat.content_runs[1].start)
    for length in (10, 20, 30):
        assert length - 4 <= len(compress(chat, length=length, only=1, space=smollm2)) - outside <= length


@pytest.mark.parametrize("only", [slice(None), [0, 1, 2, 3], [slice(0, 50), slice(50, None)]])
def test_all_content_is_the_same_as_no_selection(smollm2, chat, only):
    whole, asked = compress(chat, 3, space=smollm2), compress(chat, 3, only=only, space=smollm2)
    assert torch.equal(whole.vectors, asked.vectors)
    assert whole.recipe == asked.recipe


def test_a_text_is_compressed_wherever_it_stands(smollm2):
    sentence = "Dogs and cats must always wait outside of the house."
    made = smollm2.embed(f"One: {sentence} Two: {sentence} Three: the end of this.")
    short = compress(made, 3, only=sentence, space=smollm2)
    text = read(smollm2, short.vectors)
    assert text.startswith("One:")
    assert " Two: " in text
    assert text.endswith("Three: the end of this.")
    assert sentence not in text


@pytest.mark.parametrize("method", ["salience", "average", "merge", "truncate", "drop"])
@pytest.mark.parametrize("form", ["text", "slice", "mask"])
def test_every_method_leaves_the_rows_outside_bit_identical_and_content(smollm2, chat, method, form):
    sentence = "A ticket costs 14 euros, not 12."
    mask = part_mask(ContentText(chat, smollm2), sentence)
    first, last = mask.nonzero()[0].item(), mask.nonzero()[-1].item()
    only = {"text": sentence, "slice": slice(first, last + 1), "mask": mask}[form]
    short = compress(chat, 2, only=only, method=method, space=smollm2)
    assert len(short) < len(chat)
    assert untouched(chat, short, mask)
    assert int(short.content.sum()) == int(chat.content.sum()) - (len(chat) - len(short))
    assert len(short.content_runs) == 4


@given(st.data())
def test_any_mask_leaves_all_other_rows_as_they_are_in_order(smollm2, data):
    made = smollm2.embed(DOCUMENT)
    start = data.draw(st.integers(0, len(made) - 15))
    stop = data.draw(st.integers(start + 12, len(made)))
    mask = torch.zeros(len(made), dtype=torch.bool)
    mask[start:stop] = True
    short = compress(made, data.draw(st.sampled_from([1.5, 3, 20])), only=mask, space=smollm2)
    assert len(short) < len(made)
    assert torch.equal(short.vectors[:start], made.vectors[:start])
    after = len(made) - stop
    assert torch.equal(short.vectors[len(short) - after :], made.vectors[stop:])
    assert bool(short.content.all())


@given(st.data())
def test_words_that_a_selection_cuts_stay_whole(smollm2, data):
    words = [
        "Donaudampfschifffahrt",
        "Vormittagsgottesdienst",
        "and",
        "Eintrittskarten",
        "Sunday",
        "Wirtschaftsprüfung",
    ]
    text = " ".join(data.draw(st.lists(st.sampled_from(words), min_size=4, max_size=8)))
    made = smollm2.embed(text)
    start = data.draw(st.integers(0, len(made) - 2))
    stop = data.draw(st.integers(start + 1, len(made)))
    mask = torch.zeros(len(made), dtype=torch.bool)
    mask[start:stop] = True
    if not bool(ContentText(made, smollm2).whole_units(mask).any()):
        with pytest.raises(ValueError, match="selects no whole word"):
            compress(made, 3, only=slice(start, stop), space=smollm2)
        return
    left = read(smollm2, compress(made, 3, only=slice(start, stop), space=smollm2).vectors)
    assert set(left.split()) <= set(text.split())
    # Where the slice cuts a word, the word stands where it stood.
    assert left.startswith(read(smollm2, made.vectors[:start]))


def test_rows_that_hold_more_than_the_selected_text_are_left_out(smollm2):
    made = smollm2.embed("unbelievable stories. The end of it all is near, they say")
    mask = part_mask(ContentText(made, smollm2), "stories. The end")
    assert rows_of(smollm2, made, mask).strip() in ("stories. The end", ". The end")


def test_texts_are_found_in_any_script_and_across_characters_of_several_rows(smollm2):
    made = smollm2.embed("一鬱鬱二 भारत की राजधानी 🎉🎉 ende")
    content = ContentText(made, smollm2)
    for text in ("鬱", "鬱鬱", " भारत की", " 🎉🎉", " ende"):
        mask = part_mask(content, text)
        assert set(rows_of(smollm2, made, mask)) == set(text)
        assert bool((content.find(text) >= mask).all())


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (4, "only=4: the prompt has 4 messages with text, numbered from 0 to 3"),
        (-5, "only=-5: the prompt has 4 messages"),
        ("A ticket costs 15", "'A ticket costs 15' does not stand in the prompt's content"),
        ("", "does not stand in the prompt's content"),
        ("x" * 90, r"'x{57}\.\.\.' does not stand"),
        ("assistant", "does not stand in the prompt's content"),
        ([], "selects no content row"),
        (slice(0, 2), "selects no content row"),
        (slice(900, 999), "selects no content row"),
        ([1, 9], "only=9"),
        (torch.zeros(7, dtype=torch.bool), r"only must be a boolean mask .* got torch.bool of shape \[7\]"),
        (torch.ones(3), "only must be a boolean mask"),
    ],
)
def test_selections_that_select_nothing_are_errors_that_say_what_there_is(smollm2, chat, only, message):
    with pytest.raises(ValueError, match=message):
        compress(chat, 2, only=only, space=smollm2)


def test_a_selection_without_a_whole_word_is_an_error_that_shows_it(smollm2):
    made = smollm2.embed("Donaudampfschifffahrtsgesellschaft and more")
    with pytest.raises(ValueError, match="selects no whole word of the prompt"):
        compress(made, 2, only=slice(1, 4), space=smollm2)


def test_a_mask_of_template_rows_alone_selects_nothing(smollm2, chat):
    with pytest.raises(ValueError, match="selects no content row"):
        compress(chat, 2, only=~chat.content, space=smollm2)


@pytest.mark.parametrize("only", [True, [None], [b"museum"], [[1]], [torch.ones(3, dtype=torch.bool)]])
def test_selections_of_another_type_are_refused(smollm2, chat, only):
    with pytest.raises(TypeError, match=r"allowed are the number of a message, a text .*, a slice of rows"):
        compress(chat, 2, only=only, space=smollm2)


def test_a_part_cannot_be_pooled_by_the_floor_kernel(smollm2, chat):
    with pytest.raises(ValueError, match=r"only= needs another method"):
        compress(chat, 2, only=1, method="floor_average", space=smollm2)


def test_a_text_needs_the_vocabulary_and_a_number_does_not(chat):
    foreign = PromptEmbeds(chat.vectors, chat.content, "elsewhere", Recipe("made"))
    assert len(compress(foreign, 2, only=1, method="drop")) < len(chat)
    with pytest.raises(ValueError, match="space="):
        compress(foreign, 2, only="museum", method="drop")


@pytest.mark.parametrize("ratio", [2, 4, 6])
@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ("X-200/B", ["X-200/B"]),
        ("never", ["never"]),
        (["not", "never", "Paula Adams"], ["not", "never", "Paula Adams"]),
        (re.compile(r"\b(?:not|never)\b"), ["not", "never"]),
        (re.compile(r"[A-Z]-\d+\S*"), ["X-200/B"]),
        ([re.compile("1[0-9]{3}"), "dogs"], ["1879", "dogs"]),
        (re.compile("no such thing at all"), []),
    ],
)
def test_what_is_to_be_kept_survives_any_ratio_whole(smollm2, chat, keep, kept, ratio):
    short = compress(chat, ratio, only=1, keep=keep, space=smollm2)
    text = message(smollm2, short, 1)
    assert all(wanted in text for wanted in kept), text
    own = chat.content_runs[1]
    assert short.content_runs[1].stop - short.content_runs[1].start <= -(-(own.stop - own.start) // ratio)


def test_a_mask_keeps_its_rows_and_the_words_they_are_of(smollm2, plain):
    rows = ContentText(plain, smollm2).find("200")
    mask = torch.zeros_like(rows)
    mask[rows.nonzero()[1]] = True
    assert "X-200" in read(smollm2, compress(plain, 6, keep=mask, space=smollm2).vectors)


def test_a_word_that_is_touched_in_part_is_kept_whole(smollm2, plain):
    assert " director" in read(smollm2, compress(plain, 8, keep="irec", space=smollm2).vectors)


def test_every_place_of_a_kept_text_survives(smollm2):
    made = smollm2.embed(
        "It is not new. It is not old. It is not blue. It is not round, and it is of the best wood."
    )
    text = read(smollm2, compress(made, 3, keep="not", space=smollm2).vectors)
    assert text.split().count("not") == 4


def test_what_is_kept_stands_in_the_recipe_and_changes_nothing_where_it_is_all_kept(smollm2, plain):
    short = compress(plain, 3, keep="never", space=smollm2)
    mask = mask_from_text(dict(short.recipe.parameters)["keep"])
    assert rows_of(smollm2, plain, mask) == " never"
    assert compress(plain, 1, keep="never", space=smollm2) is plain


def test_rows_outside_of_the_selection_are_kept_anyway_and_cost_nothing(smollm2, chat):
    alone = compress(chat, 3, only=1, space=smollm2)
    asked = compress(chat, 3, only=1, keep=QUESTION, space=smollm2)
    assert torch.equal(alone.vectors, asked.vectors)


def test_keep_also_holds_where_a_question_is_known(smollm2, plain):
    text = read(smollm2, compress(plain, 4, query="Who is the director?", keep="dogs", space=smollm2).vectors)
    assert "Paula Adams" in text
    assert "dogs" in text


def test_more_than_fits_is_an_error_that_says_how_many_rows_it_takes(smollm2, plain):
    with pytest.raises(ValueError, match=r"keep marks words that take (\d+) rows") as caught:
        compress(plain, 4, keep=re.compile("[a-z]+"), space=smollm2)
    needed = int(re.search(r"take (\d+) rows", str(caught.value))[1])
    assert needed > len(plain) / 4
    compress(plain, length=needed, keep=re.compile("[a-z]+"), space=smollm2)
    with pytest.raises(ValueError, match=f"take {needed} rows"):
        compress(plain, length=needed - 1, keep=re.compile("[a-z]+"), space=smollm2)


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ("Marseille", "keep: the text 'Marseille' does not stand in the prompt's content"),
        (["Lyon", "Marseille"], "'Marseille' does not stand"),
        ("", "keep holds an empty text"),
        ("assistant", "does not stand in the prompt's content"),
        (torch.ones(3, dtype=torch.bool), r"keep must be a boolean mask .* got torch.bool of shape \[3\]"),
        (torch.ones(3), "keep must be a boolean mask"),
    ],
)
def test_what_cannot_be_kept_is_an_error(smollm2, chat, keep, message):
    with pytest.raises(ValueError, match=message):
        compress(chat, 2, keep=keep, space=smollm2)


@pytest.mark.parametrize(
    "keep", [[3], [None], [b"Lyon"], [torch.ones(3, dtype=torch.bool)], re.compile(rb"Lyon")]
)
def test_what_is_kept_is_a_text_a_pattern_or_a_mask(smollm2, chat, keep):
    with pytest.raises(
        TypeError, match="allowed are strings, compiled regular expressions of text, or one boolean mask"
    ):
        compress(chat, 2, keep=keep, space=smollm2)


def test_masks_of_keep_are_those_of_the_texts_that_hold_them(smollm2, chat):
    content = ContentText(chat, smollm2)
    mask = keep_mask(content, ["Lyon", re.compile("Answer")])
    assert rows_of(smollm2, chat, mask) == "Answer Lyon"
    pieces = RowText.of(smollm2, token_ids(smollm2, chat.vectors[mask]).tolist())
    assert len(pieces.starts) == int(mask.sum()) + 1


@pytest.mark.parametrize(("name", "value"), [("only", 1.5), ("keep", 5)])
def test_a_value_that_is_no_list_at_all_is_refused_with_what_is_allowed(smollm2, chat, name, value):
    with pytest.raises(TypeError, match="allowed are"):
        compress(chat, 2, space=smollm2, **{name: value})


def test_a_text_inside_of_a_token_is_not_said_to_be_missing(smollm2):
    made = smollm2.embed("The director is here, and so are the others")
    with pytest.raises(ValueError, match="only a part of a token"):
        compress(made, 2, only="irecto", space=smollm2)


def test_a_text_is_selected_with_the_space_before_it(smollm2):
    made = smollm2.embed("The director is here, and so are the others")
    left = compress(made, 2, only="director is here, and so", space=smollm2)
    assert torch.equal(left.vectors[:1], made.vectors[:1])
    assert len(left) == len(made) - 3


def test_texts_are_found_where_the_tokenizer_composes_their_letters(qwen):
    name = "Mu\u0308ller"
    prompt = qwen.embed(f"The report was written by {name} in the summer of 1987 and printed in Bonn.")
    assert "M\u00fcller" in qwen.read(compress(prompt, 4, keep=name, space=qwen))
    only = compress(prompt, 4, only=f"The report was written by {name}", space=qwen)
    assert qwen.read(only).endswith("in the summer of 1987 and printed in Bonn.")
