"""Salience: the most informative units of a passage are kept, those that a question asks about first."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from embedspace.compression.model_information import copy_attention, surprisal
from embedspace.compression.negation import negated
from embedspace.compression.passages import ContentText, Passage
from embedspace.compression.query import Query
from embedspace.compression.relevance import Relevance, Terms
from embedspace.compression.token_information import is_informative, opening_share, token_information
from embedspace.compression.unit_selection import INSERTED, INSERTED_BREAK, UnitSelection
from embedspace.space import RowText

if TYPE_CHECKING:
    from jaxtyping import Bool, Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Information = Literal["vocabulary", "surprisal", "attention"]

_ASKED_DISCOUNT = 0.5
"""Of the information of a word of the question, where that stands in the prompt: the model reads it there."""


def saliences(
    content: ContentText,
    runs: Sequence[slice],
    query: Query | None,
    forced: Bool[Tensor, " tokens"],
    information: Information,
    opening: float | None,
    engine: TransformersEngine | None,
) -> list[Salience]:
    """Salience of each stretch of content.

    Raises:
        ValueError: surprisal or attention without an engine, or surprisal of a prompt beyond its context.
    """
    if information != "vocabulary" and engine is None:
        raise ValueError(f"information={information!r} needs a model: pass engine=TransformersEngine(...)")
    passages = [content.passage(run) for run in runs]
    values = _INFORMATION[information](content, passages, engine)
    separators = Separators.of(content.space)
    found = []
    for passage, own in zip(passages, values, strict=True):
        relevance = _relevance(content, passage, query)
        share = opening
        if share is None:
            by_text = information == "vocabulary" and relevance is None
            share = opening_share(passage.ids, passage.units) if by_text else 0.0
        discount = _ASKED_DISCOUNT if query is not None and bool(query.rows.any()) else 0.0
        found.append(Salience(passage, own, forced[passage.rows], share, separators, relevance, discount))
    return found


def _relevance(content: ContentText, passage: Passage, query: Query | None) -> Relevance | None:
    if query is None:
        return None
    space = content.space
    rows = content.prompt.vectors[passage.rows]
    terms = Terms.of(passage.units, passage.ids, rows, space.mean, space.vocab_size)
    found = Relevance.of(terms, query.terms, passage.units, query.cosines)
    return found if found.is_match else None


class Separators(NamedTuple):
    """Rows of what parts units that did not stand side by side."""

    space: Float[Tensor, "space hidden"]
    line_break: Float[Tensor, "break hidden"]

    @classmethod
    def of(cls, space: EmbeddingSpace) -> Separators:
        """The rows of a space and of a line break, each replaced by the other where that is shorter or the only one
        that the vocabulary has."""
        blank, line = (space.tokenize(text) for text in (" ", "\n"))
        shown = [ids for ids in (blank, line) if RowText.of(space, ids).text.isspace()]
        return cls(
            space.lookup(min(shown, key=len, default=blank)), space.lookup(line if line in shown else blank)
        )

    @property
    def size(self) -> int:
        """Rows of the longer one."""
        return max(map(len, self))


def _vocabulary(
    content: ContentText, passages: Sequence[Passage], engine: TransformersEngine | None
) -> list[Float[Tensor, " rows"]]:
    return [token_information(content.space, passage.ids, passage.units) for passage in passages]


def _surprisal(
    content: ContentText, passages: Sequence[Passage], engine: TransformersEngine
) -> list[Float[Tensor, " rows"]]:
    # Rows after the content change nothing; without them, a passage is scored once for all questions.
    found = surprisal(content.prompt.vectors[: passages[-1].rows.stop], content.space, engine)
    return [found[passage.rows] for passage in passages]


def _attention(
    content: ContentText, passages: Sequence[Passage], engine: TransformersEngine
) -> list[Float[Tensor, " rows"]]:
    found = []
    for passage in passages:
        seen = copy_attention(content.prompt.vectors[passage.rows], content.space, engine)
        rarity = token_information(content.space, passage.ids, passage.units)
        found.append(_standardised(seen) + _standardised(rarity))
    return found


def _standardised(values: Float[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    if len(values) < 2:
        return torch.zeros_like(values)
    return (values - values.mean()) / values.std().clamp_min(1e-12)


_INFORMATION: dict[Information, Callable[..., list[Float[Tensor, " rows"]]]] = {
    "vocabulary": _vocabulary,
    "surprisal": _surprisal,
    "attention": _attention,
}


@dataclass(frozen=True, eq=False)
class Salience:
    """What salience knows of a passage."""

    passage: Passage
    information: Float[Tensor, " rows"]
    """Of each row, in nats, or in standard deviations."""
    forced: Bool[Tensor, " rows"]
    """Rows that are kept whatever they are worth."""
    opening: float
    """Share of the rows kept that the first informative units get."""
    separators: Separators
    """What is put between units that would read as one."""
    relevance: Relevance | None
    """To a query; None where there is none, or nothing of it stands in the passage."""
    asked_discount: float = 0.0
    """Share of its information that a word of the question loses."""

    def kept(self, vectors: Float[Tensor, "tokens hidden"], length: int) -> Float[Tensor, "kept hidden"]:
        """The rows of the prompt that are left of the passage, with the separators that it does not have.

        Raises:
            ValueError: more rows are forced than fit.
        """
        own = vectors[self.passage.rows]
        rows = torch.tensor(self.rows(length))
        if bool((rows >= 0).all()):
            return own[rows]
        inserted = {
            INSERTED: self.separators.space.to(own),
            INSERTED_BREAK: self.separators.line_break.to(own),
        }
        return torch.cat([inserted[row] if row < 0 else own[row, None] for row in rows.tolist()])

    def rows(self, length: int) -> list[int]:
        """At most ``length`` rows, in order; the shortest unit where none fits.

        Raises:
            ValueError: more rows are forced than fit.
        """
        units, passage = self.passage.units, self.passage
        together = negated(passage.ids, units)
        size = self.separators.size
        selection = UnitSelection(units, passage.before, passage.after, size, together)
        forced = self._forced_units()
        for unit in forced:
            selection.add(unit)
        if selection.size > length:
            raise ValueError(
                f"keep marks words that take {selection.size} rows with what parts them, and {length} are left of the "
                f"{len(passage.ids)} rows of their message; keep less, or give a lower ratio or a greater length"
            )
        selection.add_in_order((each for unit in forced for each in together.get(unit, ())), length)
        if self.relevance is not None:
            self._add_relevant(selection, length)
        else:
            selection.add_in_order(self._opening_units(round(self.opening * length)), length)
        ranked = self._ranked(range(len(units)))
        fillers = {unit for unit in ranked if self.scores[unit] == 0 and not units.is_word[unit]}
        selection.add_in_order((unit for unit in ranked if unit not in fillers), length)
        # Of signs and space, those beside a word that is kept; of a text that has nothing else, all.
        # Space only between two that are kept: beside a gap there is a separator already.
        kept = {-1, len(units), *selection.kept}
        fillers &= {
            unit
            for unit in fillers
            if not selection.kept or (unit - 1 in kept) + (unit + 1 in kept) > units.texts[unit].isspace()
        }
        selection.add_in_order((unit for unit in ranked if unit in fillers), length)
        if not selection.kept:
            selection.add(
                min(
                    range(len(units)),
                    key=lambda unit: (unit in together, units.sizes[unit], -self.scores[unit]),
                )
            )
        return selection.rows()

    @cached_property
    def scores(self) -> list[float]:
        """Mean information of each unit's rows."""
        sizes = torch.tensor(self.passage.units.sizes)
        numbers = torch.arange(len(sizes)).repeat_interleave(sizes)
        sums = torch.zeros(len(sizes), dtype=torch.float64).index_add_(0, numbers, self.information.double())
        found: list[float] = (sums / sizes).tolist()
        return found

    def _ranked(self, units: Iterable[int]) -> list[int]:
        return sorted(units, key=lambda unit: -self.scores[unit])

    def _forced_units(self) -> list[int]:
        marked = self.forced.cumsum(0).tolist()
        marked = [0, *marked]
        rows = self.passage.units.rows
        return [unit for unit in range(len(rows) - 1) if marked[rows[unit + 1]] > marked[rows[unit]]]

    def _opening_units(self, rows: int) -> list[int]:
        """The first informative units, until they fill ``rows`` rows."""
        units, found, size = self.passage.units, [], 0
        for unit, informative in enumerate(is_informative(self.passage.ids, units)):
            if size >= rows:
                break
            if informative:
                found.append(unit)
                size += units.sizes[unit]
        return found

    def _add_relevant(self, selection: UnitSelection, length: int) -> None:
        """Sentences by relevance, each whole if it fits, else its most informative units."""
        assert self.relevance is not None
        members: dict[int, list[int]] = {}
        for unit, sentence in enumerate(self.relevance.sentences):
            members.setdefault(sentence, []).append(unit)
        asked, size = self.relevance.asked, self.separators.size
        for sentence in self.relevance.order():
            if selection.size >= length:
                return
            units = members[sentence]
            rows = self.passage.units.rows
            if rows[units[-1] + 1] - rows[units[0]] + 2 * size <= length - selection.size:
                selection.add_in_order(units, length)
            else:
                least = min(self.scores[unit] for unit in units)
                scores = {
                    unit: (self.scores[unit] - least) * (1 - self.asked_discount * asked[unit])
                    for unit in units
                }
                selection.add_in_order(sorted(units, key=lambda unit: -scores[unit]), length)
