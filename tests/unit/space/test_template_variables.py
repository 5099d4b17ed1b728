"""Chat templates get variables and the time as transformers gives them, and recipes keep what they got."""

import dataclasses
import json
from datetime import datetime

import pytest
import torch

from embedspace import EmbeddingSpace
from embedspace.space import PrefixedPrompts, fixed_template_time, without_times
from embedspace.space.template_variables import TemplateClock, TemplateValues
from tests.checkpoints import LLAMA3_TEMPLATE, make_tiny_checkpoint, make_tokenizer
from tests.unit.space.templates import DATED, GROUNDED, PARTS, REASONING

ASKED = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": " What is it? "}]
TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}  # fmt: skip


def weather(city: str) -> str:
    """The weather of a city.

    Args:
        city: its name.
    """
    return city


@pytest.fixture(scope="module")
def space_with(tmp_path_factory):
    """Makes the tiny space with another template."""
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path_factory.mktemp("tiny"), layers=1))

    def made(template):
        return dataclasses.replace(
            space, tokenizer=dataclasses.replace(space.tokenizer, chat_template=template)
        )

    return made


def theirs(template, messages, **options):
    options = {"add_generation_prompt": True, **options}
    return list(make_tokenizer(template).apply_chat_template(messages, **options)["input_ids"])


VARIABLES = {
    "date_string": (DATED, {"date_string": "1 April 2026"}),
    "enable_thinking": (REASONING, {"enable_thinking": False}),
    "thinking left on": (REASONING, {"enable_thinking": True}),
    "tools": (REASONING, {"tools": [TOOL]}),
    "a function as tool": (REASONING, {"tools": [weather, TOOL]}),
    "both": (REASONING, {"tools": (TOOL,), "enable_thinking": False}),
    "documents": (GROUNDED, {"documents": [{"title": "Ü", "text": 'a "quoted" <b>'}]}),
    "a special token": (LLAMA3_TEMPLATE, {"bos_token": "<|end_of_text|>"}),
}


@pytest.mark.parametrize("name", VARIABLES)
def test_variables_reach_the_template_as_in_transformers_and_stand_in_the_recipe(space_with, name):
    template, given = VARIABLES[name]
    space = space_with(template)
    ids = theirs(template, ASKED, **given)
    prompt = space.embed_chat(ASKED, template=given)
    assert space.chat_ids(ASKED, template=given) == ids
    assert space.chat_pieces(ASKED, template=given) == [ids]
    assert torch.equal(prompt.vectors, space.lookup(ids))
    recorded = json.loads(dict(prompt.recipe.parameters)["template"])
    assert recorded.keys() == given.keys()
    again = space.embed_chat(ASKED, template=recorded)
    assert torch.equal(again.vectors, prompt.vectors)
    assert again.recipe == prompt.recipe


def test_variables_of_the_space_hold_for_every_conversation_and_give_way_to_those_of_a_call(space_with):
    plain = space_with(REASONING)
    space = dataclasses.replace(plain, template={"enable_thinking": False})
    prefixed = PrefixedPrompts(plain, system="Be brief.", template={"enable_thinking": False})
    whole = plain.embed_chat(prefixed.conversation("What?"), template={"enable_thinking": False})
    for prompt in (
        space.embed_chat(prefixed.conversation("What?")),
        PrefixedPrompts(space, system="Be brief.")("What?"),
        prefixed("What?"),
        next(space.embed_many([prefixed.conversation("What?")])),
        next(plain.embed_many([prefixed.conversation("What?")], template={"enable_thinking": False})),
    ):
        assert torch.equal(prompt.vectors, whole.vectors)
        assert prompt.recipe == whole.recipe
    thinking = space.chat_ids(ASKED, template={"enable_thinking": True})
    assert thinking == plain.chat_ids(ASKED)
    assert space.chat_ids(ASKED) != thinking


