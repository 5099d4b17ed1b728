"""One prompt as the layers of a filter see it; what several layers need is computed once."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol
from weakref import WeakKeyDictionary

from embedspace.prompt import PromptEmbeds
from embedspace.safety.canonical import canonical, canonical_views
from embedspace.safety.verdict import Finding
from embedspace.space import EmbeddingSpace, match_tokens

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import TokenMatches

WINDOW = 24
"""Rows of one window, about a sentence; neighbouring windows start half as many rows apart."""
STRETCH = 512
"""Rows that are searched for hidden texts together."""
PIECE = 100
"""Characters of a hidden text that are judged together, about as many as a window has; neighbours overlap by half."""
MAX_PIECES = 128
"""Pieces of one stretch that are judged: bounds the time that one prompt can take."""
MOSTLY_PLAIN = 0.85
"""Length of the canonical text to that of the text, above which nothing in it was joined or masked."""

_TEMPLATES: WeakKeyDictionary[EmbeddingSpace, frozenset[tuple[int, ...]]] = WeakKeyDictionary()
_ROLE = re.compile(r"\s*(system|user|assistant|tool|model|developer)\s*\n", re.IGNORECASE)
_MAX_ROLE_ROWS = 5


@dataclass(frozen=True, eq=False)
class Reading:
    """A prompt and what the layers derive from it, each value computed on first use."""

    space: EmbeddingSpace
    vectors: Tensor
    """As received: before the structural layer has run, not even the shape is known to be valid."""
    text: str | None = None
    """The prompt's text where it was given as text."""
    window: int = WINDOW
    """Rows of one window."""

    @classmethod
    def of(cls, space: EmbeddingSpace, prompt: PromptEmbeds | Tensor | str, window: int = WINDOW) -> Reading:
        """The reading of a prompt, of bare rows, or of a text, in windows of so many rows.

        Raises:
            ValueError: a prompt of another space, or an empty text.
            TypeError: anything else.
        """
        import torch

        if isinstance(prompt, str):
            return cls(space, space.embed(prompt, special_tokens=False).vectors, prompt, window)
        if isinstance(prompt, PromptEmbeds):
            space.require(prompt)
            return cls(space, prompt.vectors, window=window)
        if isinstance(prompt, torch.Tensor):
            return cls(space, prompt, window=window)
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
        each message, without its role, so that a text is read alike in a chat and by itself. All rows where nothing
        else is left."""
        ids = self.tokens.ids.tolist()
        own = _template_spans(self.space)
        found = [
            (start + _role_rows(self.space, ids[start:stop]), stop)
            for start, stop in _spans(self.space, ids)
            if tuple(ids[start:stop]) not in own
        ]
        return [span for span in found if span[0] < span[1]] or [(0, len(ids))]

    @property
    def content_rows(self) -> int:
        """Rows of all segments."""
        return sum(stop - start for start, stop in self.segments)

    @cached_property
    def windows(self) -> list[tuple[int, int]]:
        """Overlapping windows that cover every segment, so that one line of a long document counts."""
        return [found for start, stop in self.segments for found in window_ranges(start, stop, self.window)]

    @cached_property
    def window_texts(self) -> list[str]:
        """The read-back text of each window."""
        ids = self.tokens.ids.tolist()
        return [self.space.tokenizer.decode(ids[start:stop]) for start, stop in self.windows]

    @cached_property
    def canonical(self) -> list[tuple[int, str]]:
        """Canonical texts, each with the number of its window: that of every window, and pieces of what longer
        stretches hide, with the number of the stretch's first window. A code is longer than a window."""
        own = [(number, canonical(text)) for number, text in enumerate(self.window_texts)]
        return own + self._hidden()

    def _hidden(self) -> list[tuple[int, str]]:
        ids = self.tokens.ids.tolist()
        found: list[tuple[int, str]] = []
        for start, stop in self.segments:
            for first, last in window_ranges(start, stop, STRETCH):
                text = self.space.tokenizer.decode(ids[first:last])
                plain, *decoded = canonical_views(text)
                # Where letters were written one by one or encoded, the whole is shorter than its windows together.
                shown = decoded if len(plain) > MOSTLY_PLAIN * len(text) else [plain, *decoded]
                pieces = [piece for view in shown for piece in text_pieces(view)]
                if pieces:
                    number = next(
                        (n for n, (begin, _) in enumerate(self.windows) if begin >= first),
                        len(self.windows) - 1,  # a window may be longer than a stretch
                    )
                    found += [(number, piece) for piece in pieces[:MAX_PIECES]]
        return found

    def in_windows(self, rows: int) -> Reading:
        """The reading in windows of another length."""
        return self._sharing(replace(self, window=rows))

    def _sharing(self, other: Reading) -> Reading:
        """Another reading of the same rows, with what is computed of them already."""
        shared = ("rows", "tokens", "segments")
        other.__dict__.update({name: self.__dict__[name] for name in shared if name in self.__dict__})
        return other

    def narrowed(self, windows: Sequence[int]) -> Reading:
        """The reading with some of its windows only, for layers that cost much: numbers of them in order."""
        places = {number: place for place, number in enumerate(windows)}
        narrow = self._sharing(replace(self))
        narrow.__dict__["windows"] = [self.windows[number] for number in windows]
        narrow.__dict__["window_texts"] = [self.window_texts[number] for number in windows]
        narrow.__dict__["canonical"] = [
            (places[number], view) for number, view in self.canonical if number in places
        ]
        return narrow


