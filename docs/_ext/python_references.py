"""References to Python names as docstrings write them: short, by the class alone, or to what has no page."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from sphinx.util.nodes import make_refnode

if TYPE_CHECKING:
    from docutils.nodes import Element
    from sphinx.addnodes import pending_xref
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

PACKAGE = Path(__file__).resolve().parents[2] / "embedspace"


@cache
def defined_names() -> frozenset[str]:
    """Names of all classes, functions and type variables in the package, documented or not."""
    names = set()
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef | ast.FunctionDef):
                names.add(node.name)
            elif isinstance(node, ast.Assign):
                names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    return frozenset(names)


def resolve(app: Sphinx, env: BuildEnvironment, node: pending_xref, shown: Element) -> Element | None:
    """A link to the only page that a name can mean; its text, where the name has no page; None where nothing has it."""
    if node.get("refdomain") != "py":
        return None
    wanted = str(node["reftarget"])
    last = wanted.rpartition(".")[2]
    objects = env.domaindata["py"]["objects"]
    short = wanted if not wanted.startswith("embedspace.") else last
    found = {name: each for name, each in objects.items() if name.endswith(f".{short}")}
    places = {(each.docname, each.node_id) for each in found.values()}
    if len(places) == 1:
        page, anchor = places.pop()
        return make_refnode(app.builder, node["refdoc"], page, anchor, [shown.deepcopy()], wanted)
    return shown if last in defined_names() else None


_attributes: dict[str, list[str]] = {}


def _keep_attribute(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """Before napoleon, which reads ``Identity by content: hash of ...`` as the type of an attribute and its text."""
    if what in ("attribute", "data", "property") and not any(line.endswith(":") for line in lines):
        _attributes[name] = list(lines)


def _restore_attribute(
    app: Sphinx, what: str, name: str, value: object, options: object, lines: list[str]
) -> None:
    """After napoleon."""
    if name in _attributes:
        lines[:] = _attributes.pop(name)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("missing-reference", resolve)
    app.connect("autodoc-process-docstring", _keep_attribute, priority=400)
    app.connect("autodoc-process-docstring", _restore_attribute, priority=600)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
