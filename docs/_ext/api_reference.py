"""A page for each room of embedspace, with what it exports, and an overview."""

from __future__ import annotations

import ast
import importlib
import inspect
import itertools
import re
from pathlib import Path
from types import ModuleType

PACKAGE = Path(__file__).resolve().parents[2] / "embedspace"


def rooms() -> list[str]:
    """Names of the rooms that have a public face."""
    return sorted(
        path.parent.name for path in PACKAGE.glob("*/__init__.py") if not path.parent.name.startswith("_")
    )


def public_names() -> dict[str, str]:
    """What ``embedspace`` exports -> the room that it comes from."""
    import embedspace

    return {
        name: getattr(embedspace, name).__module__.split(".")[1]
        for name in embedspace.__all__
        if not name.startswith("__")
    }


def pages() -> dict[str, str]:
    """File name -> MyST text."""
    public = public_names()
    texts = {f"{room}.md": _room_page(room, public) for room in rooms()}
    return {"index.md": _overview(public), **texts, "errors.md": _errors_page()}


def first_line(docstring: str | None) -> str:
    """The first paragraph of a docstring as one line of Markdown."""
    text = " ".join((docstring or "").strip().split("\n\n")[0].split())
    return text.replace("``", "`")


def _overview(public: dict[str, str]) -> str:
    import embedspace

    names = "\n".join(
        f"| {{py:obj}}`embedspace.{name}` | {_without_roles(getattr(embedspace, name).__doc__)} |"
        for name in sorted(public)
    )
    listed = "\n".join([*rooms(), "errors"])
    return f"""# Python API

The names below are imported from `embedspace`. Each folder of the package, a *room*, exports more; the pages of the
rooms list everything, with shapes, errors and examples that are run as tests.

| name | what it is |
| --- | --- |
{names}

## Rooms

```{{toctree}}
:maxdepth: 1

{listed}
```
"""


def _without_roles(docstring: str | None) -> str:
    """The first line, with roles such as :class:`Name` as code."""
    return re.sub(r":\w+:`~?([^`]+)`", r"`\1`", first_line(docstring))


def _room_page(room: str, public: dict[str, str]) -> str:
    module = importlib.import_module(f"embedspace.{room}")
    directives = [
        f"```{{eval-rst}}\n{_directive(module, name, public)}\n```"
        for name in module.__all__
        if _is_documented_here(module, name, room)
    ]
    return "\n\n".join([f"# {room}", _without_roles(module.__doc__), *directives]) + "\n"


def _is_documented_here(module: ModuleType, name: str, room: str) -> bool:
    """Whether a name of a room's face is its own, and not one of another room that it passes on."""
    value = getattr(module, name)
    home = getattr(value, "__module__", module.__name__)
    return not inspect.ismodule(value) and home.split(".")[:2] in (
        ["embedspace", room],
        ["typing"],
        [module.__name__],
    )


def _directive(module: ModuleType, name: str, public: dict[str, str]) -> str:
    value = getattr(module, name)
    package = "embedspace" if name in public else module.__name__
    if inspect.isclass(value):
        kind = "autoexception" if issubclass(value, BaseException) else "autoclass"
        return f".. {kind}:: {package}.{name}"
    if inspect.isfunction(value):
        return f".. autofunction:: {package}.{name}"
    # autodata would show the docstring of dict or str where a constant has none of its own.
    text = " ".join(_constant_docstring(module, name).split())
    return f".. py:data:: {package}.{name}\n\n   {text}"


def _constant_docstring(module: ModuleType, name: str) -> str:
    """The string below a constant's assignment, in whichever file of the room that is; empty where there is none."""
    for path in sorted(Path(str(module.__file__)).parent.rglob("*.py")):
        for node, after in itertools.pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
            if not any(isinstance(target, ast.Name) and target.id == name for target in targets):
                continue
            if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                return str(after.value.value)
    return ""


def _errors_page() -> str:
    from embedspace import errors

    names = [name for name, value in vars(errors).items() if inspect.isclass(value)]
    directives = "\n\n".join(f".. autoexception:: embedspace.errors.{name}" for name in names)
    return f"# errors\n\n{errors.__doc__.replace('``', '`')}\n\n```{{eval-rst}}\n{directives}\n```\n"
