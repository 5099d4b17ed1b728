"""ProjectorConfig: head, sizes and the pair of models of a projector, as config.json holds them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, Self, get_args

from embedspace._util.files import read_json_object

HeadName = Literal["ridge", "linear", "mlp", "lexical"]

FILE_FORMAT = "embedspace.projector.v1"


@dataclass(frozen=True)
class ProjectorConfig:
    """Shape of a projector, and the identities of its sentence encoder and its language model.

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
    """Name of the sentence encoder."""
    encoder_fingerprint: str
    """Content hash of the sentence encoder."""
    space_name: str
    """Name of the language model."""
    space: str
    """Fingerprint of the language model's embedding space."""
    options: Mapping[str, int] = field(default_factory=dict)
    """Sizes inside the head; each head documents its options."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """Training data and settings."""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    """Metrics of these weights."""

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
        values = read_json_object(path, f"{path.parent} holds no projector: it has no {path.name}")
        if values.pop("format", None) != FILE_FORMAT:
            raise ValueError(f"{path} is not the configuration of a projector ({FILE_FORMAT})")
        known = {each.name for each in fields(cls)}
        try:
            return cls(**{name: value for name, value in values.items() if name in known})
        except TypeError as error:
            raise ValueError(f"{path} is not a complete projector configuration: {error}") from error