def test_a_model_is_opened_with_variables_for_all_its_conversations(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, layers=1, chat_template=REASONING)
    space = EmbeddingSpace.from_pretrained(folder, template={"enable_thinking": False})
    assert space.chat_ids(ASKED) == theirs(REASONING, ASKED, enable_thinking=False)
    assert space.fingerprint == EmbeddingSpace.from_pretrained(folder).fingerprint
    with pytest.raises(ValueError, match=r"does not read the variable 'thinking'.*enable_thinking"):
        EmbeddingSpace.from_pretrained(folder, template={"thinking": False})


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ({"enable_thinkng": False}, ValueError, "does not read the variable 'enable_thinkng'.*enable_thinking"),
        ({"messages": []}, ValueError, "cannot set 'messages': the conversation is the first argument"),
        ({"add_generation_prompt": True}, ValueError, "an argument of its own"),
        ({"continue_final_message": True}, ValueError, "an argument of its own"),
        ({"raise_exception": 1}, ValueError, "cannot set 'raise_exception'"),
        ({"enable_thinking": object()}, TypeError, r"template\['enable_thinking'\] must be text.*got a object"),
        ({"tools": "weather"}, TypeError, "must be a list of JSON schemas or functions"),
        ({"tools": [{1: 2}]}, TypeError, r"template\['tools'\]\[0\] has the key 1"),
        ("enable_thinking", TypeError, "must be a mapping"),
        ({"strftime_now": "2026-01-01"}, ValueError, "does not read the variable 'strftime_now'"),
    ],
)  # fmt: skip
def test_a_variable_that_cannot_be_used_is_named(space_with, given, error, words):
    for call in (space_with(REASONING).embed_chat, space_with(REASONING).chat_ids):
        with pytest.raises(error, match=words):
            call(ASKED, template=given)


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [("yesterday", ValueError, "must be a date or time"), (5, TypeError, "must be a date or time.*got 5"),
     ({"%H": "12"}, ValueError, "reads the time as '%d %b %Y', and .* has '%H'")],
)  # fmt: skip
def test_a_time_that_is_none_is_refused(space_with, given, error, words):
    with pytest.raises(error, match=words):
        space_with(DATED).embed_chat(ASKED, template={"strftime_now": given})


def test_recipes_without_variables_and_time_are_as_they_were(space_with):
    recipe = space_with(LLAMA3_TEMPLATE).embed_chat(ASKED).recipe
    messages = '[{"content": "Be brief.", "role": "system"}, {"content": " What is it? ", "role": "user"}]'
    assert recipe.to_dict() == {
        "operation": "embed_chat",
        "parameters": {"add_generation_prompt": True, "messages": messages},
        "inputs": [],
    }
    dated = space_with(DATED).embed_chat(ASKED, template={"date_string": "today"}).recipe
    assert json.loads(dict(dated.parameters)["template"]) == {"date_string": "today"}


def test_the_time_is_written_as_transformers_writes_it_and_kept_in_the_recipe(space_with, monkeypatch):
    class Stopped(datetime):
        @classmethod
        def now(cls, tz=None):
            return cls(2026, 2, 28, 23, 59)

    monkeypatch.setattr("transformers.utils.chat_template_utils.datetime", Stopped)
    space = space_with(DATED)
    with fixed_template_time(Stopped.now()):
        prompt = space.embed_chat(ASKED)
        assert space.chat_ids(ASKED) == theirs(DATED, ASKED)
    assert torch.equal(prompt.vectors, space.lookup(theirs(DATED, ASKED)))
    recorded = json.loads(dict(prompt.recipe.parameters)["template"])
    assert recorded == {"strftime_now": {"%d %b %Y": "28 Feb 2026"}}
    for given in (recorded, {"strftime_now": "2026-02-28"}, {"strftime_now": "2026-02-28T07:00:00"}):
        again = space.embed_chat(ASKED, template=given)
        assert torch.equal(again.vectors, prompt.vectors)
        assert again.recipe == prompt.recipe
    assert space.embed_chat(ASKED, template={"strftime_now": "2026-03-01"}).recipe != prompt.recipe


