"""What a projector is made of, and for which pair of models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

HeadName = Literal["ridge", "linear", "mlp", "lexical"]

FILE_FORMAT = "embedspace.projector.v1"


@dataclass(frozen=True)
class ProjectorConfig:
    """Shape of a projector, and the identity of the two models that it stands between.

    Raises:
        ValueError: an unknown head, or a size below 1.
    """

    head: HeadName
    tokens: int
    """Soft tokens for each sentence."""
    features: int
    """Length of a sentence vector."""
    hidden_size: int
    """Length of a soft token."""
    encoder: str
    """Sentence encoder by name, and by content."""
    encoder_fingerprint: str
    space_name: str
    """Embedding space by name, and by content."""
    space: str
    options: Mapping[str, int] = field(default_factory=dict)
    """Sizes inside the head; each head documents its own."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """What it was trained on, and how."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """What was measured with these weights."""

    def __post_init__(self) -> None:
        if self.head not in get_args(HeadName):
            raise ValueError(f"unknown head {self.head!r}; the heads are {', '.join(get_args(HeadName))}")
        sizes = {name: getattr(self, name) for name in ("tokens", "features", "hidden_size")} | dict(
            self.options
        )
        for name, size in sizes.items():
            if not isinstance(size, int) or isinstance(size, bool) or size < 1:
                raise ValueError(f"{name} of a projector must be a whole number of at least 1, got {size!r}")

    def to_json(self) -> str:
        """The configuration as ``config.json`` holds it."""
        return json.dumps({"format": FILE_FORMAT, **asdict(self)}, indent=1, ensure_ascii=False) + "\n"

    @classmethod
    def from_file(cls, path: Path) -> Self:
        """The inverse of :meth:`to_json`.

        Raises:
            ValueError: no such file, or not a projector's configuration.
        """
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"{path.parent} holds no projector: it has no {path.name}") from None
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {error}; save the projector again") from error
        if not isinstance(values, dict) or values.pop("format", None) != FILE_FORMAT:
            raise ValueError(f"{path} is not the configuration of a projector ({FILE_FORMAT})")
        known = {each.name for each in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise ValueError(f"{path} is not a whole projector configuration: {error}") from error
