"""Settings of a Hydra node against the annotations of what it makes."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

_WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", NoneType: "null"}


def require_types(node: object, key: str) -> None:
    """Refuse a setting whose value is of another type than the class or function in ``_target_`` takes.

    Numbers, text, truth values, their sequences, unions and ``Literal`` are compared; any other type is left to what is
    made.

    >>> require_types({"_target_": "embedspace.engines.Sampling", "max_tokens": "many"}, "sampling")
    Traceback (most recent call last):
        ...
    ValueError: sampling.max_tokens is 'many'; it must be a whole number

    Args:
        node: a configuration as plain values.
        key: of the node, for the error.

    Raises:
        ValueError: the first such setting, what it is and what it must be.
    """
    if isinstance(node, Sequence) and not isinstance(node, str):
        for number, part in enumerate(node):
            require_types(part, f"{key}[{number}]")
    if not isinstance(node, Mapping):
        return
    for name, value in node.items():
        require_types(value, f"{key}.{name}")
    if "_target_" not in node:
        return
    for name, kind in _annotations(str(node["_target_"])):
        if name in node and not _fits(node[name], kind):
            raise ValueError(f"{key}.{name} is {node[name]!r:.100}; it must be {_words(kind)}")


def _annotations(target: str) -> Iterator[tuple[str, Any]]:
    """Parameters or fields with their types; those whose types are imported for type checkers alone are left out."""
    from hydra.utils import get_object

    try:
        made = get_object(target)
    except ImportError:  # Hydra says so as it makes it
        return
    for owner in reversed(made.__mro__) if isinstance(made, type) else [made]:
        for name, written in getattr(owner, "__annotations__", {}).items():
            with suppress(NameError):
                holder = type("holder", (), {"__annotations__": {name: written}})
                yield name, get_type_hints(holder, vars(sys.modules[owner.__module__]))[name]


def _fits(value: object, kind: Any) -> bool:
    if isinstance(value, Mapping) and "_target_" in value:
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if kind in (int, float):
        return isinstance(value, (int, kind)) and not isinstance(value, bool)
    if kind in _WORDS:
        return isinstance(value, kind)
    if origin is Literal:
        return value in inner
    if origin in (Union, UnionType):
        return any(_fits(value, each) for each in inner)
    if origin is Sequence:
        return (
            isinstance(value, Sequence)
            and not isinstance(value, str)
            and all(_fits(each, inner[0]) for each in value)
        )
    return True


def _words(kind: Any) -> str:
    """The allowed values of a type."""
    inner = get_args(kind)
    if get_origin(kind) is Literal:
        return " or ".join(map(repr, inner))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(each) for each in inner)
    if get_origin(kind) is Sequence:
        return f"a list, each {_words(inner[0])}"
    return _WORDS.get(kind, getattr(kind, "__name__", str(kind)))
