"""Benchmarks of the transforms: against the plain torch expression that does the least work for the same rows."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector, compress, interpolate
from embedspace.metrics import mean_interval
from embedspace.reporting import Line, line_figure
from embedspace.space import EmbeddingTable
from experiments.benchmarks.measurement import Call, Measurement, fastest, medians, ratio
from experiments.benchmarks.workloads import prompt_of, random_ids

if TYPE_CHECKING:
    from torch import Tensor

ROWS = (32, 512, 4096)
SCALED_ROWS = (32, 128, 512, 1024, 2048, 4096, 8192, 16384)
"""For the figure; the claim about scaling is about the last of them against 1,024."""
HIDDEN = (576, 4096)
ROUNDS = 9
RATIO = 4
T = 0.3
TOKENS = 8192
"""Of the vocabulary: a whole one of hidden size 4,096 takes 800 MB."""


@dataclass(frozen=True)
class Comparison:
    """A transform and the least that torch can do to give the same rows."""

    name: str
    own: Call
    plain: Call
    expression: str
    """What the plain side does, in words or code."""
    linear: bool = True
    """Whether its work is linear in the rows; where it is not, the plain side is given what has to be found out."""


def transforms(model: str, figures: Path) -> Iterator[Measurement]:
    """Every transform at every size, then how compression grows with the rows, with its figure.

    Raises:
        OSError: the figure's folder cannot be written.
    """
    narrow = EmbeddingSpace.from_pretrained(model)
    spaces = {hidden: widened(narrow, hidden) for hidden in HIDDEN}
    for hidden, space in spaces.items():
        for rows in ROWS:
            yield from (measured(comparison, rows, hidden) for comparison in comparisons(space, rows))
    yield from scaling(spaces[HIDDEN[0]], figures / "compress_time.svg")


def comparisons(space: EmbeddingSpace, rows: int) -> Iterator[Comparison]:
    """The transforms on prompts of so many rows, all of content, in the space's dtype."""
    a, b, short = (
        random_prompt(space, length, seed) for seed, length in enumerate((rows, rows, rows * 3 // 4))
    )
    x, y, z = a.vectors, b.vectors, short.vectors
    vector = StyleVector.random(space, norm=1.2, seed=0)
    shift, mean = vector.vector.to(x.dtype), space.mean.to(x.dtype)
    spread = 2 * torch.arange(length := round(T * len(z) + (1 - T) * rows)) + 1
    x_at, z_at = spread * rows // (2 * length), spread * len(z) // (2 * length)
    aligned = torch.arange(rows) * len(z) // rows
    kept = torch.arange(0, rows, RATIO)
    yield Comparison(
        "apply", lambda: vector.apply(a, 2.0), lambda: x + 2.0 * shift, "`rows + alpha * vector`"
    )
    yield Comparison(
        "interpolate, lerp", lambda: interpolate(a, b, T), lambda: torch.lerp(x, y, T), "`torch.lerp`"
    )
    yield Comparison(
        "interpolate, slerp", lambda: interpolate(a, b, T, method="slerp", space=space),
        lambda: plain_slerp(x, y, mean), "Shoemake's formula about the mean, in the rows' dtype",
    )  # fmt: skip
    yield Comparison(
        "interpolate, resample", lambda: interpolate(a, short, T),
        lambda: torch.lerp(x[x_at], z[z_at], T), "`torch.lerp` of rows at known positions",
    )  # fmt: skip
    yield Comparison(
        "interpolate, pad", lambda: interpolate(a, short, T, align="pad"),
        lambda: torch.lerp(x, torch.nn.functional.pad(z, (0, 0, 0, rows - len(z))), T), "`torch.lerp` after `pad`",
    )  # fmt: skip
    if rows < ROWS[-1]:  # the warping itself is quadratic
        yield Comparison(
            "interpolate, dtw", lambda: interpolate(a, short, T, align="dtw", space=space),
            lambda: torch.lerp(x, z[aligned], T), "`torch.lerp` of rows that are aligned already", linear=False,
        )  # fmt: skip
    plain: Mapping[str, tuple[Call, str]] = {
        "average": (lambda: x.unflatten(0, (-1, RATIO)).mean(dim=1), "`mean` over bins of 4 rows"),
        "floor_average": (lambda: x.unflatten(0, (-1, RATIO)).mean(dim=1), "`mean` over bins of 4 rows"),
        "truncate": (lambda: x[: rows // RATIO].clone(), "`clone` of the first quarter"),
        "drop": (lambda: x[RATIO // 2 :: RATIO].clone(), "`clone` of every 4th row"),
        "salience": (lambda: x[kept], "the rows at known positions"),
        "merge": (lambda: x.unflatten(0, (-1, RATIO)).mean(dim=1), "`mean` over bins of 4 rows"),
    }
    for method, (call, expression) in plain.items():
        yield Comparison(
            f"compress, {method}", shorten(a, method, space), call, expression,
            linear=method not in ("salience", "merge"),
        )  # fmt: skip


def shorten(prompt: PromptEmbeds, method: str, space: EmbeddingSpace) -> Call:
    """A call that compresses; the vocabulary's statistics, made once for a space, are made before."""
    return lambda: compress(prompt, ratio=RATIO, method=method, space=space)  # type: ignore[arg-type]


def measured(comparison: Comparison, rows: int, hidden: int) -> Measurement:
    """Both sides in turn, round by round."""
    pairs = [(best(comparison.own), best(comparison.plain)) for _ in range(ROUNDS)]
    own, plain = medians(pairs)
    return Measurement(
        f"{comparison.name}, {rows:,} x {hidden:,}, time",
        ratio(pairs),
        "at most 3" if comparison.linear else "none: not linear",
        f"{1e6 * own:,.0f} us against {1e6 * plain:,.0f} us of {comparison.expression}",
    )


def scaling(space: EmbeddingSpace, figure: Path) -> Iterator[Measurement]:
    """Time of each way to compress against the rows; those that are not linear against n log n."""
    methods = ("average", "truncate", "drop", "salience", "merge")
    calls = {
        (method, rows): shorten(random_prompt(space, rows, 0), method, space)
        for method in methods
        for rows in SCALED_ROWS
    }
    rounds = [{place: best(call, 2) for place, call in calls.items()} for _ in range(5)]
    few, many = 1024, SCALED_ROWS[-1]
    expected = many * math.log(many) / (few * math.log(few))
    for method in ("salience", "merge"):
        pairs = [(each[method, many], each[method, few]) for each in rounds]
        slow, quick = medians(pairs)
        yield Measurement(
            f"compress, {method}: growth from {few:,} to {many:,} rows, to that of n log n",
            ratio([(large, small * expected) for large, small in pairs]),
            "at most 1",
            f"{1e3 * slow:.1f} ms against {1e3 * quick:.1f} ms; n log n grows {expected:.1f} times",
        )
    lines = [
        Line(method, {rows: mean_interval([1e3 * each[method, rows] for each in rounds]) for rows in SCALED_ROWS})
        for method in methods
    ]  # fmt: skip
    start = statistics.median(each["merge", few] for each in rounds) * 1e3 / (few * math.log(few))
    reference = {
        float(rows): mean_interval([start * rows * math.log(rows)]) for rows in SCALED_ROWS if rows >= few
    }
    drawn = line_figure(
        [*lines, Line("n log n", reference, control=True, band=False)],
        x_label="rows", y_label="milliseconds", log_x=True, log_y=True,
        caption=f"Time to compress {RATIO} times, hidden size {space.hidden_size}, mean of {len(rounds)} rounds",
    )  # fmt: skip
    figure.parent.mkdir(parents=True, exist_ok=True)
    figure.write_text(drawn.stand_alone())


def plain_slerp(x: Tensor, y: Tensor, mean: Tensor) -> Tensor:
    """Shoemake's formula, row by row, with nothing done about rows that agree."""
    x, y = x - mean, y - mean
    a, b = x.norm(dim=1, keepdim=True), y.norm(dim=1, keepdim=True)
    angle = ((x * y).sum(dim=1, keepdim=True) / (a * b)).acos()
    length = torch.lerp(a, b, T) / angle.sin()
    between: Tensor = ((1 - T) * angle).sin() * length / a * x + (T * angle).sin() * length / b * y
    return between + mean


def random_prompt(space: EmbeddingSpace, rows: int, seed: int) -> PromptEmbeds:
    """Random tokens, all of content."""
    (ids,) = random_ids(len(space.table.rows), 1, rows, seed, lowest=0)
    return prompt_of(space, ids)


def widened(space: EmbeddingSpace, hidden: int) -> EmbeddingSpace:
    """The first tokens of a space, their rows repeated to a hidden size: what a space of that size computes."""
    times = math.ceil(hidden / space.hidden_size)
    rows = space.table.rows[:TOKENS].repeat(1, times)[:, :hidden].contiguous()
    table = EmbeddingTable(rows, space.table.scale, space.table.path)
    return EmbeddingSpace(f"{space.name} x {hidden}", space.folder, space.tokenizer, table, f"{hidden}", None)


def best(call: Call, repeats: int = 7) -> float:
    """Seconds of the fastest call within 5 ms, after one that warms up."""
    call()
    return fastest(call, repeats, least=5e-3)
