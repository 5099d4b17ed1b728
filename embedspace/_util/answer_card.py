"""An answer of a model as it is shown in reports, in the playground and in notebooks: a label, a note, and the text."""

from __future__ import annotations

from html import escape

from embedspace._util.package_files import package_text


def answer_card(label: str, body: str, *, note: str = "", name: str = "") -> str:
    """HTML of one answer; the style sheet is :func:`answer_style`.

    >>> answer_card("<Plain>", "<p>Yes.</p>")
    '<div class="answer-card"><h3 class="label">&lt;Plain&gt; <span class="note"></span></h3><p>Yes.</p></div>'

    Args:
        label: what was asked, or how; escaped here.
        body: HTML of the answer, escaped already.
        note: beside the label; escaped here.
        name: by which a script finds the card.
    """
    found = f' data-card="{escape(name)}"' if name else ""
    head = f'<h3 class="label">{escape(label)} <span class="note">{escape(note)}</span></h3>'
    return f'<div class="answer-card"{found}>{head}{body}</div>'


def answer_style() -> str:
    """The cards' style sheet."""
    return package_text("embedspace._util", "answer_card.css")
