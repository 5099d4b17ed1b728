"""Texts as token ids, exactly as the space embeds them, or the reason why one of them is no prompt."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple

from embedspace.corpus.files import Refusal
from embedspace.prompt import Recipe, Value
from embedspace.space import EmbeddingSpace, content_mask, recorded_template

Template = Literal["none", "chat"]
"""Plain texts, every row content; or conversations through the model's template, a text being one question."""

TOKENIZE_BATCH_SIZE = 1024
"""Texts that are tokenised at a time: enough for all cores, and little beside the rows that come of them."""


class Tokens(NamedTuple):
    """One prompt before its rows are looked up."""

    ids: Sequence[int]
    content: Sequence[bool] | None
    """None where every row is content."""
    text: str
    """The text, or the messages as JSON: a parameter of the recipe."""


def tokens_of(
    space: EmbeddingSpace,
    texts: Sequence[Any],
    template: Template,
    max_tokens: int | None,
    variables: Mapping[str, object] | None = None,
) -> list[Tokens | Refusal]:
    """Tokenise texts together; one that is no prompt is a :class:`Refusal` and the others are not affected.

    Args:
        space: tokenizer, template.
        texts: strings, for a chat also lists of messages.
        template: how they are embedded.
        max_tokens: a longer prompt is refused; None for any length.
        variables: of the chat template, and the time that it reads.
    """
    prepared = [_prepared(space, text, template, variables) for text in texts]
    fine = [one for one in prepared if not isinstance(one, Refusal)]
    if template == "none":
        encoded = [(ids, None) for ids in space.tokenizer.encode_many([text for text, _, _ in fine])]
    else:
        pairs = space.tokenizer.encode_batch([text for text, _, _ in fine])
        encoded = [
            (ids, content_mask(text, spans, offsets))  # type: ignore[misc]
            for (text, spans, _), (ids, offsets) in zip(fine, pairs, strict=True)
        ]
    made = iter(zip(encoded, fine, strict=True))
    tokens: list[Tokens | Refusal] = []
    for one in prepared:
        if isinstance(one, Refusal):
            tokens.append(one)
            continue
        (ids, content), (_, _, text) = next(made)
        tokens.append(_bounded(Tokens(ids, content, text), max_tokens))
    return tokens


def variables_of(space: EmbeddingSpace, given: Mapping[str, object] | None) -> dict[str, Any]:
    """The variables of a chat template, and what it reads from the clock now, as recipes keep them.

    Raises:
        TypeError, ValueError: a variable that cannot be used.
    """
    if space.tokenizer.chat_template is None:
        return dict(given or {})
    values = space.tokenizer.template_values(given)
    with contextlib.suppress(ValueError):  # each text says why it is refused
        space.tokenizer.render([{"role": "user", "content": "a"}], add_generation_prompt=True, values=values)
    return values.recorded


def recipe_of(text: str, template: Template, variables: Mapping[str, object] | None = None) -> Recipe:
    """The recipe of the prompt, equal to that of ``space.embed`` or ``space.embed_chat``."""
    if template == "none":
        return Recipe.of("embed", {"text": text})
    recorded: dict[str, Value] = {"template": recorded_template(variables)} if variables else {}
    return Recipe.of("embed_chat", {"messages": text, "add_generation_prompt": True, **recorded})


def _prepared(
    space: EmbeddingSpace, text: Any, template: Template, variables: Mapping[str, object] | None
) -> tuple[str, list[tuple[int, int]], str] | Refusal:
    """What is tokenised, the spans of the messages in it, and the recipe's text."""
    if isinstance(text, Refusal):
        return text
    if not text:
        return Refusal("there is no text" if text is None else "the text is empty")
    try:
        if template == "none":
            return _plain(text), [], text
        messages = [{"role": "user", "content": text}] if isinstance(text, str) else text
        for message in messages:
            _plain(message["content"])
        values = space.tokenizer.template_values(variables)
        rendered, spans = space.tokenizer.render_with_spans(messages, values=values)
        as_json = json.dumps([dict(message) for message in messages], ensure_ascii=False, sort_keys=True)
        return rendered, spans, as_json
    except (TypeError, ValueError, KeyError) as error:
        return Refusal(str(error))


def _plain(text: object) -> str:
    if not isinstance(text, str):
        kind = "a list of messages" if isinstance(text, list | Mapping) else f"a {type(text).__name__}"
        raise TypeError(f"the text is {kind}, not a string; for conversations use template=chat")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"the text has half of a surrogate pair at position {error.start}") from error
    return text


def _bounded(tokens: Tokens, max_tokens: int | None) -> Tokens | Refusal:
    if not tokens.ids:
        return Refusal("the text has no tokens")
    if max_tokens is not None and len(tokens.ids) > max_tokens:
        return Refusal(
            f"the prompt has {len(tokens.ids)} tokens and at most {max_tokens} are allowed; cut it up, or allow more "
            "with max_tokens"
        )
    return tokens
