"""Conversations: their messages, their recipe, and where their text stands in what a chat template renders."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedspace.prompt import PromptEmbeds, Recipe, Value, message_parts, tensor_digest

Message = Mapping[str, object]
"""``{"role": ..., "content": ...}`` and whatever else the template reads. The content is text; where rows are allowed,
also a PromptEmbeds, a SoftPrompt, or a list of text and those."""
Conversation = Sequence[Message]
Render = Callable[[Conversation], str]
Span = tuple[int, int]
"""First character and the one after the last."""


def check_messages(messages: Conversation) -> None:
    """Raise where a conversation is not a list of ``{"role": str, "content": str}``.

    Raises:
        TypeError: not a sequence of mappings, or a role or content that is not a string.
        ValueError: no messages.
    """
    for position, message in enumerate(_mappings(messages)):
        for field in ("role", "content"):
            if not isinstance(message.get(field), str):
                raise TypeError(
                    f"messages[{position}][{field!r}] must be a string, got {message.get(field)!r}; "
                    "join text parts into one string"
                )


def _mappings(messages: Conversation) -> Conversation:
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TypeError(
            f"messages must be a list of {{'role': ..., 'content': ...}}, got a {type(messages).__name__}"
        )
    if not messages:
        raise ValueError("messages is empty; a conversation needs at least one message")
    for position, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise TypeError(f"messages[{position}] must be a mapping, got a {type(message).__name__}")
    return messages


@dataclass(frozen=True, eq=False)
class MarkedConversation:
    """A conversation of text only: in place of each part that is rows, a marker."""

    messages: Conversation
    rows: Mapping[str, PromptEmbeds]
    """Marker -> the rows that it stands for, in order."""
    recipe_messages: Conversation
    """As a recipe holds them: rows are named by a digest, the recipes of the rows are its inputs."""

    @classmethod
    def of(cls, messages: Conversation) -> MarkedConversation:
        """Checked messages, with markers that no text contains.

        Raises:
            TypeError: messages of another form; the message names which.
            ValueError: no messages, or rows that went through a template already.
        """
        parts = []
        for position, message in enumerate(_mappings(messages)):
            if not isinstance(message.get("role"), str):
                raise TypeError(f"messages[{position}]['role'] must be a string, got {message.get('role')!r}")
            try:
                parts.append(message_parts(message.get("content")))
            except (TypeError, ValueError) as error:
                raise type(error)(f"messages[{position}]['content']: {error}") from error
        given = [part for own in parts for part in own if isinstance(part, PromptEmbeds)]
        texts = "".join(part for own in parts for part in own if isinstance(part, str))
        markers = dict(zip(_markers(texts, len(given), "\ue010"), given, strict=True))
        unused = iter(markers)
        marked, recorded = [], []
        for message, own in zip(messages, parts, strict=True):
            written = [part if isinstance(part, str) else next(unused) for part in own]
            marked.append({**message, "content": "".join(written)})
            named = [part if isinstance(part, str) else {"rows": tensor_digest(part.vectors)} for part in own]
            recorded.append(
                {**message, "content": named if isinstance(message["content"], list | tuple) else named[0]}
            )
        return cls(marked, markers, recorded)

    @property
    def recipe_inputs(self) -> list[Recipe]:
        """Recipes of the rows, in order."""
        return [part.recipe for part in self.rows.values()]

    def split(self, text: str, spans: Sequence[Span]) -> list[tuple[str, list[Span]] | PromptEmbeds]:
        """The rendered conversation in order: stretches of text with the messages' spans in them, and rows.

        Raises:
            ValueError: the template repeats a message or leaves one out.
        """
        if not self.rows:
            return [(text, list(spans))]
        found = [
            (match.start(), match.end(), match.group())
            for match in re.finditer("|".join(map(re.escape, self.rows)), text)
        ]
        if len(found) != len(self.rows):
            raise ValueError(
                f"the chat template writes {len(found)} of the {len(self.rows)} parts that are rows; it repeats a "
                "message or leaves one out, so give text there, or another role"
            )
        pieces: list[tuple[str, list[Span]] | PromptEmbeds] = []
        position = 0
        for start, stop, marker in [*found, (len(text), len(text), "")]:
            own = [
                (max(first, position) - position, min(last, start) - position)
                for first, last in spans
                if first < start and last > position
            ]
            if start > position:
                pieces.append((text[position:start], own))
            if marker:
                pieces.append(self.rows[marker])
            position = stop
        return pieces


def text_recipe(text: str) -> Recipe:
    """The recipe of ``EmbeddingSpace.embed(text)``, without its rows.

    >>> text_recipe("hello").operation
    'embed'
    """
    return Recipe.of("embed", {"text": text})


def chat_recipe(
    messages: Conversation, add_generation_prompt: bool = True, inputs: Sequence[Recipe] = ()
) -> Recipe:
    """The recipe of ``EmbeddingSpace.embed_chat(messages)``, without its rows.

    Args:
        messages: as JSON writes them: rows in them are named by a digest.
        add_generation_prompt: whether the model's turn is begun.
        inputs: recipes of the rows in the messages, in order.

    >>> dict(chat_recipe([{"role": "user", "content": "hello"}]).parameters)
    {'add_generation_prompt': True, 'messages': '[{"content": "hello", "role": "user"}]'}
    """
    content = json.dumps([dict(message) for message in messages], ensure_ascii=False, sort_keys=True)
    parameters: dict[str, Value] = {"messages": content, "add_generation_prompt": add_generation_prompt}
    return Recipe.of("embed_chat", parameters, *inputs)


def render_with_spans(render: Render, messages: Conversation) -> tuple[str, list[Span]]:
    """The rendered conversation and where in it the messages' own text stands.

    The template is rendered twice: with the real messages, and with a marker in the place of each
    message's text. The second gives the template's own pieces; the first must consist of exactly those
    pieces with the messages' texts, stripped or not, between them. The texts are not searched for, so they may
    repeat each other or quote the template.

    >>> render_with_spans(lambda turns: "".join(f"<{m['role']}> {m['content']}" for m in turns),
    ...                   [{"role": "user", "content": "hello"}])
    ('<user> hello', [(7, 12)])

    Raises:
        ValueError: the template changes the messages' text in another way than stripping it, so that
            it cannot be known which part of the result is theirs.
    """
    rendered = render(messages)
    markers = _markers(rendered, len(messages))
    marked = render(
        [{**message, "content": marker} if message["content"] else message
         for message, marker in zip(messages, markers, strict=True)]
    )  # fmt: skip
    pattern = "|".join(map(re.escape, markers))
    pieces = re.split(pattern, marked)
    owners = [markers.index(found) for found in re.findall(pattern, marked)]
    texts = [str(messages[owner]["content"]) for owner in owners]
    spans = _fit(rendered, pieces, texts)
    if spans is None:
        raise ValueError(
            "the chat template rewrites the messages' text (more than stripping white space), so it cannot be "
            "known which rows are theirs. Give the text in the form in which the template leaves it, or build "
            "the prompt from space.tokenize and space.lookup with a content mask of your own"
        )
    return rendered, spans


def _markers(rendered: str, count: int, fence: str = "\ue000") -> list[str]:
    """Strings of private-use characters that the text does not contain."""
    while fence in rendered:
        fence += "\ue001"
    return [f"{fence}{position}\ue002" for position in range(count)]


def _fit(rendered: str, pieces: Sequence[str], texts: Sequence[str]) -> list[Span] | None:
    """Spans of ``texts`` such that ``rendered`` is the pieces with the texts between them."""
    if not rendered.startswith(pieces[0]):
        return None
    ends: dict[int, list[Span]] = {len(pieces[0]): []}
    for text, piece in zip(texts, pieces[1:], strict=True):
        reached: dict[int, list[Span]] = {}
        for start, spans in ends.items():
            for form in dict.fromkeys((text, text.strip(), text.rstrip(), text.lstrip())):
                stop = start + len(form)
                if rendered.startswith(form, start) and rendered.startswith(piece, stop):
                    reached.setdefault(stop + len(piece), [*spans, (start, stop)])
        ends = reached
    return ends.get(len(rendered))


def content_mask(text: str, spans: Sequence[Span], offsets: Sequence[Span]) -> list[bool]:
    """Which tokens carry the messages' own text.

    A token may cross the boundary between template and text. It counts as text if everything visible
    in it is the message's (``" hello"`` whose space is the template's); a token of white space only
    counts as text if all of it is (the ``"\\n\\n"`` that ends a header and begins a text is template).

    >>> content_mask("<user> hi!", spans=[(7, 10)], offsets=[(0, 6), (6, 9), (9, 10)])
    [False, True, True]

    Args:
        text: the rendered conversation.
        spans: where the messages' text stands in it.
        offsets: first and after-last character of each token.
    """
    own = bytearray(len(text))
    for start, stop in spans:
        own[start:stop] = b"\x01" * (stop - start)

    def is_content(start: int, stop: int) -> bool:
        visible = [own[i] for i in range(start, stop) if not text[i].isspace()]
        return all(visible) if visible else start < stop and all(own[start:stop])

    return [is_content(start, stop) for start, stop in offsets]
