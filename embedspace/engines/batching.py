"""Prompts in batches: checked one by one, of one kind, padded to one length."""

from __future__ import annotations

import operator
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedspace.engines.base import Completion, Prompt
from embedspace.prompt import PromptEmbeds, preflight

if TYPE_CHECKING:
    from jaxtyping import Int, Shaped
    from torch import Tensor


_EMBED_FIRST = (
    'embed text first: space.embed_chat([{"role": "user", "content": "..."}]) puts it into the chat template, '
    "space.embed(text) takes it as it is"
)


@dataclass(frozen=True)
class Batch:
    """Adjacent prompts: valid ones, all embeddings or all token ids, and the records of invalid ones."""

    prompts: tuple[tuple[int, Prompt], ...]
    """Position in the input, and prompt."""
    failed: tuple[Completion, ...] = ()

    def in_order(self, completions: Iterable[Completion]) -> list[Completion]:
        """The completions of the valid prompts together with the failed ones, in the order of the input."""
        return sorted([*completions, *self.failed], key=operator.attrgetter("prompt_index", "index"))


def batches(
    prompts: Iterable[Prompt],
    size: int,
    *,
    hidden_size: int | None = None,
    max_rows: int | None = None,
    max_bytes: int | None = None,
) -> Iterator[Batch]:
    """Split prompts into batches of checked prompts, reading at most one prompt ahead.

    Args:
        prompts: embeddings or token ids, in any mixture.
        size: most prompts of a batch.
        hidden_size: of the model, where known.
        max_rows: most rows of a prompt, where known.
        max_bytes: most bytes of the vectors of a batch; a larger prompt is a batch by itself.

    Raises:
        TypeError: something is neither a PromptEmbeds nor token ids.
    """
    valid: list[tuple[int, Prompt]] = []
    failed: list[Completion] = []
    held = 0
    for position, prompt in enumerate(prompts):
        try:
            checked = check_prompt(prompt, hidden_size=hidden_size, max_rows=max_rows)
        except ValueError as error:
            failed.append(Completion.failed(position, str(error)))
        else:
            cost = _bytes(checked)
            other_kind = bool(valid) and isinstance(valid[-1][1], PromptEmbeds) != isinstance(
                checked, PromptEmbeds
            )
            if valid and (other_kind or (max_bytes is not None and held + cost > max_bytes)):
                yield Batch(tuple(valid), tuple(failed))
                valid, failed, held = [], [], 0
            valid.append((position, checked))
            held += cost
        if len(valid) + len(failed) == size:
            yield Batch(tuple(valid), tuple(failed))
            valid, failed, held = [], [], 0
    if valid or failed:
        yield Batch(tuple(valid), tuple(failed))


def check_prompt(prompt: Prompt, *, hidden_size: int | None = None, max_rows: int | None = None) -> Prompt:
    """The prompt, token ids as a plain list, if an engine can answer it.

    Raises:
        TypeError: neither a PromptEmbeds nor token ids.
        ValueError: empty, too long, of another hidden size, or not finite.
    """
    prompt = require_prompt(prompt)
    if isinstance(prompt, PromptEmbeds):
        preflight(prompt, hidden_size=hidden_size, max_rows=max_rows)
        return prompt
    if not prompt:
        raise ValueError("the prompt has no token ids")
    if max_rows is not None and len(prompt) > max_rows:
        raise ValueError(
            f"the prompt has {len(prompt)} tokens and at most {max_rows} fit beside the new tokens"
        )
    return prompt


def require_prompt(prompt: Prompt) -> Prompt:
    """The prompt, token ids as a plain list.

    >>> require_prompt((5, 6))
    [5, 6]

    Raises:
        TypeError: neither a PromptEmbeds nor token ids.
    """
    if isinstance(prompt, PromptEmbeds):
        return prompt
    given, advice = f"{type(prompt).__name__} {prompt!r:.80}", _EMBED_FIRST
    if not isinstance(prompt, str | bytes | Mapping):
        try:
            return [operator.index(token) for token in prompt]
        except TypeError:
            if isinstance(prompt, int):
                advice = "one prompt of token ids goes into a list of prompts: [ids]"
    raise TypeError(f"a prompt must be a PromptEmbeds or a list of token ids, got {given}; {advice}")


def require_prompts(prompts: Iterable[Prompt]) -> Iterable[Prompt]:
    """The prompts, unless they are one.

    Raises:
        TypeError: text, one PromptEmbeds, or something that cannot be iterated over.
    """
    if isinstance(prompts, PromptEmbeds):
        raise TypeError(
            "prompts must be a list of prompts, got one PromptEmbeds; put it into a list: [prompt]"
        )
    if isinstance(prompts, str | bytes | Mapping) or not isinstance(prompts, Iterable):
        raise TypeError(
            f"prompts must be a list of prompts, got {type(prompts).__name__} {prompts!r:.80}; {_EMBED_FIRST}"
        )
    return prompts


def padded(
    prompts: Sequence[Shaped[Tensor, "tokens ..."]], shared: int = 0
) -> tuple[Shaped[Tensor, "prompts tokens ..."], Int[Tensor, "prompts tokens"]]:
    """Prompts of different lengths as one batch, and its attention mask: 0 on padding.

    The padding comes after the ``shared`` leading rows: with no shared rows, at the left.

    >>> batch, mask = padded([torch.tensor([5, 6, 7]), torch.tensor([5, 8])], shared=1)
    >>> batch.tolist(), mask.tolist()
    ([[5, 6, 7], [5, 0, 8]], [[1, 1, 1], [1, 0, 1]])
    """
    longest = max(map(len, prompts))
    batch = prompts[0].new_zeros(len(prompts), longest, *prompts[0].shape[1:])
    mask = torch.zeros(len(prompts), longest, dtype=torch.long)
    for row, seen, prompt in zip(batch, mask, prompts, strict=True):
        own = longest - len(prompt) + shared
        row[:shared], row[own:] = prompt[:shared], prompt[shared:]
        seen[:shared] = seen[own:] = 1
    return batch, mask


def _bytes(prompt: Prompt) -> int:
    return prompt.vectors.nbytes if isinstance(prompt, PromptEmbeds) else 0
