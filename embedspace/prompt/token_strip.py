"""TokenStrip: the rows of a prompt as coloured tokens, in notebooks, in the playground and in reports."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from embedspace._util.package_files import package_text
from embedspace.prompt.recipe import Recipe

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

DISTANCES = (0.01, 0.1, 0.25, 0.5, 0.75)
"""Distances from the nearest word at which the background changes: a word itself has none."""
NORMS = (0.5, 0.75, 1.25, 1.6)
"""Norms, in units of the vocabulary's mean norm, at which the lower edge changes."""
MAX_STRIP_ROWS = 400
"""Rows that are drawn; of the others the number is shown."""

_VISIBLE = str.maketrans({"\n": "⏎", "\t": "⇥", "\r": "␍", "\x00": "␀"})


@dataclass(frozen=True)
class TokenRow:
    """One row of a prompt as it is shown."""

    text: str | None
    """The word of the vocabulary that is nearest; None where the vocabulary is not at hand."""
    content: bool
    """Whether the row is the user's own, and not one of the chat template."""
    distance: float = 0.0
    """From that word: 1 minus the cosine, both taken after removing the vocabulary's mean; 0 for the word itself."""
    norm: float = 1.0
    """Euclidean norm, in units of the vocabulary's mean norm."""
    dropped: bool = False
    """Whether a compression leaves the row out."""

    @property
    def classes(self) -> str:
        """Names of its classes in the style sheet.

        >>> TokenRow(" cat", content=False, distance=0.3, norm=1.0).classes
        'token far-3 norm-3 template'
        """
        names = [
            "token",
            f"far-{bisect_right(DISTANCES, self.distance)}",
            f"norm-{1 + bisect_right(NORMS, self.norm)}",
        ]
        return " ".join(names + ["template"] * (not self.content) + ["dropped"] * self.dropped)

    def title(self, number: int) -> str:
        """What the row is, in words."""
        kind = "content" if self.content else "chat template"
        word = "" if self.text is None else f", nearest word {self.text!r} at distance {self.distance:.2f}"
        return (
            f"row {number} ({kind}){word}, norm {self.norm:.2f}" + ", left out by compression" * self.dropped
        )


@dataclass(frozen=True)
class TokenStrip:
    """Rows of a prompt in order, and how many more there are.

    >>> TokenStrip((TokenRow("<b>", content=True),)).html()
    '<ol class="tokens"><li class="token far-0 norm-3" title="row 0 (content), nearest word &#x27;&lt;b&gt;&#x27; at distance 0.00, norm 1.00">&lt;b&gt;</li></ol>'
    """  # noqa: E501

    rows: tuple[TokenRow, ...]
    more: int = 0

    def html(self) -> str:
        """An HTML list; the style sheet is :func:`strip_style`."""
        items = [
            f'<li class="{row.classes}" title="{escape(row.title(number))}">{_shown(row, number)}</li>'
            for number, row in enumerate(self.rows)
        ]
        rest = f'<li class="token-more">and {self.more} more rows</li>' if self.more else ""
        return f'<ol class="tokens">{"".join(items)}{rest}</ol>'


def strip_style() -> str:
    """The strip's style sheet."""
    return package_text("embedspace.prompt", "token_strip.css")


Reader = Callable[
    ["Float[Tensor, 'tokens hidden']", "Bool[Tensor, ' tokens']", str, Recipe], TokenStrip | None
]
"""From a prompt's rows, content mask, fingerprint of the space and recipe to a strip; None for an unknown space."""

_readers: list[Reader] = []


def register_reader(reader: Reader) -> None:
    """Let :func:`read_strip` use a reader, which knows the words of some embedding spaces."""
    _readers.append(reader)


def read_strip(
    vectors: Float[Tensor, "tokens hidden"], content: Bool[Tensor, " tokens"], space: str, recipe: Recipe
) -> TokenStrip:
    """The strip of a prompt's rows, with words where a space with the fingerprint is loaded.

    >>> import torch
    >>> read_strip(torch.ones(1, 4), torch.tensor([True]), "no space", Recipe("example")).rows[0].title(0)
    'row 0 (content), norm 1.00'
    """
    for reader in _readers:
        if (strip := reader(vectors, content, space, recipe)) is not None:
            return strip
    shown = content[:MAX_STRIP_ROWS].tolist()
    return TokenStrip(
        tuple(TokenRow(None, bool(own)) for own in shown), max(0, len(content) - MAX_STRIP_ROWS)
    )


def _shown(row: TokenRow, number: int) -> str:
    if row.text is None:
        return str(number)
    return escape(row.text.translate(_VISIBLE)) or "∅"
