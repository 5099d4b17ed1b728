"""Questions about real code: functions of Python's standard library and of packages in the tested environment."""

from __future__ import annotations

import ast
import importlib.util
import os
import textwrap
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from experiments.compression.items import Item, Split, number_of, picked

CODE = "code"
_PACKAGES = ("click", "jinja2", "networkx", "omegaconf", "pycparser", "requests")
"""Whose functions are for development; those of the standard library are for the test."""
_CHARACTERS = range(260, 760)
"""Length of a function with its comments."""
_ANSWER_CHARACTERS = range(4, 41)
_GUESSED = ("None", "True", "False")
"""Answers that need no passage."""


def functions(split: Split) -> Iterator[Item]:
    """A question about one function of each file, then about a second one of each; files are clusters."""
    second: list[Item] = []
    for path in sorted(_files(split), key=lambda path: number_of(_name(path))):
        try:
            source = path.read_text(encoding="utf-8")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
        nodes.sort(key=lambda node: number_of(node.name))
        lines = source.split("\n")
        made = (item for node in nodes if (item := _item(lines, node, path)) is not None)
        yield from islice(made, 1)
        second += islice(made, 1)
    yield from second


def _files(split: Split) -> list[Path]:
    if split == "test":
        folder = Path(os.__file__).parent
        return [*folder.glob("*.py"), *(path for room in ("asyncio", "email", "http", "json", "logging", "xml")
                for path in (folder / room).rglob("*.py"))]  # fmt: skip
    found = []
    for name in _PACKAGES:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.origin is not None:
            found += [path for path in Path(spec.origin).parent.rglob("*.py") if path.parent.name != "tests"]
    return found


def _name(path: Path) -> str:
    """The end of a path, which is the same wherever packages are installed."""
    return "/".join(path.parts[-3:])


def _item(lines: Sequence[str], node: ast.FunctionDef, path: Path) -> Item | None:
    text = textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno]))
    if len(text) not in _CHARACTERS or not text.isascii():
        return None
    asked = [
        (question, beginning, answer)
        for question, beginning, answer in (*_assigned(node), *_defaults(node), *_returned(node), *_messages(node))
        if len(answer) in _ANSWER_CHARACTERS and answer not in _GUESSED and text.count(answer) == 1
    ]  # fmt: skip
    if not asked:
        return None
    question, beginning, answer = picked(asked, f"{path.name}/{node.name}")
    return Item(
        text=text, question=question, beginning=beginning, answer=f" {answer}", task=CODE,
        cluster=f"{CODE}/{_name(path)}", strings=[answer],
    )  # fmt: skip


Asked = Iterator[tuple[str, str, str]]


def _assigned(node: ast.FunctionDef) -> Asked:
    """Names that are assigned once, to something that is not a bare name."""
    assigned: dict[str, list[ast.expr]] = {}
    for inner in ast.walk(node):
        if (
            isinstance(inner, ast.Assign)
            and len(inner.targets) == 1
            and isinstance(inner.targets[0], ast.Name)
        ):
            assigned.setdefault(inner.targets[0].id, []).append(inner.value)
    for name, values in assigned.items():
        if len(values) == 1 and not isinstance(values[0], ast.Name):
            yield f"What is assigned to `{name}` in this function?", f"{name} =", ast.unparse(values[0])


def _defaults(node: ast.FunctionDef) -> Asked:
    """Parameters with a default."""
    positional = [*node.args.posonlyargs, *node.args.args]
    named = positional[len(positional) - len(node.args.defaults) :]
    for argument, value in zip(named, node.args.defaults, strict=True):
        if ast.unparse(value) not in _GUESSED:
            question = f"Which value does the parameter `{argument.arg}` have unless it is given?"
            yield question, f"By default, {argument.arg} =", ast.unparse(value)


def _returned(node: ast.FunctionDef) -> Asked:
    """What a function with one return gives back."""
    returns = [inner for inner in ast.walk(node) if isinstance(inner, ast.Return) and inner.value is not None]
    if len(returns) == 1 and not isinstance(returns[0].value, (ast.Name, ast.Constant)):
        assert returns[0].value is not None
        yield f"What does `{node.name}` give back?", "return", ast.unparse(returns[0].value)


def _messages(node: ast.FunctionDef) -> Asked:
    """Messages of exceptions."""
    for inner in ast.walk(node):
        if isinstance(inner, ast.Raise) and isinstance(inner.exc, ast.Call) and inner.exc.args:
            message = inner.exc.args[0]
            if isinstance(message, ast.Constant) and isinstance(message.value, str) and " " in message.value:
                kind = ast.unparse(inner.exc.func)
                yield f"What is the message of the {kind}?", f"The {kind} says:", message.value
