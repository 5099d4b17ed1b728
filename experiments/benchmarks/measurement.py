"""Measurements: a ratio with its interval, and how both sides of one are timed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from embedspace.metrics import Interval, mean_interval

if TYPE_CHECKING:
    from embedspace.engines import Prompt, Sampling, VLLMClient

Call = Callable[[], object]
Pairs = Sequence[tuple[float, float]]
"""For each round, the toolkit's figure and that of the baseline."""


@dataclass(frozen=True)
class Measurement:
    """One claim with the ratio that was measured for it."""

    name: str
    ratio: Interval
    """The toolkit's figure over the baseline's, round by round."""
    aim: str
    detail: str


@dataclass(frozen=True)
class Timed:
    """One pass of prompts through a server."""

    seconds: float
    own_seconds: float
    """Processor time of this process."""
    tokens: int

    @property
    def throughput(self) -> float:
        """New tokens per second."""
        return self.tokens / self.seconds


def timed(client: VLLMClient, prompts: Sequence[Prompt], sampling: Sampling) -> Timed:
    """One pass, from the first prompt to the last completion.

    Raises:
        ValueError: a prompt failed.
    """
    began, own = time.perf_counter(), time.process_time()
    completions = list(client.generate(prompts, sampling))
    seconds, own_seconds = time.perf_counter() - began, time.process_time() - own
    if failed := [completion.error for completion in completions if completion.error]:
        raise ValueError(f"{len(failed)} prompts of a benchmark failed: {failed[0]}")
    return Timed(seconds, own_seconds, sum(len(completion.token_ids) for completion in completions))


def ratio(pairs: Pairs) -> Interval:
    """Mean over rounds of the toolkit's figure over the baseline's."""
    return mean_interval([own / other for own, other in pairs])


def inverse_ratio(pairs: Pairs) -> Interval:
    """Mean over rounds of the baseline's figure over the toolkit's: of times, the ratio of rates."""
    return mean_interval([other / own for own, other in pairs])


def medians(rounds: Iterable[Sequence[float]]) -> tuple[float, ...]:
    """Median over rounds of each figure of a round."""
    return tuple(statistics.median(figures) for figures in zip(*rounds, strict=True))


def seconds(call: Call) -> float:
    """Wall time of one call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def seconds_per_call(call: Call, least: float = 0.2) -> float:
    """Mean wall time of as many calls as take ``least`` seconds."""
    began, calls = time.perf_counter(), 0
    while (passed := time.perf_counter() - began) < least:
        call()
        calls += 1
    return passed / calls


def rate(call: Call, least: float = 0.3) -> float:
    """Calls per second, after one that warms up."""
    call()
    return 1 / seconds_per_call(call, least)


def fastest(call: Call, repeats: int, least: float = 0.0) -> float:
    """Seconds of the fastest of ``repeats`` calls, or of as many more as fit into ``least`` seconds."""
    times: list[float] = []
    began = time.perf_counter()
    while len(times) < repeats or time.perf_counter() - began < least:
        times.append(seconds(call))
    return min(times)


def in_turn(own: Call, other: Call, rounds: int) -> list[tuple[float, float]]:
    """Seconds per call of both sides, after one call each; the side that begins alternates from round to round."""
    for call in (own, other):
        call()
    pairs = []
    for number in range(max(2, rounds)):
        sides = (own, other) if number % 2 == 0 else (other, own)
        times = {call: seconds_per_call(call) for call in sides}
        pairs.append((times[own], times[other]))
    return pairs