def test_the_clock_is_read_once_in_a_process_and_the_innermost_fixed_time_counts(monkeypatch):
    times = iter([datetime(2026, 7, 12, 23, 59, 59), datetime(2026, 7, 13)])

    class Clock(datetime):
        @classmethod
        def now(cls, tz=None):
            return next(times)

    monkeypatch.setattr("embedspace.space.template_variables.datetime", Clock)
    monkeypatch.setattr("embedspace.space.template_variables._process_time", [])
    assert [TemplateClock()("%d"), TemplateClock()("%d")] == ["12", "12"]
    day = datetime(2025, 1, 1)
    outer, inner = fixed_template_time(day), fixed_template_time(datetime(2025, 1, 2))
    with outer:
        with inner, fixed_template_time(day):
            assert TemplateClock()("%d") == "01"
        assert TemplateClock()("%d") == "01"
    assert TemplateClock()("%d") == "12"


def test_a_prefix_made_on_one_day_gives_the_prompts_of_the_next(space_with):
    space = space_with(DATED)
    with fixed_template_time(datetime(2026, 7, 12)):
        prompts = PrefixedPrompts(space, system="Be brief.")
        _ = prompts("What?")
    with fixed_template_time(datetime(2026, 8, 1)):
        whole = space.embed_chat(prompts.conversation("What?"))
        assert torch.equal(prompts("What?").vectors, whole.vectors)
        assert prompts("What?").recipe == whole.recipe


def test_times_are_taken_out_of_a_recipe_and_variables_stay(space_with):
    space = space_with(DATED)
    given = {"bos_token": "", "strftime_now": "2026-07-12"}
    prompt = space.embed_chat(ASKED, template=given).first_rows(3)
    bare = without_times(prompt.recipe).inputs[0]
    assert json.loads(dict(bare.parameters)["template"]) == {"bos_token": ""}
    assert "template" not in dict(without_times(space.embed_chat(ASKED).recipe).parameters)
    assert TemplateValues.of(DATED, {}).recorded == {}


# Messages that leave no mark


@pytest.mark.parametrize("call", ["embed_chat", "chat_ids", "chat_pieces"])
@pytest.mark.parametrize(
    ("template", "messages", "words"),
    [
        (REASONING, [*ASKED, {"role": "developer", "content": "Be long."}], r"messages\[2\], of the role 'developer'"),
        (REASONING, [{"role": "ipython", "content": "a <think>"}, *ASKED], r"messages\[0\], of the role 'ipython'"),
        (PARTS, ASKED, r"messages\[0\], of the role 'system'.*list of parts"),
        (LLAMA3_TEMPLATE, [*ASKED, {"role": "assistant", "content": "", "tool_calls": [{"function": TOOL}]}],
         r"messages\[2\], of the role 'assistant'"),
        (REASONING, [*ASKED, {"role": "assistant", "content": "<think>\nHm.\n</think>"}, ASKED[1]], r"messages\[2\]"),
    ],
)  # fmt: skip
def test_a_message_that_the_template_leaves_out_is_an_error(space_with, call, template, messages, words):
    with pytest.raises(ValueError, match=words):
        getattr(space_with(template), call)(messages)


def test_rows_that_the_template_leaves_out_are_an_error_too(space_with):
    space = space_with(REASONING)
    with pytest.raises(ValueError, match=r"messages\[2\], of the role 'developer'"):
        space.embed_chat([*ASKED, {"role": "developer", "content": space.embed("x", special_tokens=False)}])


CALLED = {"role": "assistant", "content": "", "tool_calls": [
    {"function": {"name": "weather", "arguments": {"unit": "C", "city": "Rome"}}}
]}  # fmt: skip
WRITTEN = {
    "empty messages": [*ASKED, {"role": "developer", "content": ""}],
    "white space": [*ASKED, {"role": "developer", "content": " \n"}],
    "tool calls": [*ASKED, CALLED, {"role": "tool", "content": "sunny"}],
    "repeated texts": [ASKED[1], {"role": "assistant", "content": " What is it? "}, ASKED[1]],
}


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_template_writes_or_has_nothing_to_write_of_is_fine(space_with, name):
    space = space_with(REASONING)
    ids = theirs(REASONING, WRITTEN[name])
    prompt = space.embed_chat(WRITTEN[name])
    assert space.chat_ids(WRITTEN[name]) == ids
    assert torch.equal(prompt.vectors, space.lookup(ids))


