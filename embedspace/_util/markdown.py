"""Markdown, for the pages of ``docs/`` and the cards beside weights."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    r"""A Markdown table, its last line end included; a ``|`` inside a cell is escaped.

    >>> print(markdown_table(["method", "recall"], [["average", "0.91"], ["a|b", 3]]), end="")
    | method | recall |
    | --- | --- |
    | average | 0.91 |
    | a\|b | 3 |

    Raises:
        ValueError: a row is longer or shorter than the header.
    """
    body = [list(row) for row in rows]
    if uneven := [row for row in body if len(row) != len(header)]:
        raise ValueError(
            f"the table has {len(header)} columns and a row of {len(uneven[0])} cells: {uneven[0]}"
        )
    lines = [header, ["---"] * len(header), *body]
    return "".join(
        f"| {' | '.join(str(cell).replace('|', chr(92) + '|') for cell in line)} |\n" for line in lines
    )
