"""The rows with which prompts begin alike, computed once in a process."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

WORTH_SHARING = 32
"""Fewest leading rows for which a pass of their own is worth its time."""


class SharedPrefix:
    """The key-value cache of rows that prompts were found to begin with.

    One is kept, so memory stays bounded: it gives way as soon as prompts begin with other rows.

    Args:
        model: a causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._rows: Tensor | None = None
        self._cache: Any = None

    def length(self, prompts: Sequence[Tensor], *, columns: int) -> int:
        """How many leading rows of these prompts need not be computed for each; 0 where it is not worth it.

        The last row of a prompt is never shared: the first new token comes from it.

        Args:
            prompts: rows [tokens, hidden], all in the dtype of computing, or token ids [tokens].
            columns: prompts, padding and new tokens together.
        """
        first, *others = prompts
        shared = min(map(len, prompts)) - 1
        known = 0 if self._rows is None else min(shared, _common(first, self._rows))
        shared = min([shared if others else known, *(_common(first, other) for other in others)])
        if shared < WORTH_SHARING or not self._can_be_shared(columns):
            self._rows = self._cache = None
            return 0
        # A batch may have a few words more in common than all batches have: that is no reason to begin anew.
        if min(known, shared) >= max(WORTH_SHARING, shared // 2):
            return min(known, shared)
        self._rows = self._cache = None  # before the new one is made: the two need not fit together
        self._cache = self._computed(first[None, :shared])
        self._rows = first[:shared].clone()
        return shared

    def keep(self, prompt: Tensor, cache: Any, *, columns: int) -> None:
        """Take over the cache that is left of a prompt computed alone: the next one may begin like it."""
        if len(prompt) > WORTH_SHARING and self._can_be_shared(columns):
            self._rows, self._cache = prompt.clone(), cache

    def cache(self, length: int, sequences: int) -> Any:
        """The first ``length`` rows of the kept cache for a batch, to be continued without changing what is kept."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:
            # Continuing a layer puts new memory in the place of these views.
            layer.keys = layer.keys[:, :, :length].expand(sequences, -1, -1, -1)
            layer.values = layer.values[:, :, :length].expand(sequences, -1, -1, -1)
            if layer.is_sliding:
                layer.cumulative_length = length
        return cache

    def _computed(self, rows: Tensor) -> Any:
        name = "inputs_embeds" if rows.is_floating_point() else "input_ids"
        inputs = {name: rows.to(self._model.device), "past_key_values": self._new_cache()}
        return self._model(**inputs, use_cache=True, logits_to_keep=1).past_key_values

    def _new_cache(self) -> Any:
        from transformers import DynamicCache

        return DynamicCache(config=self._model.config)

    def _can_be_shared(self, columns: int) -> bool:
        """Whether the model's cache holds every row's keys and values, and padding inside it does no harm.

        Prompts of unequal length are padded between prefix and rest. A sliding window counts these columns; so
        it must be wider than all of them.
        """
        from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

        return all(
            type(layer) is DynamicLayer
            or (type(layer) is DynamicSlidingWindowLayer and columns < layer.sliding_window)
            for layer in self._new_cache().layers
        )


def _common(a: Tensor, b: Tensor) -> int:
    """Number of leading rows that are equal."""
    if a.ndim != b.ndim or a.dtype != b.dtype:
        return 0
    rows = min(len(a), len(b))
    same = a[:rows] == b[:rows]
    different = (~(same.all(dim=1) if same.ndim == 2 else same)).nonzero()
    return int(different[0]) if len(different) else rows
