"""The common prefix of prompts, computed once."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

MIN_SHARED_ROWS = 32
"""Fewest leading rows for which a forward pass of their own is worth its time."""


class SharedPrefix:
    """The key-value cache of the rows that prompts begin with.

    One is kept, so memory stays bounded: it is replaced as soon as prompts begin with other rows.

    Args:
        model: a causal language model of transformers.
    """

    def __init__(self, model: Any) -> None:
        self._model = model
        self._rows: Tensor | None = None
        self._cache: Any = None

    def length(self, prompts: Sequence[Tensor], *, columns: int) -> int:
        """How many leading rows of these prompts are in the cache now; 0 where sharing is not worth it.

        The last row of a prompt is never shared: the first new token comes from it.

        Args:
            prompts: rows [tokens, hidden], all in the model's dtype, or token ids [tokens].
            columns: prompts, padding and new tokens together.
        """
        first, *others = prompts
        shared = min(map(len, prompts)) - 1
        known = 0 if self._rows is None else min(shared, _common(first, self._rows))
        shared = min([shared if others else known, *(_common(first, other) for other in others)])
        if shared < MIN_SHARED_ROWS or not self._can_be_shared(columns):
            self._rows = self._cache = None
            return 0
        # A batch may share a few words more than all batches do, which is no reason to compute a new cache.
        if min(known, shared) >= max(MIN_SHARED_ROWS, shared // 2):
            return min(known, shared)
        self._rows = self._cache = None  # before the new one is computed: memory may not hold both
        self._cache = self._computed(first[None, :shared])
        self._rows = first[:shared].clone()
        return shared

    def keep(self, prompt: Tensor, cache: Any, *, columns: int) -> None:
        """Keep the cache of a prompt computed alone: the next prompt may begin with the same rows."""
        if len(prompt) > MIN_SHARED_ROWS and self._can_be_shared(columns):
            self._rows, self._cache = prompt.clone(), cache

    def cache(self, length: int, sequences: int) -> Any:
        """The first ``length`` rows of the kept cache for a batch, which continuing does not change."""
        cache = copy.copy(self._cache)
        cache.layers = [copy.copy(layer) for layer in cache.layers]
        for layer in cache.layers:
            # Continuing a layer replaces these views by new memory.
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
        """Whether the model's cache holds every row's keys and values, and allows padding inside it.

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
