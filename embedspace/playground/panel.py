"""Panel: what the page shows of a view, made without a forward pass of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from embedspace.playground.code import python_code
from embedspace.playground.hydra_command import HydraCommand, hydra_command
from embedspace.space import kept_rows, match_tokens, strip_of_rows

if TYPE_CHECKING:
    from embedspace.playground.applied import Applied, Workbench
    from embedspace.playground.engines import EngineChoice
    from embedspace.playground.view import View
    from embedspace.prompt import PromptEmbeds, TokenStrip
    from embedspace.space import EmbeddingSpace

_AT_ONCE = 4
"""Moved rows whose nearest words are found before the page is answered; each takes milliseconds."""


@dataclass(frozen=True)
class Panel:
    """The strips, the numbers and the programs of a view."""

    base: TokenStrip | None
    """The conversation before it was moved, what compression drops marked; None where nothing is moved."""
    moved: TokenStrip
    words_follow: bool
    """Whether the words of the moved strip are those that its rows come from, and not yet the nearest ones."""
    dropped: int
    rows: int
    base_rows: int
    content: int
    moves: Sequence[str]
    digest: str
    python: str
    hydra: HydraCommand
    query: str


def make_panel(bench: Workbench, view: View, engine: EngineChoice) -> Panel:
    """The panel of a view; nearest words of many moved rows are left to :func:`nearest_words`.

    Raises:
        ValueError: as :meth:`Workbench.apply`.
    """
    space, applied = bench.materials.space, bench.apply(view)
    base = bench.once((view.user, view.system, view.soft, "strip"), lambda: _strip(space, applied.base))
    dropped = 0
    if applied.shortened is not applied.base:
        kept = kept_rows(space, applied.base, applied.shortened)
        base = replace(
            base, rows=tuple(replace(row, dropped=not own) for row, own in zip(base.rows, kept, strict=False))
        )
        dropped = len(kept) - sum(kept)
    origins = _origins(space, applied)
    follow = origins is not None
    moved = strip_of_rows(space, applied.moved.vectors, applied.moved.content, origins)
    return Panel(
        base if view.moves else None,
        moved,
        follow,
        dropped,
        len(applied.moved),
        len(applied.base),
        int(applied.moved.content.sum()),
        view.moves,
        applied.moved.recipe.digest,
        python_code(bench, view, engine),
        hydra_command(view, space, engine),
        view.query,
    )


def nearest_words(bench: Workbench, view: View) -> TokenStrip:
    """The strip of the moved prompt with the nearest word of each row; takes milliseconds a moved row.

    Raises:
        ValueError: as :meth:`Workbench.apply`.
    """
    applied = bench.apply(view)
    return bench.once((view, "words"), lambda: _strip(bench.materials.space, applied.moved))


def _strip(space: EmbeddingSpace, prompt: PromptEmbeds) -> TokenStrip:
    return strip_of_rows(space, prompt.vectors, prompt.content)


def _origins(space: EmbeddingSpace, applied: Applied) -> list[int] | None:
    """For each moved row the token that it comes from; None where the nearest ones are found at once."""
    before, after = applied.shortened, applied.moved
    if after is before or int((after.content).sum()) <= _AT_ONCE:
        return None
    tokens = match_tokens(space, before.vectors).ids.tolist()
    if len(before) == len(after):
        changed = int((before.vectors != after.vectors).any(dim=1).sum())
        return None if changed <= _AT_ONCE else tokens
    # An interpolation between lengths: each run of content is stretched evenly.
    found: list[int] = []
    position = 0
    for run, new in zip(before.content_runs, after.content_runs, strict=True):
        found += tokens[position : run.start]
        size = new.stop - new.start
        found += [tokens[run.start + row * (run.stop - run.start) // size] for row in range(size)]
        position = run.stop
    return found + tokens[position:]
