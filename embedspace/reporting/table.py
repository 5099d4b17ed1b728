"""Tables of reports, as CSV and as Markdown, and how their numbers are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace

from embedspace._util.markdown import markdown_table
from embedspace.metrics import Interval

Cell = str | int | float | Interval | None
"""What a table shows; None, where nothing was measured, as an empty cell."""


@dataclass(frozen=True)
class Table:
    """Measures in rows and columns; numbers are rounded to ``digits`` when they are shown."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    caption: str
    digits: int = 2

    @property
    def title(self) -> str:
        """The first sentence of the caption.

        >>> Table([], [], "Shares of 0.5 and more. Means over questions.").title
        'Shares of 0.5 and more.'
        """
        first, stop, _ = self.caption.partition(". ")
        return first + stop.strip()

    def filled(self) -> Table:
        """The table without the columns in which nothing was measured."""
        kept = [
            column
            for column in range(len(self.columns))
            if any(row[column] not in ("", None) for row in self.rows)
        ]
        rows = [[row[column] for column in kept] for row in self.rows]
        return replace(self, columns=[self.columns[column] for column in kept], rows=rows)

    def turned(self) -> Table:
        """The table with its rows as columns: for few rows of many columns."""
        first, *others = self.columns
        rows = [[name, *(row[place] for row in self.rows)] for place, name in enumerate(others, start=1)]
        return replace(self, columns=[first, *(str(row[0]) for row in self.rows)], rows=rows)

    def to_csv(self) -> str:
        r"""The table as CSV with all digits; an interval fills columns for the estimate, its bounds and its items.

        >>> Table(["method", "recall"], [["average", Interval(0.9, 0.8, 1.0, 12)]], "Recall.").to_csv()
        'method,recall,recall low,recall high,recall n\r\naverage,0.9,0.8,1.0,12\r\n'
        """
        ranged = {
            place
            for place in range(len(self.columns))
            if any(isinstance(row[place], Interval) for row in self.rows)
        }
        written = io.StringIO()
        out = csv.writer(written)
        out.writerow(
            name
            for place, column in enumerate(self.columns)
            for name in ([column, *(f"{column} {what}" for what in _PARTS)] if place in ranged else [column])
        )
        for row in self.rows:
            out.writerow(part for place, cell in enumerate(row) for part in _values(cell, place in ranged))
        return written.getvalue()

    def to_markdown(self) -> str:
        """The table as Markdown, without its caption; an interval is shown as ``estimate (low to high)``.

        >>> print(Table(["method", "recall"], [["average", 0.9]], "Recall at ratio 4.").to_markdown(), end="")
        | method | recall |
        | --- | --- |
        | average | 0.90 |
        """
        shown = [
            [
                f"{cell:.{self.digits}f}"
                if isinstance(cell, Interval | float)
                else ""
                if cell is None
                else cell
                for cell in row
            ]
            for row in self.rows
        ]
        return markdown_table(self.columns, shown)


_PARTS = ("low", "high", "n")
"""What follows an estimate in a CSV file."""


def _values(cell: Cell, ranged: bool) -> list[object]:
    """A cell as the values of its columns in a CSV file."""
    if not ranged:
        return ["" if cell is None else cell]
    if not isinstance(cell, Interval):
        return ["" if cell is None else cell, *[""] * len(_PARTS)]
    bounds = [cell.low, cell.high] if cell.known else ["", ""]
    return [cell.estimate, *bounds, cell.items]


def signed(value: float, digits: int = 2) -> str:
    """A number with its sign, as a sentence shows it.

    >>> signed(-0.5), signed(0.5, 1)
    ('−0.50', '+0.5')
    """
    return f"{value:+.{digits}f}".replace("-", "\u2212")


def unsigned(value: float, digits: int = 2) -> str:
    """A number whose sign is shown where it is negative, as a sentence and a table show it.

    >>> unsigned(-0.5), unsigned(0.5)
    ('−0.50', '0.50')
    """
    shown = f"{value:.{digits}f}"
    return shown.removeprefix("-") if float(shown) == 0 else shown.replace("-", "\u2212")


def counted(count: int, noun: str) -> str:
    """A number of things, as a sentence says it.

    >>> counted(1, "seed"), counted(5, "seed"), counted(12000, "record")
    ('1 seed', '5 seeds', '12,000 records')
    """
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
