"""Writes the reference (API, commands, configuration) into docs/reference/ before Sphinx looks for pages."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import api_reference
import command_reference
import config_reference

if TYPE_CHECKING:
    from sphinx.application import Sphinx


def write_pages(folder: Path) -> None:
    """Replace the pages of a folder; a page that is the same is not touched, so that Sphinx does not read it again."""
    pages = {
        **{f"api/{name}": text for name, text in api_reference.pages().items()},
        "commands.md": command_reference.page(),
        **{f"configuration/{name}": text for name, text in config_reference.pages().items()},
    }
    for path in folder.rglob("*.md"):
        if str(path.relative_to(folder)) not in pages:
            path.unlink()
    for name, text in pages.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.is_file() or path.read_text() != text:
            path.write_text(text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("builder-inited", lambda app: write_pages(Path(app.srcdir) / "reference"))
    return {"parallel_read_safe": True, "parallel_write_safe": True}
