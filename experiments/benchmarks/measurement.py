"""Measurements: a ratio with its interval, and how both sides of one are timed."""

from __future__ import annotations

import random
import re
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from embedspace.metrics import MIN_ITEMS, Interval, bootstrap_bounds

if TYPE_CHECKING:
    from embedspace.engines import Prompt, Sampling, VLLMClient

Call = Callable[[], object]
Result = TypeVar("Result")
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
    """Median over rounds of the toolkit's figure over that of the baseline's.

    Percentile bootstrap of rounds, both sides of one drawn together; of fewer than ten rounds the ratios of the rounds
    are kept in place of an interval.

    Raises:
        ValueError: no rounds.
    """
    import numpy as np

    if not pairs:
        raise ValueError("a ratio needs at least one round, got none")
    figures = np.array(pairs, dtype=float)
    own, other = np.median(figures, axis=0)
    estimate, rounds = float(own / other), len(figures)
    if rounds < MIN_ITEMS:
        return Interval.unknown(estimate, rounds, (figures[:, 0] / figures[:, 1]).tolist())
    draws = np.random.default_rng(0).integers(rounds, size=(2000, rounds))
    drawn = np.median(figures[draws], axis=1)
    low, high = bootstrap_bounds(drawn[:, 0] / drawn[:, 1], rounds)
    return Interval(estimate, low, high, rounds) if high > low else Interval.unknown(estimate, rounds)


def inverse_ratio(pairs: Pairs) -> Interval:
    """The same of the baseline's figure over the toolkit's: of times, the ratio of rates."""
    return ratio([(other, own) for own, other in pairs])


def verdict(measured: Interval, aim: str) -> str:
    """Whether a target was reached: ``met``, ``missed``, ``not told``, or nothing where there is no target.

    It is met or missed only where the whole interval is on one side of it; of few rounds, where all of them are.

    >>> verdict(Interval(0.3, 0.2, 0.4, 12), "at most 0.5"), verdict(Interval(0.3, 0.2, 0.4, 12), "at least 0.25")
    ('met', 'not told')
    >>> verdict(Interval.unknown(3.0, 2, [2.0, 4.0]), "under 1"), verdict(Interval.unknown(3.0, 1, [3.0]), "reported")
    ('missed', '')
    """
    found = re.match(r"(at most|under|below|at least|above) ([\d.]+)", aim)
    if found is None:
        return ""
    limit, small = float(found[2]), found[1] in ("at most", "under", "below")
    figures = (measured.low, measured.high) if measured.known else (measured.values or (measured.estimate,))
    reached = [figure <= limit if small else figure >= limit for figure in figures]
    return "met" if all(reached) else "not told" if any(reached) else "missed"


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


def random_rounds(calls: Sequence[Callable[[], Result]], rounds: int) -> list[list[Result]]:
    """What calls return in each round, in their order, made in an order drawn for the round."""
    found = []
    for number in range(rounds):
        results: dict[int, Result] = {}
        for place in random.Random(number).sample(range(len(calls)), len(calls)):
            results[place] = calls[place]()
        found.append([results[place] for place in range(len(calls))])
    return found


def in_turn(own: Call, other: Call, rounds: int) -> list[tuple[float, float]]:
    """Seconds per call of both sides, after one call each; which side begins a round is drawn at random."""
    for call in (own, other):
        call()
    sides = [partial(seconds_per_call, call) for call in (own, other)]
    return [(first, second) for first, second in random_rounds(sides, max(2, rounds))]
