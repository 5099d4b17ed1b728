"""Conversations: their messages, the rows in them, and their recipe."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from embedspace.prompt import PromptEmbeds, Recipe, Value, message_parts, tensor_digest
from embedspace.space.template_variables import recorded_template

Message = Mapping[str, object]
"""``{"role": ..., "content": ...}`` and whatever else the template reads. The content is text; where rows are allowed,
also a PromptEmbeds, a SoftPrompt, or a list of text and those."""
Conversation = Sequence[Message]
Render = Callable[[Conversation], str]
Span = tuple[int, int]
"""First character and the one after the last."""


def check_messages(messages: Conversation) -> None:
    """Raise where a conversation is not a list of ``{"role": str, "content": str}``.

    A message with other fields that say something, such as ``tool_calls``, needs no content.

    Raises:
        TypeError: not a sequence of mappings, or a role or content that is not a string.
        ValueError: no messages.
    """
    for position, message in enumerate(_mappings(messages)):
        for field in ("role", "content"):
            if not isinstance(message.get(field), str) and not (
                field == "content" and _says_otherwise(message)
            ):
                raise TypeError(
                    f"messages[{position}][{field!r}] must be a string, got {message.get(field)!r}; "
                    "join text parts into one string"
                )


def _says_otherwise(message: Message) -> bool:
    """Whether a message has no content, and other fields that say something."""
    return message.get("content") is None and bool(other_fields(message))


def other_fields(message: Message) -> list[str]:
    """Names of the fields beside role and content that say something."""
    return [name for name, value in message.items() if name not in ("role", "content") and value]


def text_of(message: Message) -> str:
    """The content of a message; empty where it has none."""
    return str(message.get("content") or "")


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
                parts.append([] if _says_otherwise(message) else message_parts(message.get("content")))
            except (TypeError, ValueError) as error:
                raise type(error)(f"messages[{position}]['content']: {error}") from error
        given = [part for own in parts for part in own if isinstance(part, PromptEmbeds)]
        texts = "".join(part for own in parts for part in own if isinstance(part, str))
        markers = dict(zip(unused_markers(texts, len(given), "\ue010"), given, strict=True))
        unused = iter(markers)
        marked, recorded = [], []
        for message, own in zip(messages, parts, strict=True):
            if message.get("content") is None:
                marked.append(message)
                recorded.append(message)
                continue
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


def text_recipe(text: str, special_tokens: bool = False) -> Recipe:
    """The recipe of ``EmbeddingSpace.embed(text)``, without its rows.

    >>> text_recipe("hello").operation
    'embed'
    """
    return Recipe.of("embed", {"text": text, **({"special_tokens": True} if special_tokens else {})})


def chat_recipe(
    messages: Conversation,
    add_generation_prompt: bool = True,
    inputs: Sequence[Recipe] = (),
    *,
    continue_final_message: bool = False,
    template: Mapping[str, object] | None = None,
    keep_order: bool = False,
) -> Recipe:
    """The recipe of ``EmbeddingSpace.embed_chat(messages)``, without its rows.

    Args:
        messages: as JSON writes them: rows in them are named by a digest.
        add_generation_prompt: whether the model's turn is begun.
        inputs: recipes of the rows in the messages, in order.
        continue_final_message: whether the last message is left open.
        template: variables of the template, and the time where it was read; left out where there are none.
        keep_order: keep the order of the messages' fields, where the template writes it.

    >>> dict(chat_recipe([{"role": "user", "content": "hello"}]).parameters)
    {'add_generation_prompt': True, 'messages': '[{"content": "hello", "role": "user"}]'}
    """
    content = json.dumps(
        [dict(message) for message in messages], ensure_ascii=False, sort_keys=not keep_order
    )
    parameters: dict[str, Value] = {
        "messages": content,
        "add_generation_prompt": add_generation_prompt and not continue_final_message,
    }
    if continue_final_message:
        parameters["continue_final_message"] = True
    if template:
        parameters["template"] = recorded_template(template)
    return Recipe.of("embed_chat", parameters, *inputs)


def unused_markers(rendered: str, count: int, fence: str = "\ue000") -> list[str]:
    """Strings of private-use characters that the text does not contain."""
    while fence in rendered:
        fence += "\ue001"
    return [f"{fence}{position}\ue002" for position in range(count)]
