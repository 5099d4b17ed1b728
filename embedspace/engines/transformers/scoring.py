"""Log-probabilities of continuations: one pass over the prompts, then each continuation after the pass's cache."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import torch

if TYPE_CHECKING:
    from torch import Tensor

_Item = TypeVar("_Item")


def score_batch(
    model: Any, inputs: dict[str, Any], targets: Sequence[Sequence[list[int]]], batch_size: int
) -> tuple[list[list[Tensor]], Any]:
    """Scores of several continuations of each prompt of a batch, and the key-value cache of the prompts.

    Args:
        model: of transformers.
        inputs: padded prompts, their attention mask, and the cache of what they share where there is one.
        targets: token ids of the continuations of each prompt.
        batch_size: most continuations in one pass.
    """
    seen = inputs["attention_mask"]
    if len(targets) > 1:
        inputs["position_ids"] = (seen.cumsum(dim=1) - 1).clamp_min(0)
    if (known := inputs.get("past_key_values")) is not None:
        for name in {"inputs_embeds", "input_ids", "position_ids"} & inputs.keys():
            inputs[name] = inputs[name][:, known.get_seq_length() :]
    start = model(**inputs, use_cache=True, logits_to_keep=1)
    first = start.logits[:, -1].float().log_softmax(dim=-1)
    wanted = [(row, target) for row, own in enumerate(targets) for target in own]
    scores: list[list[Tensor]] = [[] for _ in targets]
    for chunk in chunks(wanted, batch_size):
        found = _continued(model, chunk, first, start.past_key_values, seen)
        for (row, _), score in zip(chunk, found, strict=True):
            scores[row].append(score)
    return scores, start.past_key_values


def chunks(items: Sequence[_Item], size: int) -> Iterator[Sequence[_Item]]:
    """Pieces of so many items, the last one with what is left."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _continued(
    model: Any, wanted: Sequence[tuple[int, list[int]]], first: Tensor, cache: Any, seen: Tensor
) -> list[Tensor]:
    """Scores of continuations, each with the row of the batch that it continues."""
    rows = torch.tensor([row for row, _ in wanted], device=seen.device)
    longest = max(len(target) for _, target in wanted)
    ids = torch.tensor([target + [0] * (longest - len(target)) for _, target in wanted]).to(seen.device)
    scores = first[rows].gather(1, ids[:, :1]).cpu()
    if longest > 1:
        copied = copy.deepcopy(cache)
        copied.batch_select_indices(rows)
        # Padding comes after the tokens that count, so causal attention does not see it.
        inputs = {}
        if len(seen) > 1:  # the prompts have padding of their own before them
            inputs = {
                "attention_mask": torch.cat([seen[rows], seen.new_ones(len(rows), longest - 1)], dim=1),
                "position_ids": seen[rows].sum(dim=1, keepdim=True) + torch.arange(longest - 1).to(rows),
            }
        logits = model(input_ids=ids[:, :-1], past_key_values=copied, use_cache=True, **inputs).logits
        rest = logits.float().log_softmax(dim=-1).gather(2, ids[:, 1:, None])[..., 0]
        scores = torch.cat([scores, rest.cpu()], dim=1)
    return [row[: len(target)].clone() for row, (_, target) in zip(scores, wanted, strict=True)]
