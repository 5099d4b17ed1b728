"""Spaces in use: a prompt names the one it lives in by fingerprint alone, and some transforms need its vocabulary."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING
from weakref import WeakSet

if TYPE_CHECKING:
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

_SPACES: WeakSet[EmbeddingSpace] = WeakSet()
_LOCK = Lock()


def remember(space: EmbeddingSpace) -> None:
    """Let prompts find this space for as long as somebody holds it."""
    with _LOCK:
        _SPACES.add(space)


def space_of(prompt: PromptEmbeds, given: EmbeddingSpace | None, why: str) -> EmbeddingSpace:
    """The space that a prompt lives in: the one given, or one in use that has its fingerprint.

    A fingerprint is the content of table, tokenizer and template: any space that has it gives the same numbers.

    Args:
        prompt: whose space is wanted.
        given: what the caller was told, if anything.
        why: what needs the space, for the error.

    Raises:
        ValueError: another space is given; or none is, and none with that fingerprint is in use.
    """
    space = given
    if space is None:
        with _LOCK:
            space = next((known for known in _SPACES if known.fingerprint == prompt.space), None)
    if space is None:
        raise ValueError(
            f"{why}, and no space with the prompt's fingerprint {prompt.space} is in use: pass the prompt's space="
        )
    space.require(prompt)
    return space
