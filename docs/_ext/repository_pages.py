"""Pages at the top of the repository (README.md and others), shown as pages of docs/ with links that lead there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sphinx.application import Sphinx

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = {
    "README.md": "start.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""File at the top of the repository -> the page of docs/ that includes it."""
_LINK = re.compile(r"(!?\[(?:[^\[\]]|\[[^\]]*\])*\])\(([^()\s]+)\)")


def rewrite_links(text: str, page: Path, place: Path = DOCS) -> str:
    """The text of a page with its links made relative to ``place``; a link to a file that is no page becomes its text.

    Args:
        text: Markdown.
        page: the file that it comes from, to which its links are relative.
        place: folder of the page that shows it.

    Raises:
        ValueError: a link leads to a file that does not exist.
    """

    def rewritten(link: re.Match[str]) -> str:
        label, target = link[1], link[2]
        path, hash_sign, anchor = target.partition("#")
        if not path or re.match(r"[a-z]+:", target):
            return link[0]
        aimed = (page.parent / path).resolve()
        if not aimed.exists():
            raise ValueError(f"{page} links to {target}, which does not exist")
        if aimed.parent == ROOT and aimed.name in PAGES:
            aimed = DOCS / PAGES[aimed.name]
        elif DOCS not in aimed.parents:
            return label.lstrip("!")[1:-1]
        return f"{label}({os.path.relpath(aimed, place)}{hash_sign}{anchor})"

    blocks = re.split(r"(^ *```.*?^ *```$)", text, flags=re.DOTALL | re.MULTILINE)
    return "".join(
        block if number % 2 else _LINK.sub(rewritten, block) for number, block in enumerate(blocks)
    )


def _included(app: Sphinx, relative_path: Path, parent: str, content: list[str]) -> None:
    page = (DOCS / relative_path).resolve()
    if page.parent == ROOT:
        content[0] = rewrite_links(content[0], page)


def _read(app: Sphinx, document: str, content: list[str]) -> None:
    page = Path(app.env.doc2path(document))
    content[0] = rewrite_links(content[0], page, page.parent)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("include-read", _included)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
