"""What every engine has in common: sampling parameters, completions, and the protocols."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from embedspace._util.answer_card import answer_card, answer_style
from embedspace._util.notebook import block
from embedspace.prompt import PromptEmbeds

if TYPE_CHECKING:
    from torch import Tensor

TokenIds = Sequence[int]
Prompt = PromptEmbeds | TokenIds
"""What engines take: embeddings, or token ids for comparison with ordinary prompting."""


@dataclass(frozen=True)
class Sampling:
    """Sampling parameters, with the same meaning for every engine.

    >>> Sampling(max_tokens=8, temperature=0.7, stop="\\n").stop
    ('\\n',)

    Raises:
        ValueError: a field is out of its range.
    """

    max_tokens: int = 64
    """Most new tokens of one completion."""
    temperature: float = 0.0
    """0 is greedy decoding."""
    top_p: float = 1.0
    """Nucleus sampling: draw from the smallest set of tokens with this probability mass."""
    n: int = 1
    """Completions for each prompt."""
    seed: int = 0
    """Each prompt's random numbers are seeded with this, so a completion does not depend on its batch."""
    stop: tuple[str, ...] = ()
    """Strings that end a completion; they are not part of its text."""
    logprobs: int | None = None
    """Where given, report log-probabilities of the chosen tokens and of this many likeliest ones."""

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
                f"Sampling.n is {self.n} with temperature 0: all completions would be equal; set a temperature"
            )


@dataclass(frozen=True)
class Completion:
    """One completion of a prompt, or the reason why there is none; ``str`` shows the text or that reason.

    >>> failed = Completion.failed(3, "the prompt has no token ids")
    >>> failed.prompt_index, failed.finish_reason, failed.error
    (3, 'error', 'the prompt has no token ids')
    >>> print(failed)
    [no completion of prompt 3: the prompt has no token ids]
    """

    prompt_index: int
    """Position of the prompt in the input of ``generate``."""
    index: int
    """0 to n - 1: which of the prompt's completions."""
    text: str
    token_ids: tuple[int, ...]
    """New tokens, the end-of-sequence token included where it was produced; () where a server does not report them."""
    finish_reason: str
    """``stop``, ``length`` or ``error``."""
    seconds: float
    """Time from sending to receiving the request or batch that this completion was part of."""
    logprobs: tuple[float, ...] = ()
    """Log-probability of each new token, if requested."""
    top_logprobs: tuple[dict[str, float], ...] = ()
    """Likeliest tokens at each position as text -> log-probability, if requested."""
    error: str | None = None
    """What was wrong with this prompt, for a completion that failed."""

    def __str__(self) -> str:
        if self.error is None:
            return self.text
        return f"[no completion of prompt {self.prompt_index}: {self.error}]"

    def _repr_html_(self) -> str:
        """For notebooks: the answer as a card."""
        label = f"prompt {self.prompt_index}" + f", completion {self.index}" * (self.index > 0)
        note = "" if self.error else f"{len(self.token_ids)} tokens, {self.finish_reason}"
        body = f'<p class="answer">{escape(str(self))}</p>'
        return block(answer_card(label, body, note=note), style=answer_style())

    @classmethod
    def failed(cls, prompt_index: int, reason: str, seconds: float = 0.0) -> Completion:
        """The record of a prompt that failed alone."""
        return cls(prompt_index, 0, "", (), "error", seconds, error=reason)


def require_one_completion(sampling: Sampling) -> None:
    """Raise ``ValueError`` where several completions are asked for, which cannot be streamed."""
    if sampling.n != 1:
        raise ValueError(f"Sampling.n is {sampling.n}; one completion can be streamed at a time")


def warn_of_failure(completions: Iterable[Completion]) -> Iterator[Completion]:
    """The completions as they come; the first that failed warns, since its text says nothing.

    >>> from warnings import catch_warnings
    >>> with catch_warnings(record=True) as caught:
    ...     texts = [each.text for each in warn_of_failure([Completion.failed(0, "it is too long")] * 2)]
    >>> texts, len(caught)
    (['', ''], 1)
    """
    warned = False
    for completion in completions:
        if completion.error is not None and not warned:
            warned = True
            warnings.warn(
                f"prompt {completion.prompt_index} has no completion, and its text is empty: {completion.error}. "
                "Of prompts that fail after it, only their `error` tells",
                RuntimeWarning,
                stacklevel=2,
            )
        yield completion


@runtime_checkable
class RetryingEngine(Protocol):
    """An engine that sends requests over a network, and again after a transient failure."""

    @property
    def retries(self) -> Mapping[str, int]:
        """How many requests were sent again so far, by the failure before."""
        ...


@runtime_checkable
class Engine(Protocol):
    """Turns prompts into completions.

    ``generate`` streams: it reads prompts as it needs them and yields completions in prompt order
    (``n`` in a row for each prompt). A prompt that cannot be answered yields one completion with
    ``error`` set, and the first of them warns; a failure of the engine itself raises
    :class:`~embedspace.errors.EngineError`, and what is no prompt at all, such as text, ``TypeError``.
    """

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order."""
        ...

    def describe(self) -> dict[str, str]:
        """What identifies this engine in a record: kind, model, dtype, address, versions."""
        ...

    def close(self) -> None:
        """Release processes, connections and memory."""
        ...


@runtime_checkable
class Scorer(Protocol):
    """An engine that also computes the log-probabilities of given continuations."""

    def score_all(self, pairs: Sequence[tuple[Prompt, Sequence[str | Sequence[int]]]]) -> list[list[Tensor]]:
        """Log-probabilities of the tokens of each continuation of each prompt, in nats."""
        ...
