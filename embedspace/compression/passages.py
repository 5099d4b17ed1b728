"""Passages: the stretches of a prompt's content that are compressed, and text that is found in it."""

from __future__ import annotations

import itertools
import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch

from embedspace.compression.text_units import Units
from embedspace.prompt import require_row_mask
from embedspace.space import RowText, resolve_space, token_ids

if TYPE_CHECKING:
    from jaxtyping import Bool, Int
    from torch import Tensor

    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

_SENTENCE_ENDS = "\n.!?:;\u3002\uff01\uff1f\uff1a\u0964\u061f"
_SPACE_AND_QUOTES = " \t\"'\u201c\u201d\u00ab\u00bb"

Extent = int | str | slice
"""What is compressed: a message by its number, a text that stands in the prompt, or rows of the prompt."""


@dataclass(frozen=True, eq=False)
class Passage:
    """One stretch of adjacent rows that is compressed by itself."""

    rows: slice
    """Of the prompt."""
    ids: list[int]
    """Its tokens: those of the table, or the nearest to rows that are not of the table."""
    units: Units
    before: str
    """The content that stands before it in its message, and is not compressed; white space where there is none."""
    after: str
    """The content that stands after it."""


@dataclass(frozen=True, eq=False)
class ContentText:
    """A prompt's content as text, message by message."""

    prompt: PromptEmbeds
    given_space: EmbeddingSpace | None

    @cached_property
    def space(self) -> EmbeddingSpace:
        """The prompt's space, as given or as loaded in this process."""
        why = "merge, salience, match_norm and texts in only=, keep= and query= need the vocabulary"
        return resolve_space(self.prompt, self.given_space, why)

    @cached_property
    def ids(self) -> Int[Tensor, " tokens"]:
        """Token of every content row; -1 for the rows of the template."""
        found = torch.full((len(self.prompt),), -1)
        found[self.prompt.content.cpu()] = token_ids(self.space, self.prompt.content_vectors)
        return found

    @cached_property
    def messages(self) -> list[RowText]:
        """Text of every run of content rows."""
        return [RowText.of(self.space, self.ids[run].tolist()) for run in self.prompt.content_runs]

    @cached_property
    def units(self) -> list[Units]:
        """Units of every run of content rows."""
        return [Units.of(text) for text in self.messages]

    def whole_units(self, mask: Bool[Tensor, " tokens"]) -> Bool[Tensor, " tokens"]:
        """A mask without the rows of words that it marks in part."""
        whole = torch.zeros_like(mask)
        for run, units in zip(self.prompt.content_runs, self.units, strict=True):
            marked = [0, *mask[run].cumsum(0).tolist()]
            for start, stop in itertools.pairwise(units.rows):
                whole[run.start + start : run.start + stop] = marked[stop] - marked[start] == stop - start
        return whole

    def as_read(self, text: str) -> str:
        """A text as its tokens read, where it does not stand in the content as it is: some tokenizers compose letters
        and marks (Unicode's NFC)."""
        if not text or any(text in message.text for message in self.messages):
            return text
        return RowText.of(self.space, self.space.tokenize(text)).text

    def find(self, wanted: str | re.Pattern[str]) -> Bool[Tensor, " tokens"]:
        """The rows that hold any part of a text or of what a pattern matches, wherever it stands."""
        pattern = re.compile(re.escape(self.as_read(wanted))) if isinstance(wanted, str) else wanted
        mask = torch.zeros(len(self.prompt), dtype=torch.bool)
        for run, text in zip(self.prompt.content_runs, self.messages, strict=True):
            for match in pattern.finditer(text.text):
                if match.end() > match.start():
                    rows = text.rows(*match.span())
                    mask[run.start + rows.start : run.start + rows.stop] = True
        return mask

    def find_sentence(self, wanted: str) -> Bool[Tensor, " tokens"]:
        """The rows of a text where it stands last as sentences or lines of its own; none where it does not.

        Where it also begins or ends a message, it is the same question asked before, and counts too; inside of a
        message it is a part of the passage, as in a list of questions and answers.
        """
        mask = torch.zeros(len(self.prompt), dtype=torch.bool)
        pattern = re.compile(re.escape(wanted))
        is_last = True
        for run, text in reversed(list(zip(self.prompt.content_runs, self.messages, strict=True))):
            for match in reversed(list(pattern.finditer(text.text))):
                at_edge = not (text.text[: match.start()].strip() and text.text[match.end() :].strip())
                if _stands_alone(text.text, match) and (is_last or at_edge):
                    rows = text.rows(*match.span())
                    mask[run.start + rows.start : run.start + rows.stop] = True
                    is_last = False
        return mask

    def passage(self, rows: slice) -> Passage:
        """A stretch of whole units of one message."""
        number, run = next(
            (number, run)
            for number, run in enumerate(self.prompt.content_runs)
            if run.start <= rows.start < run.stop
        )
        units = self.units[number]
        first = bisect_left(units.rows, rows.start - run.start)
        last = bisect_left(units.rows, rows.stop - run.start)
        before, after = units.texts[:first][-1:], units.texts[last:][:1]
        return Passage(
            rows,
            self.ids[rows].tolist(),
            units.part(first, last),
            "".join(before) or " ",
            "".join(after) or " ",
        )


