"""One prompt as the layers of a filter read it; what several of them need is made once."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedspace.prompt import PromptEmbeds
from embedspace.safety.canonical import views
from embedspace.vocabulary_rows import read_back

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace
    from embedspace.vocabulary_rows import ReadBack

WINDOW, STRIDE = 128, 64
"""Rows in a window over a prompt, and rows from one window to the next."""

_ROLE = re.compile(r"\s*(system|user|assistant|tool)\s*\n", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Reading:
    """A prompt and what can be read from it; everything is made when first asked for."""

    space: EmbeddingSpace
    vectors: Tensor
    """As they came: only the structural layer may look at a reading whose shape nobody has checked."""
    text: str | None = None
    """The prompt's text where it came as text; otherwise it is read back from the rows."""

    @classmethod
    def of(cls, space: EmbeddingSpace, prompt: PromptEmbeds | Tensor | str) -> Reading:
        """The reading of a prompt, of bare rows, or of a text.

        Raises:
            ValueError: a prompt of another space, or an empty text.
            TypeError: anything else.
        """
        import torch

        if isinstance(prompt, str):
            return cls(space, space.embed(prompt).vectors, prompt)
        if isinstance(prompt, PromptEmbeds):
            space.require(prompt)
            return cls(space, prompt.vectors)
        if isinstance(prompt, torch.Tensor):
            return cls(space, prompt)
        raise TypeError(
            f"a filter checks PromptEmbeds, tensors [tokens, hidden] and strings, got a {type(prompt).__name__}"
        )

    @cached_property
    def rows(self) -> Float[Tensor, "rows hidden"]:
        """The prompt's rows in float32."""
        return self.vectors.detach().cpu().float()

    @cached_property
    def tokens(self) -> ReadBack:
        """The token nearest to each row, and whether the row is that token's own."""
        return read_back(self.space, self.rows)

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """Stretches of rows between special tokens: in a chat, one for each message with its role."""
        special = {number for number, token in self.space.tokenizer.added_tokens.items() if token.special}
        edges = [position for position, token in enumerate(self.tokens.ids.tolist()) if token in special]
        starts, stops = [0, *(edge + 1 for edge in edges)], [*edges, len(self.rows)]
        found = [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]
        return found or [(0, len(self.rows))]

    @cached_property
    def windows(self) -> list[tuple[int, int]]:
        """Overlapping stretches of rows that cover every segment, so that a line in a long document counts."""
        return [window for start, stop in self.segments for window in spread(start, stop)]

    @cached_property
    def window_texts(self) -> list[str]:
        """The read-back text of each window, without the role that begins a message."""
        ids = self.tokens.ids.tolist()
        decode = self.space.tokenizer.decode
        return [_ROLE.sub("", decode(ids[start:stop]), count=1) for start, stop in self.windows]

    @cached_property
    def canonical(self) -> list[tuple[int, str]]:
        """Canonical texts to classify, each with the number of its window: see :func:`canonical.views`."""
        return [(number, view) for number, text in enumerate(self.window_texts) for view in views(text)]


def spread(start: int, stop: int) -> list[tuple[int, int]]:
    """Windows over the rows from ``start`` to ``stop``; the last one ends with them."""
    last = max(start, stop - WINDOW)
    return [*((begin, begin + WINDOW) for begin in range(start, last, STRIDE)), (last, stop)]
