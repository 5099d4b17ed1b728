"""What every engine has in common: sampling parameters, completions, and the protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from embedspace.prompt import PromptEmbeds

TokenIds = Sequence[int]
Prompt = PromptEmbeds | TokenIds
"""What engines take: embeddings, or token ids for comparison with the ordinary way."""


@dataclass(frozen=True)
class Sampling:
    """How to generate. Engines give the same meaning to every field.

    Raises:
        ValueError: a field is out of its range.
    """

    max_tokens: int = 64
    """Most new tokens of one completion."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: smallest set of tokens with this probability mass."""
    n: int = 1
    """Completions for each prompt."""
    seed: int = 0
    """Seed of every prompt's own random numbers: a completion does not depend on its batch."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are not part of its text."""
    logprobs: int | None = None
    """With a number, log-probabilities of the chosen tokens and of that many likeliest ones."""

    def __post_init__(self) -> None:
        if isinstance(self.stop, str):
            object.__setattr__(self, "stop", (self.stop,))
        object.__setattr__(self, "stop", tuple(self.stop))
        checks = {
            "max_tokens": (self.max_tokens >= 1, "at least 1"),
            "temperature": (
                math.isfinite(self.temperature) and self.temperature >= 0,
                "a finite number, 0 or more",
            ),
            "top_p": (0 < self.top_p <= 1, "in (0, 1]"),
            "n": (self.n >= 1, "at least 1"),
            "seed": (0 <= self.seed < 2**63, "0 or more and below 2**63"),
            "logprobs": (self.logprobs is None or 0 <= self.logprobs <= 20, "None or 0 to 20"),
            "stop": (all(self.stop), "free of empty strings"),
        }
        for name, (fits, allowed) in checks.items():
            if not fits:
                raise ValueError(f"Sampling.{name} is {getattr(self, name)!r}; it must be {allowed}")
        if self.n > 1 and self.temperature == 0:
            raise ValueError(
                f"Sampling.n is {self.n} with temperature 0: all would be equal; set a temperature"
            )


@dataclass(frozen=True)
class Completion:
    """One answer of an engine, or the reason why there is none."""

    prompt_index: int
    """Position of the prompt in the input of ``generate``."""
    index: int
    """0 to n - 1: which of the prompt's completions."""
    text: str
    token_ids: tuple[int, ...]
    """New tokens, the end-of-sequence token included where it was produced; () where a server does not tell."""
    finish_reason: str
    """``stop``, ``length`` or ``error``."""
    seconds: float
    """Time from sending to receiving the request or batch that this completion was part of."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each new token, where asked for."""
    top_logprobs: tuple[dict[str, float], ...] = ()
    """Likeliest tokens at each position as text -> log-probability, where asked for."""
    error: str | None = None
    """What was wrong with this prompt, for a completion that failed."""

    @classmethod
    def failed(cls, prompt_index: int, reason: str, seconds: float = 0.0) -> Completion:
        """The record of a prompt that failed alone."""
        return cls(prompt_index, 0, "", (), "error", seconds, error=reason)


@runtime_checkable
class Resending(Protocol):
    """An engine over a network, which sends a request again where it met passing trouble."""

    @property
    def retries(self) -> Mapping[str, int]:
        """How many requests were sent again so far, by what they met before."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Turns prompts into completions.

    ``generate`` streams: it reads prompts as it needs them and yields completions in prompt order
    (``n`` in a row for each prompt). A prompt that cannot be answered yields one completion with
    ``error`` set; trouble with the engine itself raises :class:`~embedspace.errors.EngineError`.
    """

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order."""
        ...

    def describe(self) -> dict[str, str]:
        """What identifies this engine in a record: kind, model, dtype, address, versions."""
        ...

    def close(self) -> None:
        """Give back processes, connections and memory."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """An engine that also tells how likely given continuations are."""

    def score_all(self, asked: Sequence[tuple[Prompt, Sequence[str | Sequence[int]]]]) -> list[list[Tensor]]:
        """Log-probabilities of the tokens of each continuation of each prompt, in nats."""
        ...