class Layer(Protocol):
    """One layer of a filter."""

    @property
    def name(self) -> str:
        """Identifies the layer in reasons, explanations and the filter's file."""

    @property
    def costly(self) -> bool:
        """Whether it reads only the windows that the layers before found most suspicious."""

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt."""


def window_ranges(start: int, stop: int, rows: int = WINDOW) -> list[tuple[int, int]]:
    """Windows of so many rows over the rows from ``start`` to ``stop``; the last window ends at ``stop``.

    >>> window_ranges(0, 40)
    [(0, 24), (12, 36), (16, 40)]
    """
    last = max(start, stop - rows)
    return [*((begin, begin + rows) for begin in range(start, last, max(1, rows // 2))), (last, stop)]


def _spans(space: EmbeddingSpace, ids: Sequence[int]) -> list[tuple[int, int]]:
    special = {number for number, token in space.tokenizer.added_tokens.items() if token.special}
    edges = [position for position, token in enumerate(ids) if token in special]
    starts, stops = [0, *(edge + 1 for edge in edges)], [*edges, len(ids)]
    return [(start, stop) for start, stop in zip(starts, stops, strict=True) if start < stop]


def _role_rows(space: EmbeddingSpace, ids: Sequence[int]) -> int:
    """Rows of the role that begins a message, or 0."""
    for count in range(1, min(len(ids), _MAX_ROLE_ROWS) + 1):
        if _ROLE.fullmatch(space.tokenizer.decode(ids[:count])):
            return count
    return 0


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


def text_pieces(text: str) -> list[str]:
    """A text in overlapping pieces of about :data:`PIECE` characters, cut between words.

    >>> [len(piece) for piece in text_pieces("one two three four five " * 10)]
    [99, 99, 99, 95]
    """
    words = text.split()
    pieces: list[str] = []
    first = 0
    while first < len(words):
        last, size, half = first, 0, first
        while last < len(words) and (size + len(words[last]) <= PIECE or last == first):
            size += len(words[last]) + 1
            last += 1
            half = last if size <= PIECE // 2 else half
        pieces.append(" ".join(words[first:last])[: 2 * PIECE])
        if last == len(words):
            break
        first = max(half, first + 1)
    return pieces


def training_views(
    safe: Sequence[Reading], unsafe: Sequence[Reading]
) -> tuple[list[str], list[int], list[float]]:
    """Canonical texts of labelled prompts, their labels (1 is unsafe), and weights that sum to 1 for each prompt."""
    texts, labels, weights = [], [], []
    for number, reading in enumerate([*safe, *unsafe]):
        found = [view for _, view in reading.canonical]
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
        scores = [0.0] * len(reading.windows)
        for number, view in reading.canonical:
            scores[number] = max(scores[number], known[view][0])
        worst, view = max(reading.canonical, key=lambda pair: known[pair[1]][0])
        probability, reference = known[view]
        reason = f"{description}: {probability:.2f}"
        findings.append(
            Finding(probability, reason, reading.windows[worst], reference, windows=tuple(scores))
        )
    return findings
