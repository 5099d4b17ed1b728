"""How a prompt was made: an immutable tree of operations and parameters."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Value = str | int | float | bool | None


@dataclass(frozen=True)
class Recipe:
    """One operation, its parameters, and the recipes of the prompts that went into it.

    Recipes are values: equal recipes on the same space describe bit-identical prompts. They are hashable and go
    through JSON unchanged.

    >>> recipe = Recipe.of("style", {"alpha": 0.8}, Recipe.of("embed", {"text": "Hello"}))
    >>> print(recipe)
    embed(text='Hello') > style(alpha=0.8)
    >>> Recipe.from_dict(recipe.to_dict()) == recipe
    True
    """

    operation: str
    """Name of the function that was applied, e.g. ``embed_chat`` or ``style``."""
    parameters: tuple[tuple[str, Value], ...] = ()
    """Sorted pairs of parameter name and plain value."""
    inputs: tuple[Recipe, ...] = ()
    """Recipes of the prompts that the operation took, in order."""

    @classmethod
    def of(cls, operation: str, parameters: Mapping[str, Value], *inputs: Recipe) -> Recipe:
        """A recipe with its parameters checked and sorted.

        Raises:
            TypeError: a parameter is not a string, number, boolean or None.
        """
        for name, value in parameters.items():
            if value is not None and not isinstance(value, str | int | float | bool):
                raise TypeError(
                    f"recipe parameter {name!r} of {operation!r} is a {type(value).__name__}; allowed are "
                    "str, int, float, bool and None (store a digest of anything larger)"
                )
        return cls(operation, tuple(sorted(parameters.items())), inputs)

    @property
    def digest(self) -> str:
        """Content hash (128 bits, hexadecimal) of the whole tree."""
        return hashlib.blake2b(
            json.dumps(self.to_dict(), sort_keys=True).encode(), digest_size=16
        ).hexdigest()

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries and lists, ready for ``json.dumps``."""
        return {
            "operation": self.operation,
            "parameters": dict(self.parameters),
            "inputs": [recipe.to_dict() for recipe in self.inputs],
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """The inverse of :meth:`to_dict`."""
        return cls.of(
            data["operation"], data["parameters"], *(cls.from_dict(item) for item in data["inputs"])
        )

    def __str__(self) -> str:
        shown = ", ".join(f"{name}={_short(value)}" for name, value in self.parameters)
        sources = " & ".join(str(recipe) for recipe in self.inputs)
        return f"{sources} > {self.operation}({shown})" if sources else f"{self.operation}({shown})"


def _short(value: Value) -> str:
    text = repr(value)
    return text if len(text) <= 48 else f"{text[:45]}..."
