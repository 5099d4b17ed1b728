"""CONTRIBUTING.md names what exists: paths, targets, rooms, and the names that its recipes import."""

import ast
import importlib
import re
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "CONTRIBUTING.md").read_text()
PROSE = re.sub(r"^ *```.*?^ *```", "", PAGE, flags=re.DOTALL | re.MULTILINE)
CREATED = set(re.findall(r"[Ww]rite `([^`]+)`", PROSE))
"""Files that a recipe tells the reader to write."""
NAMED = set(re.findall(r"`([\w.-]+/[\w./-]*)`", PROSE)) | set(re.findall(r"\]\(([^):]+)\)", PROSE))
PYTHON = [
    textwrap.dedent(code) for code in re.findall(r"^ *```python\n(.*?)^ *```", PAGE, re.DOTALL | re.MULTILINE)
]
OWN = {"embedspace", "experiments", "tests"}
ROOMS = sorted(path.parent.name for path in (ROOT / "embedspace").glob("*/__init__.py"))


def test_every_path_that_is_named_exists():
    assert len(CREATED) >= 10
    assert len(NAMED - CREATED) >= 20
    assert not [path for path in NAMED - CREATED if not (ROOT / path).exists()]


def test_every_make_target_that_is_named_exists():
    named = set(re.findall(r"(?:^|`)make ([a-z]+)", PAGE, re.MULTILINE))
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"check", "lint", "test"} <= named <= targets


@pytest.mark.parametrize("room", ROOMS)
def test_every_room_is_in_the_table_and_in_the_contract(room):
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract.get("containers") == ["embedspace"])
    assert room in re.findall(r"^\| `(\w+)` \|", PAGE, re.MULTILINE)
    assert room in re.findall(r"\w+", " ".join(layers))


def imported():
    """Module and name of each import of our own in the recipes, but for what the recipes themselves define."""
    trees = [node for code in PYTHON for node in ast.walk(ast.parse(code))]
    defined = {node.name for node in trees if isinstance(node, ast.ClassDef | ast.FunctionDef)}
    written = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in CREATED}
    for node in trees:
        if (
            isinstance(node, ast.ImportFrom)
            and node.module.split(".")[0] in OWN
            and node.module not in written
        ):
            yield from ((node.module, alias.name) for alias in node.names if alias.name not in defined)


@pytest.mark.parametrize(("module", "name"), sorted(set(imported())))
def test_what_the_recipes_import_is_there(module, name):
    assert hasattr(importlib.import_module(module), name)
