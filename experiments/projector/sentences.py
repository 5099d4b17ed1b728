"""Sentences that no projector was trained on."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, zip_longest
from typing import TYPE_CHECKING

from embedspace import EmbeddingSpace

if TYPE_CHECKING:
    from embedspace.projector.datamodule import Split
    from embedspace.projector.sources import Sentence

_WHOLE = re.compile(r"""["'(]?[A-Z][^\[\]#*|]*[.!?]["')]?""")
MAX_TOKENS = 40
"""As in training: longer sentences are left out, never cut."""


def held_out(
    sources: Sequence[Sequence[Sentence]], space: EmbeddingSpace, count: int, split: Split | None = None
) -> list[str]:
    """Sentences of each source in turn, each text once, in an order of their own.

    Args:
        sources: one or more kinds.
        space: its tokenizer counts.
        count: how many.
        split: to take from sources that are also trained on; None for sources that never were, of which only whole
            sentences are taken: no headings, no list marks, no gaps in brackets.

    Raises:
        ValueError: fewer sentences are fit than asked for.
    """
    from embedspace.projector.datamodule import select, split_of

    kinds = []
    for source in sources:
        own = [
            sentence
            for sentence in source
            if (_WHOLE.fullmatch(sentence.text) if split is None else split_of(sentence) == split)
        ]
        kept, _ = select(own, space, max_tokens=MAX_TOKENS, limit=count)
        kinds.append([sentence.text for sentence in kept])
    turns = chain.from_iterable(zip_longest(*kinds))
    found = list(dict.fromkeys(text for text in turns if text is not None))
    if len(found) < count:
        raise ValueError(f"{count} sentences were asked for, the sources have {len(found)} that are fit")
    return found[:count]
