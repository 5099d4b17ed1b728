"""One prompt as the layers of a filter see it; what several layers need is computed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from embedspace.prompt import PromptEmbeds
from embedspace.safety.canonical import canonical_views
from embedspace.safety.verdict import Finding
from embedspace.space import EmbeddingSpace, match_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import TokenMatches

WINDOW, STRIDE = 128, 64
"""Rows of one window, and rows between the starts of neighbouring windows."""

_TEMPLATES: WeakKeyDictionary[EmbeddingSpace, frozenset[tuple[int, ...]]] = WeakKeyDictionary()
_ROLE = re.compile(r"\s*(system|user|assistant|tool)\s*\n", re.IGNORECASE)


@dataclass(frozen=True, eq=False)
class Reading:
    """A prompt and what the layers derive from it, each value computed on first use."""

    space: EmbeddingSpace
    vectors: Tensor
    """As received: before the structural layer has run, not even the shape is known to be valid."""
    text: str | None = None
    """The prompt's text where it was given as text."""

    @classmethod
    def of(cls, space: EmbeddingSpace, prompt: PromptEmbeds | Tensor | str) -> Reading:
        """The reading of a prompt, of bare rows, or of a text.

        Raises:
            ValueError: a prompt of another space, or an empty text.
            TypeError: anything else.
        """
        import torch

        if isinstance(prompt, str):
            return cls(space, space.embed(prompt, special_tokens=False).vectors, prompt)
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
    def tokens(self) -> TokenMatches:
        """The token nearest to each row, and whether the row is that token's own."""
        return match_tokens(self.space, self.rows)

    @cached_property
    def segments(self) -> list[tuple[int, int]]:
        """Spans of rows between special tokens, without those that the chat template writes itself: in a chat, one for
        each message with its role. All rows where nothing else is left."""
        ids = self.tokens.ids.tolist()
        own = _template_spans(self.space)
        found = [span for span in _spans(self.space, ids) if tuple(ids[slice(*span)]) not in own]
        return found or [(0, len(ids))]

    @cached_property
    def windows(self) -> list[tuple[int, int]]:
        """Overlapping windows that cover every segment, so that one line of a long document counts."""
        return [window for start, stop in self.segments for window in window_ranges(start, stop)]

    @cached_property
    def window_texts(self) -> list[str]:
        """The read-back text of each window, without the role that begins a message."""
        ids = self.tokens.ids.tolist()
        decode = self.space.tokenizer.decode
        return [_ROLE.sub("", decode(ids[start:stop]), count=1) for start, stop in self.windows]

    @cached_property
    def canonical(self) -> list[tuple[int, str]]:
        """The canonical texts of every window, each with the window's number: see :func:`canonical_views`."""
        return [
            (number, view) for number, text in enumerate(self.window_texts) for view in canonical_views(text)
        ]


class Layer(Protocol):
    """One layer of a filter."""

    @property
    def name(self) -> str:
        """Identifies the layer in reasons, explanations and the filter's file."""

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""


def window_ranges(start: int, stop: int) -> list[tuple[int, int]]:
    """Windows over the rows from ``start`` to ``stop``; the last window ends at ``stop``."""
    last = max(start, stop - WINDOW)
    return [*((begin, begin + WINDOW) for begin in range(start, last, STRIDE)), (last, stop)]


def _spans(space: EmbeddingSpace, ids: Sequence[int]) -> list[tuple[int, int]]:
    special = {number for number, token in space.tokenizer.added_tokens.items() if token.special}
    edges = [position for position, token in enumerate(ids) if token in special]
    starts, stops = [0, *(edge + 1 for edge in edges)], [*edges, len(ids)]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _template_spans(space: EmbeddingSpace) -> frozenset[tuple[int, ...]]:
    """Token ids of what the chat template adds to a message: a default system message, the header of the answer."""
    if space not in _TEMPLATES:
        found: set[tuple[int, ...]] = set()
        if space.tokenizer.chat_template is not None:
            prompt = space.embed_chat([{"role": "user", "content": "Hello"}])
            ids = space.chat_ids([{"role": "user", "content": "Hello"}])
            found = {
                tuple(ids[slice(*span)])
                for span in _spans(space, ids)
                if not bool(prompt.content[slice(*span)].any())
            }
        _TEMPLATES[space] = frozenset(found)
    return _TEMPLATES[space]


def training_views(
    safe: Sequence[Reading], unsafe: Sequence[Reading]
) -> tuple[list[str], list[int], list[float]]:
    """Canonical texts of labelled prompts, their labels (1 is unsafe), and weights that sum to 1 for each prompt.

    Long prompts contribute their first and last window only: an attack is not in every window, and a few long texts
    must not outweigh many short ones.
    """
    texts, labels, weights = [], [], []
    for number, reading in enumerate([*safe, *unsafe]):
        ends = {0, len(reading.windows) - 1}
        found = [view for window, view in reading.canonical if window in ends]
        texts += found
        labels += [int(number >= len(safe))] * len(found)
        weights += [1 / len(found)] * len(found)
    return texts, labels, weights


def highest_scoring_windows(
    readings: Sequence[Reading],
    classify: Callable[[Sequence[str]], Sequence[tuple[float, str | None]]],
    description: str,
) -> list[Finding]:
    """For each prompt the finding of the window whose canonical text has the highest probability.

    All distinct texts of all prompts are classified in one call.

    Args:
        readings: the prompts.
        classify: from texts to probabilities of an attack, each with the most similar stored example, or None.
        description: of a text with a high probability, for the reason.
    """
    texts = list(dict.fromkeys(view for reading in readings for _, view in reading.canonical))
    known = dict(zip(texts, classify(texts), strict=True))
    findings = []
    for reading in readings:
        worst, view = max(reading.canonical, key=lambda pair: known[pair[1]][0])
        probability, reference = known[view]
        findings.append(
            Finding(probability, f"{description}: {probability:.2f}", reading.windows[worst], reference)
        )
    return findings