def test_a_message_without_content_is_one_with_tool_calls(space_with):
    template = (
        "{%- for m in messages %}{{- m.role + (m.content or '') }}{{- m.tool_calls | tojson }}{%- endfor %}"
    )
    messages = [{**CALLED, "content": None}]
    del (absent := {**CALLED})["content"]
    space = space_with(template)
    assert space.chat_ids(messages) == theirs(template, messages)
    for given in (messages, [absent]):
        assert torch.equal(space.embed_chat(given).vectors, space.lookup(theirs(template, messages)))
    with pytest.raises(TypeError, match="content"):
        space.embed_chat([{"role": "assistant", "content": None, "tool_calls": []}])


def test_a_recipe_keeps_the_order_of_arguments_that_the_template_writes(space_with):
    recipe = space_with(REASONING).embed_chat(WRITTEN["tool calls"]).recipe
    assert '"arguments": {"unit": "C", "city": "Rome"}' in dict(recipe.parameters)["messages"]
    named = [{"role": "user", "name": "Zoë", "content": "x"}]
    recipe = space_with(REASONING).embed_chat(named).recipe
    assert dict(recipe.parameters)["messages"] == '[{"content": "x", "name": "Zoë", "role": "user"}]'


# Reasoning in the history


def said(space, prompt, ids):
    return "|".join(
        space.tokenizer.decode([ids[row] for row in range(run.start, run.stop)]).strip()
        for run in prompt.content_runs
    )


@pytest.mark.parametrize(
    ("messages", "content"),
    [
        ([ASKED[1], {"role": "assistant", "content": "<think>\nHm.\n</think>\n\nYes."}, ASKED[1]],
         "What is it?|Yes.|What is it?"),
        ([ASKED[1], {"role": "assistant", "content": "<think>Hm.</think>Yes."}], "What is it?|Hm.|Yes."),
        ([{"role": "user", "content": "<tool_response>\nx\n</tool_response>"}],
         "<tool_response>\nx\n</tool_response>"),
        ([{"role": "user", "content": "say </think> and <b>bold</b>"}], "say </think> and <b>bold</b>"),
    ],
)  # fmt: skip
def test_reasoning_in_the_history_is_followed(space_with, messages, content):
    space = space_with(REASONING)
    ids = theirs(REASONING, messages)
    prompt = space.embed_chat(messages)
    assert torch.equal(prompt.vectors, space.lookup(ids))
    assert said(space, prompt, ids) == content


# Prefill


BEGUN = [
    "Sure, it is",
    "Sure, it is ",
    "  \nSure",
    "",
    "<think>\nHm.\n</think>\n\nIt",
    "What is it? ",
    "日本 🎉",
]


@pytest.mark.parametrize("text", BEGUN)
@pytest.mark.parametrize("template", [LLAMA3_TEMPLATE, DATED, REASONING, GROUNDED])
def test_a_begun_answer_is_left_open_as_in_transformers(space_with, template, text):
    space = space_with(template)
    messages = [*ASKED, {"role": "assistant", "content": text}]
    options = {"date_string": "today"} if template is DATED else {}
    ids = theirs(template, messages, continue_final_message=True, add_generation_prompt=False, **options)
    options = {"continue_final_message": True, "template": options}
    prompt = space.embed_chat(messages, **options)
    assert torch.equal(prompt.vectors, space.lookup(ids))
    assert space.chat_ids(messages, **options) == ids
    assert space.chat_pieces(messages, **options) == [ids]
    parameters = dict(prompt.recipe.parameters)
    assert parameters["continue_final_message"] is True
    assert parameters["add_generation_prompt"] is False
    if text.strip():
        assert bool(prompt.content[-1])


def test_a_begun_answer_may_hold_rows(space_with):
    space = space_with(LLAMA3_TEMPLATE)
    rows = space.embed("it is", special_tokens=False)
    prompt = space.embed_chat(
        [ASKED[1], {"role": "assistant", "content": ["Sure, ", rows]}], continue_final_message=True
    )
    assert torch.equal(prompt.vectors[-len(rows) :], rows.vectors)


