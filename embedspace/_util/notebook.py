"""HTML of a value as a notebook shows it: escaped text in one block, with its own small style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def block(body: str, *, style: str = "") -> str:
    """HTML of one value; ``body`` is escaped already, ``style`` is a style sheet for it.

    >>> block("<p>2 rows</p>")
    '<div class="embedspace"><p>2 rows</p></div>'
    """
    sheet = f"<style>{style}</style>" if style else ""
    return f'<div class="embedspace">{sheet}{body}</div>'


def facts(title: str, values: Mapping[str, object]) -> str:
    """A heading and a line of names and values, escaped.

    >>> facts("StyleVector", {"norm": 4.5})
    '<p class="facts"><b>StyleVector</b> norm 4.5</p>'
    """
    shown = " · ".join(f"{escape(name)} {escape(str(value))}" for name, value in values.items())
    return f'<p class="facts"><b>{escape(title)}</b> {shown}</p>'


def table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of texts, escaped.

    >>> table(["word"], [["<b>"]])
    '<table><thead><tr><th scope="col">word</th></tr></thead><tbody><tr><td>&lt;b&gt;</td></tr></tbody></table>'
    """
    head = "".join(f'<th scope="col">{escape(each)}</th>' for each in columns)
    body = "".join("<tr>" + "".join(f"<td>{escape(each)}</td>" for each in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
