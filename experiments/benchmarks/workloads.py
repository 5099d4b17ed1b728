"""The texts and prompts that benchmarks measure on, the same in every run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

from embedspace import PromptEmbeds, Recipe

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace

WORDS = ("river", "stone", "lamp", "paper", "cloud", "garden", "window", "music", "winter", "copper", "bread")


def plain_texts(count: int) -> list[str]:
    """Different texts of about 60 tokens."""
    sentence = "The harbour of the old town was full of boats when the ship of number {} came home from sea. "
    return ["".join(sentence.format(3 * n + part) for part in range(3)) for n in range(count)]


def vocabulary_words(space: EmbeddingSpace) -> list[str]:
    """Words and word pieces of the vocabulary that are neither the most frequent nor rare."""
    return [space.tokenizer.decode([token]).strip() for token in range(500, min(8000, space.vocab_size))]


def random_ids(vocabulary: int, prompts: int, rows: int, seed: int, lowest: int = 100) -> list[list[int]]:
    """Token ids of prompts that share no prefix; ``lowest`` excludes the special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(lowest, vocabulary, (prompts, rows), generator=generator).tolist()


def prompt_of(space: EmbeddingSpace, ids: Sequence[int], dtype: torch.dtype | None = None) -> PromptEmbeds:
    """The rows of token ids, all of them content."""
    rows = space.lookup(ids)
    content = torch.ones(len(rows), dtype=torch.bool)
    return PromptEmbeds(rows.to(dtype or rows.dtype), content, space.fingerprint, Recipe.of("ids", {}))
