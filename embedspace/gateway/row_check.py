"""A first look at the rows of a payload: it ends at the first ones that no filter would let pass.

Rows of the vocabulary are recognised by a hash, in microseconds each. Any other row is compared with the whole
vocabulary, so a prompt of rows far from it is refused after a few of them, and not after all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from embedspace.safety.layers import Manifold
from embedspace.safety.layers.manifold import MEASURES, measures
from embedspace.space import match_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines.guard import Guard
    from embedspace.space import EmbeddingSpace

_FIRST_SLICE, _LARGEST_SLICE = 16, 128
_ENOUGH_FOREIGN_ROWS = 64
"""Of a prompt, all of which a filter for transformed prompts allows: the rest is left to the filter."""
_CLOSE = 0.5
"""Centred cosine from which on a row is read as its nearest token."""
# A maximum over some rows is at most the maximum over all; a mean is not.
_MAXIMA = [not measure.startswith("mean") for measure in MEASURES]


@dataclass(frozen=True)
class RowCheck:
    """What is looked for in rows before the filter runs."""

    space: EmbeddingSpace
    template_tokens: frozenset[int]
    """Tokens that separate the messages of a conversation, which no message may contain."""
    allowed: Tensor | None
    """Of the filter's manifold layer, if it has one."""

    @classmethod
    def of(cls, guard: Guard, space: EmbeddingSpace) -> RowCheck:
        """For a filter and its space."""
        layers = [each for each in getattr(guard, "layers", ()) if isinstance(each, Manifold)]
        tokens = {number for number, token in space.tokenizer.added_tokens.items() if token.special}
        return cls(space, frozenset(tokens), layers[0].allowed if layers else None)

    @property
    def template_texts(self) -> list[str]:
        """The same tokens as text."""
        return [self.space.tokenizer.added_tokens[number].content for number in self.template_tokens]

    def fault(self, rows: Float[Tensor, "rows hidden"], *, in_message: bool) -> str | None:
        """What is wrong with rows: ``foreign`` to the vocabulary, or a ``template`` token in a message; or None.

        Args:
            rows: finite, in any floating-point dtype.
            in_message: whether the template writes tokens of its own around them.
        """
        foreign = 0
        for part in _slices(rows.float()):
            matches = match_tokens(self.space, part)
            others = ~matches.exact
            if self.allowed is not None and bool(others.any()):
                with torch.no_grad():
                    found = measures(self.space, part[others], matches.ids[others])
                if bool((found > self.allowed)[_MAXIMA].any()):
                    return "foreign"
            if in_message and self._has_template_token(part, matches.ids):
                return "template"
            foreign += int(others.sum())
            if foreign >= _ENOUGH_FOREIGN_ROWS and not in_message:
                return None
        return None

    def _has_template_token(self, rows: Float[Tensor, "rows hidden"], ids: Tensor) -> bool:
        places = [place for place, token in enumerate(ids.tolist()) if token in self.template_tokens]
        if not places:
            return False
        own = self.space.lookup(ids[places].tolist()).float() - self.space.mean
        cosines = torch.nn.functional.cosine_similarity(rows[places] - self.space.mean, own, dim=1)
        return bool((cosines >= _CLOSE).any())


def _slices(rows: Float[Tensor, "rows hidden"]) -> Iterator[Float[Tensor, "rows hidden"]]:
    """Few rows first, then more."""
    start, size = 0, _FIRST_SLICE
    while start < len(rows):
        yield rows[start : start + size]
        start, size = start + size, min(2 * size, _LARGEST_SLICE)
