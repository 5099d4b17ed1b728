"""Prompts in batches of one kind, each checked before it travels."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from embedspace.engines.base import Completion, Prompt
from embedspace.prompt import PromptEmbeds, preflight


@dataclass(frozen=True)
class Batch:
    """Prompts that stood together: fit ones, all embeddings or all token ids, and those that are not fit."""

    prompts: tuple[tuple[int, Prompt], ...]
    """Position in the input, and prompt."""
    refused: tuple[Completion, ...] = ()

    def in_order(self, completions: Iterable[Completion]) -> list[Completion]:
        """The completions of the fit prompts together with the refused ones, in the order of the input."""
        return sorted([*completions, *self.refused], key=operator.attrgetter("prompt_index", "index"))


def batches(
    prompts: Iterable[Prompt],
    size: int,
    *,
    hidden_size: int | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
) -> Iterator[Batch]:
    """Split prompts into batches, read no further than one prompt ahead.

    Args:
        prompts: embeddings or token ids, in any mixture.
        size: most prompts of a batch.
        hidden_size: what the model needs, where known.
        max_rows: most rows of a prompt, where known.
        max_bytes: most bytes of the vectors of a batch; a larger prompt makes a batch of its own.

    Raises:
        TypeError: something is neither a PromptEmbeds nor token ids.
    """
    fit: list[tuple[int, Prompt]] = []
    refused: list[Completion] = []
    held = 0
    for position, prompt in enumerate(prompts):
        try:
            checked = check_prompt(prompt, hidden_size=hidden_size, max_rows=max_rows)
        except ValueError as error:
            refused.append(Completion.failed(position, str(error)))
        else:
            cost = _bytes(checked)
            other_kind = bool(fit) and isinstance(fit[-1][1], PromptEmbeds) != isinstance(
                checked, PromptEmbeds
            )
            if fit and (other_kind or (max_bytes is not None and held + cost > max_bytes)):
                yield Batch(tuple(fit), tuple(refused))
                fit, refused, held = [], [], 0
            fit.append((position, checked))
            held += cost
        if len(fit) + len(refused) == size:
            yield Batch(tuple(fit), tuple(refused))
            fit, refused, held = [], [], 0
    if fit or refused:
        yield Batch(tuple(fit), tuple(refused))


def check_prompt(prompt: Prompt, *, hidden_size: int | None = None, max_rows: int | None = None) -> Prompt:
    """The prompt, token ids as a plain list, if it is fit to be answered.

    Raises:
        TypeError: neither a PromptEmbeds nor token ids.
        ValueError: empty, too long, of another hidden size, or not finite.
    """
    if isinstance(prompt, PromptEmbeds):
        preflight(prompt, hidden_size=hidden_size, max_rows=max_rows)
        return prompt
    try:
        ids = [operator.index(token) for token in prompt]
    except TypeError:
        raise TypeError(
            f"a prompt must be a PromptEmbeds or a list of token ids, got {type(prompt).__name__} {prompt!r:.80}; "
            "embed text with EmbeddingSpace.embed_chat or embed"
        ) from None
    if not ids:
        raise ValueError("the prompt has no token ids")
    if max_rows is not None and len(ids) > max_rows:
        raise ValueError(f"the prompt has {len(ids)} tokens and at most {max_rows} fit beside the new tokens")
    return ids


def _bytes(prompt: Prompt) -> int:
    return prompt.vectors.nbytes if isinstance(prompt, PromptEmbeds) else 0
