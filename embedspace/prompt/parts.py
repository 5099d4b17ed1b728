"""Parts of a message: text, and rows that stand where text would."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from embedspace.prompt.prompt_embeds import PromptEmbeds


@runtime_checkable
class RowSource(Protocol):
    """Anything that stands for rows, such as :class:`embedspace.SoftPrompt`."""

    @property
    def prompt(self) -> PromptEmbeds:
        """The rows."""
        ...


Part = str | PromptEmbeds


def message_parts(content: object) -> list[Part]:
    """The parts of a message's content: text, a PromptEmbeds, a soft prompt, or a list of those.

    >>> message_parts("Hello")
    ['Hello']

    Raises:
        TypeError: a content is something else.
        ValueError: rows that went through a chat template already.
    """
    given = [content] if isinstance(content, str | PromptEmbeds | RowSource) else content
    if not isinstance(given, Sequence) or not all(
        isinstance(part, str | PromptEmbeds | RowSource) for part in given
    ):
        raise TypeError(
            "a message's content must be a string, a PromptEmbeds, a SoftPrompt or a list of those, "
            f"got {content!r:.200}; join text parts into one string"
        )
    parts: list[Part] = [part.prompt if isinstance(part, RowSource) else part for part in given]
    for part in parts:
        if isinstance(part, PromptEmbeds) and bool(part.content.any()) and not bool(part.content.all()):
            raise ValueError(
                f"a message's PromptEmbeds has {int((~part.content).sum())} template rows among its {len(part)}, "
                "and the template would be put around it once more; pass space.embed(text), which makes content "
                "rows only"
            )
    return parts