@pytest.mark.parametrize(
    ("last", "words"),
    [
        ({"role": "user", "content": "x"}, r"needs a last message of the role 'assistant'.*messages\[2\].*'user'"),
        ({"role": "assistant", "content": None, "tool_calls": [TOOL]}, "no content"),
        ({"role": "assistant", "content": "rows"}, "rows only"),
    ],
)  # fmt: skip
def test_a_last_message_that_cannot_be_continued_is_named(space_with, last, words):
    space = space_with(LLAMA3_TEMPLATE)
    if last["content"] == "rows":
        last = {**last, "content": space.embed("x", special_tokens=False)}
    with pytest.raises(ValueError, match=words):
        space.embed_chat([*ASKED, last], continue_final_message=True)


def test_an_answer_that_the_template_changes_cannot_be_continued(space_with):
    space = space_with("{%- for m in messages %}{{- m.role + m.content[:4] }}{%- endfor %}")
    with pytest.raises(ValueError, match="changes or leaves out the text of the last message, 'Sure, it is'"):
        space.chat_ids(
            [ASKED[1], {"role": "assistant", "content": "Sure, it is"}], continue_final_message=True
        )


# Plain text with the tokenizer's special tokens


TEXTS = ["Once upon a time", " a\n\nb", "日本 🎉", "<|begin_of_text|>x"]


@pytest.mark.parametrize("text", TEXTS)
def test_special_tokens_around_a_text_are_those_of_transformers_and_template_rows(space_with, text):
    space = space_with(None)
    ids = make_tokenizer(None).encode(text)
    prompt = space.embed(text, special_tokens=True)
    assert space.tokenize(text, special_tokens=True) == ids
    assert torch.equal(prompt.vectors, space.lookup(ids))
    assert prompt.content.tolist() == [False] + [True] * (len(ids) - 1)
    assert dict(prompt.recipe.parameters) == {"text": text, "special_tokens": True}
    bare = space.embed(text, special_tokens=False)
    assert torch.equal(bare.vectors, space.lookup(ids[1:]))
    assert dict(bare.recipe.parameters) == {"text": text}
    for flag, one in ((True, prompt), (False, bare)):
        (many,) = space.embed_many([text], special_tokens=flag)
        assert torch.equal(many.vectors, one.vectors)
        assert many.recipe == one.recipe


def test_tokens_before_and_behind_are_both_there(tmp_path):
    folder = make_tiny_checkpoint(tmp_path, layers=1, chat_template=None)
    fields = json.loads((folder / "tokenizer.json").read_text())
    [begin, text] = fields["post_processor"]["single"]
    fields["post_processor"]["single"] = [begin, text, begin]
    (folder / "tokenizer.json").write_text(json.dumps(fields))
    prompt = EmbeddingSpace.from_pretrained(folder).embed("One two", special_tokens=True)
    assert [not row for row in prompt.content.tolist()] == [True, *[False] * (len(prompt) - 2), True]


def test_leaving_the_special_tokens_out_unasked_warns_once(tmp_path, recwarn):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path, layers=1, seed=7))
    space.embed("a", special_tokens=False)
    space.embed("a", special_tokens=True)
    assert not [w for w in recwarn if "special tokens" in str(w.message)]
    for _ in range(2):
        plain = space.embed("a")
        list(space.embed_many(["a"]))
    [warning] = [w for w in recwarn if "special tokens" in str(w.message)]
    assert "<|begin_of_text|>" in str(warning.message)
    assert warning.filename == __file__
    assert torch.equal(plain.vectors, space.embed("a", special_tokens=False).vectors)


def test_a_tokenizer_without_special_tokens_around_a_text_does_not_warn(smollm2, recwarn):
    plain, asked = smollm2.embed("Hello"), smollm2.embed("Hello", special_tokens=True)
    assert not [w for w in recwarn if "special tokens" in str(w.message)]
    assert torch.equal(plain.vectors, asked.vectors)