def _stands_alone(text: str, match: re.Match[str]) -> bool:
    """Whether a match begins and ends where sentences or lines do."""
    before, after = (
        text[: match.start()].rstrip(_SPACE_AND_QUOTES),
        text[match.end() :].lstrip(_SPACE_AND_QUOTES),
    )
    begins = not before or before[-1] in _SENTENCE_ENDS
    return begins and (not after or after[0] == "\n" or match[0][-1] in _SENTENCE_ENDS)


def part_mask(
    content: ContentText, only: Extent | Sequence[Extent] | Bool[Tensor, " tokens"]
) -> Bool[Tensor, " tokens"]:
    """The content rows that a caller selects.

    Raises:
        ValueError: no such message, text or rows, or none of their rows is content.
        TypeError: neither a number, a text, a slice, a mask nor a list of the first three.
    """
    prompt = content.prompt
    if isinstance(only, torch.Tensor):
        require_row_mask(only, prompt, "only")
        mask = only.cpu().clone()
    else:
        parts: Sequence[Any] = only if isinstance(only, list | tuple) else [only]
        mask = torch.zeros(len(prompt), dtype=torch.bool)
        for part in parts:
            mask |= _part(content, part)
    mask &= prompt.content.cpu()
    if not bool(mask.any()):
        raise ValueError(
            f"only={_selected(only)} selects no content row of the prompt; there is nothing to compress"
        )
    return mask


def _selected(only: Any) -> str:
    """What a caller selects, in short."""
    return f"a mask of {len(only)} rows" if isinstance(only, torch.Tensor) else f"{only!r:.80}"


def _part(content: ContentText, part: Extent) -> Bool[Tensor, " tokens"]:
    prompt, runs = content.prompt, content.prompt.content_runs
    mask = torch.zeros(len(prompt), dtype=torch.bool)
    if isinstance(part, bool) or not isinstance(part, int | str | slice):
        raise TypeError(
            f"only holds a {type(part).__name__}; allowed are the number of a message, a text that stands in the "
            "prompt, a slice of rows, a list of these, or a boolean mask [tokens]"
        )
    if isinstance(part, int):
        if not -len(runs) <= part < len(runs):
            raise ValueError(
                f"only={part}: the prompt has {len(runs)} messages with text, numbered from 0 to {len(runs) - 1}"
            )
        mask[runs[part]] = True
    elif isinstance(part, slice):
        mask[part] = True
    else:
        mask = whole_rows(content, part)
    return mask


def whole_rows(content: ContentText, text: str) -> Bool[Tensor, " tokens"]:
    """The rows that hold nothing but a text and the space before it; a row that holds more is left out.

    Raises:
        ValueError: the text does not stand in the content, or fills no row of it.
    """
    mask = torch.zeros(len(content.prompt), dtype=torch.bool)
    is_found = False
    for run, message in zip(content.prompt.content_runs, content.messages, strict=True):
        for match in re.finditer(re.escape(content.as_read(text)), message.text) if text else ():
            is_found = True
            rows = message.rows(*match.span())
            begins = message.starts[rows.start]
            starts_before = begins != match.start() and not (
                begins >= 0 and message.text[begins : match.start()].isspace()
            )
            first, last = rows.start + starts_before, rows.stop - (message.starts[rows.stop] != match.end())
            mask[run.start + first : run.start + max(first, last)] = True
    if not is_found:
        raise ValueError(
            f"the text {_shown(text)} does not stand in the prompt's content; space.read(prompt) shows what does"
        )
    if not bool(mask.any()):
        raise ValueError(
            f"the text {_shown(text)} is only a part of a token; give the words around it as well"
        )
    return mask


def keep_mask(
    content: ContentText,
    keep: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] | Bool[Tensor, " tokens"],
) -> Bool[Tensor, " tokens"]:
    """The rows that must survive: those of texts, of what patterns match, or of a mask.

    Raises:
        ValueError: a text that does not stand in the content, an empty one, or a mask of another shape.
        TypeError: something else.
    """
    if isinstance(keep, torch.Tensor):
        require_row_mask(keep, content.prompt, "keep")
        return keep.cpu()
    mask = torch.zeros(len(content.prompt), dtype=torch.bool)
    for wanted in keep if isinstance(keep, list | tuple) else [keep]:
        if not isinstance(wanted, str | re.Pattern) or isinstance(getattr(wanted, "pattern", ""), bytes):
            raise TypeError(
                f"keep holds a {type(wanted).__name__} {wanted!r:.60}; allowed are strings, compiled regular "
                "expressions of text, or one boolean mask [tokens]"
            )
        if wanted == "":
            raise ValueError("keep holds an empty text; give what is to survive, or leave keep out")
        found = content.find(wanted)
        # A pattern says what to keep where it stands; a string is expected to be there.
        if isinstance(wanted, str) and not bool(found.any()):
            raise ValueError(
                f"keep: the text {_shown(wanted)} does not stand in the prompt's content; space.read(prompt) "
                "shows what does, and a compiled pattern may match nothing"
            )
        mask |= found
    return mask


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:57]}...")
