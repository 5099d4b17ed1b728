"""View: every setting of the page, as a value and as a query string."""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True)
class Limits:
    """Bounds of what a page may ask for.

    >>> Limits().concurrent_answers
    4
    """

    text_characters: int = 4000
    """Of each text."""
    body_bytes: int = 256 * 1024
    """Of one request; a text in any script, percent-encoded, fits."""
    new_tokens: int = 256
    """Of one answer."""
    concurrent_answers: int = 4
    """Tabs whose answers are written or waited for at the same time."""
    parallel_streams: int = 3
    """Answers that a server writes at the same time; a model in this process writes one after the other."""


LIMITS = Limits()

RANGES: dict[str, tuple[float, float]] = {
    "alpha": (-3.0, 3.0),
    "t": (0.0, 1.0),
    "ratio": (1.0, 16.0),
    "noise": (0.0, 2.0),
    "seed": (0, 2**31 - 1),
    "max_tokens": (1, LIMITS.new_tokens),
}
"""Least and greatest value of each number."""


@dataclass(frozen=True)
class View:
    """Every setting of the page.

    >>> View(user="Hello", ratio=2.0).query
    'user=Hello&ratio=2'
    >>> View.parse({"user": "Hello", "ratio": "2"}) == View(user="Hello", ratio=2.0)
    True

    Raises:
        ValueError: an empty user message, a text that is too long, or a number out of its range.
    """

    system: str = ""
    user: str = "How do I sew on a button?"
    style: str = ""
    """Name of a style vector; empty for none."""
    alpha: float = 1.0
    second: str = ""
    """The user message at the other end of an interpolation; empty for none."""
    t: float = 0.5
    ratio: float = 1.0
    """Compression ratio of the user message."""
    question: str = ""
    """What the compressed message is asked."""
    keep: str = ""
    """Texts that compression keeps, one a line."""
    soft: str = ""
    """Name of a soft prompt that stands in place of the system message; empty for none."""
    noise: float = 0.0
    """Norm of the noise in a row, in units of the vocabulary's root mean square distance from its mean."""
    seed: int = 0
    """Of the noise and of the controls."""
    max_tokens: int = 48

    def __post_init__(self) -> None:
        for name in TEXTS:
            text = getattr(self, name)
            if len(text) > LIMITS.text_characters:
                raise ValueError(
                    f"{LABELS[name]} has {len(text):,} characters; at most {LIMITS.text_characters:,} are allowed, "
                    "shorten it"
                )
        if not self.user.strip():
            raise ValueError("The user message is empty; write something that the model can answer.")
        for name, (low, high) in RANGES.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and low <= value <= high):
                raise ValueError(f"{LABELS[name]} is {value:g}; it must be between {low:g} and {high:g}")

    @classmethod
    def parse(cls, values: Mapping[str, str]) -> View:
        """The view that a form or a query string describes; what is left out has its default.

        Raises:
            ValueError: an unknown setting, a number that is none, or as the class.
        """
        if unknown := values.keys() - DEFAULTS.keys():
            raise ValueError(
                f"There is no setting {', '.join(sorted(map(repr, unknown)))}; allowed are {', '.join(DEFAULTS)}"
            )
        return cls(**{name: _value(name, text) for name, text in values.items()})

    @property
    def query(self) -> str:
        """Query string of the settings that are not the defaults.

        >>> View().query
        ''
        """
        changed = {
            name: _written(getattr(self, name))
            for name, default in DEFAULTS.items()
            if getattr(self, name) != default
        }
        return urllib.parse.urlencode(changed)

    @property
    def kept_texts(self) -> list[str]:
        """The lines of :attr:`keep` that are not empty."""
        return [line for line in self.keep.split("\n") if line.strip()]

    @property
    def moves(self) -> list[str]:
        """Names of the manipulations that change something, in the order in which they are applied.

        >>> View(ratio=2.0, noise=0.1).moves
        ['compression', 'noise']
        """
        active = {
            "soft prompt": bool(self.soft),
            "compression": self.ratio > 1,
            "interpolation": bool(self.second.strip()) and self.t > 0,
            "style": bool(self.style) and self.alpha != 0,
            "noise": self.noise > 0,
        }
        return [name for name, applies in active.items() if applies]


LABELS = {
    "system": "The system message",
    "user": "The user message",
    "style": "The style vector",
    "alpha": "The style's alpha",
    "second": "The second prompt",
    "t": "The interpolation's t",
    "ratio": "The compression ratio",
    "question": "The question",
    "keep": "The list of texts to keep",
    "soft": "The soft prompt",
    "noise": "The noise",
    "seed": "The seed",
    "max_tokens": "The number of new tokens",
}
DEFAULTS: dict[str, Any] = {each.name: each.default for each in fields(View)}
TEXTS = [name for name, default in DEFAULTS.items() if isinstance(default, str)]
_WHOLE = re.compile(r"-?\d{1,12}")


def _value(name: str, text: str) -> Any:
    default = DEFAULTS[name]
    if isinstance(default, str):
        return text.replace("\r\n", "\n").replace("\r", "\n")
    if isinstance(default, int):
        if not _WHOLE.fullmatch(text.strip()):
            raise ValueError(f"{LABELS[name]} is {text[:40]!r}; it must be a whole number")
        return int(text)
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{LABELS[name]} is {text[:40]!r}; it must be a number") from None


def _written(value: str | float) -> str:
    """A setting as an address has it; numbers as short as they read back the same."""
    return value if isinstance(value, str) else f"{value:g}" if float(f"{value:g}") == value else repr(value)
