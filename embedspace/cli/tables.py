"""Tables of a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.table import Table


def unabridged(table: Table) -> Table:
    """The same table; its long names are broken over lines instead of cut."""
    for column in table.columns:
        column.overflow = "fold"
    return table
