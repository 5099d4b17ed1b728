"""The shape that experiments share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from embedspace.runs import Case, Record

if TYPE_CHECKING:
    from embedspace.reporting import Report
    from embedspace.space import EmbeddingSpace


@runtime_checkable
class Experiment(Protocol):
    """Asks and analyses; engines, folders and resuming are the business of :func:`embedspace.runs.execute`.

    ``cases`` yields the same cases in every process. ``analyse`` gets the records without error: of all cases or,
    where some failed, of fewer.
    """

    def cases(self, space: EmbeddingSpace) -> Iterable[Case]:
        """What to ask, in order."""
        ...

    def analyse(self, records: Sequence[Record]) -> Report:
        """Tables, figures and findings from the records."""
        ...
