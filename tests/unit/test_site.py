"""The documentation's tree: pages are in the navigation, links lead somewhere, the reference covers the code.

What needs Sphinx is checked by `make docs`, where warnings are errors.
"""

import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
sys.path.insert(0, str(DOCS / "_ext"))

import api_reference  # noqa: E402
import command_reference  # noqa: E402
import config_reference  # noqa: E402
from repository_pages import PAGES, rewrite_links  # noqa: E402

WRITTEN = sorted(
    str(path.relative_to(DOCS).with_suffix(""))
    for path in DOCS.rglob("*.md")
    if path.relative_to(DOCS).parts[0] not in ("reference", "_ext", "_static")
)
"""Pages in the repository, less those that are made from the code."""


def in_navigation():
    """Entries of all toctrees of index.md."""
    trees = re.findall(
        r"^```\{toctree\}\n(.*?)^```", (DOCS / "index.md").read_text(), re.DOTALL | re.MULTILINE
    )
    lines = [line for tree in trees for line in tree.splitlines() if line and not line.startswith(":")]
    return [re.sub(r"^.* <(.*)>$", r"\1", line) for line in lines]


def test_every_page_is_in_the_navigation_once():
    entries = [entry for entry in in_navigation() if not entry.startswith("reference/")]
    assert sorted(entries) == sorted(set(WRITTEN) - {"index"})


def test_the_navigation_leads_to_the_pages_that_are_made_from_the_code():
    made = [entry for entry in in_navigation() if entry.startswith("reference/")]
    assert made == ["reference/api/index", "reference/commands", "reference/configuration/index"]


@pytest.mark.parametrize("name", WRITTEN)
def test_every_link_of_a_page_leads_to_a_file(name):
    page = DOCS / f"{name}.md"
    rewrite_links(page.read_text(), page, page.parent)


@pytest.mark.parametrize("name", PAGES)
def test_a_page_of_the_repository_is_shown_with_links_from_where_it_is_shown(name):
    shown = rewrite_links((ROOT / name).read_text(), ROOT / name)
    outside_code = re.sub(r"^ *```.*?^ *```$", "", shown, flags=re.DOTALL | re.MULTILINE)
    targets = [link for link in re.findall(r"\]\(([^()\s]+)\)", outside_code) if "://" not in link]
    assert not [link for link in targets if not (DOCS / link.partition("#")[0]).exists()]


def test_a_link_to_nothing_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="nowhere"):
        rewrite_links("[x](nowhere.md)", DOCS / "index.md")


def test_the_reference_has_every_public_name_every_command_and_every_setting():
    import embedspace

    text = "".join(api_reference.pages().values())
    assert all(f":: embedspace.{name}\n" in text for name in api_reference.public_names())
    assert set(api_reference.public_names()) == {name for name in embedspace.__all__ if name[0] != "_"}
    commands = command_reference.page()
    assert {"## models", "## gateway", "## distill"} <= set(commands.splitlines())
    pages = config_reference.pages()
    files = sum(len(paths) for paths in config_reference.groups().values())
    assert (
        sum(text.count("\n## ") for text in pages.values())
        == files
        == len([*(ROOT / "configs").rglob("*.yaml")])
    )
