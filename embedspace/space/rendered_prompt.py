"""Rendered prompts: the text and the rows that a prompt is embedded from, and their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.space.conversation import Conversation, MarkedConversation, Span, chat_recipe, text_recipe
from embedspace.space.message_spans import content_mask, require_continuable, writes_order
from embedspace.space.tokenizer import Tokenizer


@dataclass(frozen=True)
class ChatOptions:
    """How conversations are put through the template; see :meth:`EmbeddingSpace.embed_chat`."""

    add_generation_prompt: bool = True
    continue_final_message: bool = False
    template: Mapping[str, object] | None = None


@dataclass(frozen=True)
class Text:
    """A stretch of text of a prompt."""

    text: str
    spans: Sequence[Span] | None
    """Where its content stands; None for all of it."""
    special_tokens: bool = False
    """Whether the tokenizer's special tokens are put around it."""


@dataclass(frozen=True)
class Tokens:
    """A stretch of text as tokens."""

    ids: list[int]
    content: list[bool]
    """Which of them are content."""


@dataclass(frozen=True, eq=False)
class RenderedPrompt:
    """What a prompt is embedded from."""

    pieces: Sequence[Text | PromptEmbeds]
    """Text and rows, in order."""
    recipe: Recipe

    @property
    def rows(self) -> Iterator[PromptEmbeds]:
        """The rows, without the text."""
        return (piece for piece in self.pieces if isinstance(piece, PromptEmbeds))


def rendered_text(text: str, special_tokens: bool) -> RenderedPrompt:
    """Plain text, all of it content.

    Raises:
        TypeError: something else than text.
        ValueError: the text is empty.
    """
    if not isinstance(text, str):
        raise TypeError(f"text must be a string, got a {type(text).__name__}; for messages use embed_chat")
    if not text:
        raise ValueError("text is empty; a prompt needs at least one token")
    return RenderedPrompt([Text(text, None, special_tokens)], text_recipe(text, special_tokens))


def render_chat(
    tokenizer: Tokenizer,
    messages: Conversation,
    options: ChatOptions,
    template: Mapping[str, object],
) -> RenderedPrompt:
    """A conversation through the chat template.

    Args:
        tokenizer: of the model.
        messages: texts and rows.
        options: of this conversation.
        template: variables of the chat template for every conversation.

    Raises:
        TypeError, ValueError: as :meth:`EmbeddingSpace.embed_chat`; whether rows are of the space is not looked at.
    """
    marked = MarkedConversation.of(messages)
    if options.continue_final_message:
        require_continuable(messages)
    values = tokenizer.template_values(template, options.template)
    settings = {
        "add_generation_prompt": options.add_generation_prompt,
        "continue_final_message": options.continue_final_message,
    }
    text, spans = tokenizer.render_with_spans(marked.messages, **settings, values=values)
    recipe = chat_recipe(
        marked.recipe_messages,
        **settings,
        inputs=marked.recipe_inputs,
        template=values.recorded,
        keep_order=writes_order(
            lambda turns: tokenizer.render(turns, **settings, values=values), marked.messages, text
        ),
    )
    pieces = marked.split(text, spans)
    return RenderedPrompt(
        [piece if isinstance(piece, PromptEmbeds) else Text(*piece) for piece in pieces], recipe
    )


def encode(tokenizer: Tokenizer, rendered: Sequence[RenderedPrompt]) -> list[list[Tokens | PromptEmbeds]]:
    """The pieces of prompts with their text as tokens; all texts are tokenised together."""
    texts = [piece.text for one in rendered for piece in one.pieces if isinstance(piece, Text)]
    unused = iter(tokenizer.encode_batch(texts))
    return [
        [_tokens(tokenizer, piece, *next(unused)) if isinstance(piece, Text) else piece for piece in one.pieces]
        for one in rendered
    ]  # fmt: skip


def _tokens(tokenizer: Tokenizer, piece: Text, ids: list[int], offsets: Sequence[Span]) -> Tokens:
    if piece.spans is not None:
        return Tokens(ids, content_mask(piece.text, piece.spans, offsets))
    content = [True] * len(ids)
    if not piece.special_tokens:
        return Tokens(ids, content)
    before, after = tokenizer.before, tokenizer.after
    return Tokens([*before, *ids, *after], [*[False] * len(before), *content, *[False] * len(after)])
