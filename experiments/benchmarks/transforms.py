"""Benchmarks of the transforms: against the plain torch expression that does the least work for the same rows."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, Recipe, StyleVector, compress, interpolate
from embedspace.metrics import mean_interval
from embedspace.reporting import Line, line_figure
from embedspace.space import EmbeddingTable
from experiments.benchmarks.experiment import Measurement

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

Call = Callable[[], object]


@dataclass(frozen=True)
class Contest:
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
    spaces = {hidden: space_of(narrow, hidden) for hidden in HIDDEN}
    for hidden, space in spaces.items():
        for rows in ROWS:
            yield from (measured(contest, rows, hidden) for contest in contests(space, rows))
    yield from scaling(spaces[HIDDEN[0]], figures / "compress_time.svg")


def contests(space: EmbeddingSpace, rows: int) -> Iterator[Contest]:
    """The transforms on prompts of so many rows, all of content, in the space's dtype."""
    a, b, short = prompt_of(space, rows, 0), prompt_of(space, rows, 1), prompt_of(space, rows * 3 // 4, 2)
    x, y, z = a.vectors, b.vectors, short.vectors
    vector = StyleVector.random(space, norm=1.2, seed=0)
    shift, mean = vector.vector.to(x.dtype), space.mean.to(x.dtype)
    spread = 2 * torch.arange(length := round(T * len(z) + (1 - T) * rows)) + 1
    x_at, z_at = spread * rows // (2 * length), spread * len(z) // (2 * length)
    laid = torch.arange(rows) * len(z) // rows
    kept = torch.arange(0, rows, RATIO)
    yield Contest("apply", lambda: vector.apply(a, 2.0), lambda: x + 2.0 * shift, "`rows + alpha * vector`")
    yield Contest(
        "interpolate, lerp", lambda: interpolate(a, b, T), lambda: torch.lerp(x, y, T), "`torch.lerp`"
    )
    yield Contest(
        "interpolate, slerp", lambda: interpolate(a, b, T, method="slerp", space=space),
        lambda: plain_slerp(x, y, mean), "the textbook's arc about the mean, in the rows' dtype",
    )  # fmt: skip
    yield Contest(
        "interpolate, resample", lambda: interpolate(a, short, T),
        lambda: torch.lerp(x[x_at], z[z_at], T), "`torch.lerp` of rows at known positions",
    )  # fmt: skip
    yield Contest(
        "interpolate, pad", lambda: interpolate(a, short, T, align="pad"),
        lambda: torch.lerp(x, torch.nn.functional.pad(z, (0, 0, 0, rows - len(z))), T), "`torch.lerp` after `pad`",
    )  # fmt: skip
    if rows < ROWS[-1]:  # the warping itself is quadratic
        yield Contest(
            "interpolate, dtw", lambda: interpolate(a, short, T, align="dtw", space=space),
            lambda: torch.lerp(x, z[laid], T), "`torch.lerp` of rows laid already", linear=False,
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
        yield Contest(
            f"compress, {method}", shorten(a, method, space), call, expression,
            linear=method not in ("salience", "merge"),
        )  # fmt: skip


def shorten(prompt: PromptEmbeds, method: str, space: EmbeddingSpace) -> Call:
    """A call that compresses; the vocabulary's statistics, made once for a space, are made before."""
    return lambda: compress(prompt, ratio=RATIO, method=method, space=space)  # type: ignore[arg-type]


def measured(contest: Contest, rows: int, hidden: int) -> Measurement:
    """Both sides in turn, round by round."""
    pairs = [(best(contest.own), best(contest.plain)) for _ in range(ROUNDS)]
    return Measurement(
        f"{contest.name}, {rows:,} x {hidden:,}, time",
        mean_interval([own / plain for own, plain in pairs]),
        "at most 3" if contest.linear else "none: not linear",
        f"{1e6 * statistics.median(own for own, _ in pairs):,.0f} us against "
        f"{1e6 * statistics.median(plain for _, plain in pairs):,.0f} us of {contest.expression}",
    )


def scaling(space: EmbeddingSpace, figure: Path) -> Iterator[Measurement]:
    """Time of each way to compress against the rows; those that are not linear against n log n."""
    methods = ("average", "truncate", "drop", "salience", "merge")
    calls = {
        (method, rows): shorten(prompt_of(space, rows, 0), method, space)
        for method in methods
        for rows in SCALED_ROWS
    }
    rounds = [{place: best(call, 2) for place, call in calls.items()} for _ in range(5)]
    few, many = 1024, SCALED_ROWS[-1]
    expected = many * math.log(many) / (few * math.log(few))
    for method in ("salience", "merge"):
        times = [(each[method, many], each[method, few]) for each in rounds]
        yield Measurement(
            f"compress, {method}: growth from {few:,} to {many:,} rows, to that of n log n",
            mean_interval([slow / quick / expected for slow, quick in times]),
            "at most 1",
            f"{1e3 * statistics.median(slow for slow, _ in times):.1f} ms against "
            f"{1e3 * statistics.median(quick for _, quick in times):.1f} ms; n log n grows {expected:.1f} times",
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


def prompt_of(space: EmbeddingSpace, rows: int, seed: int) -> PromptEmbeds:
    """Random tokens, all of content."""
    ids = torch.randint(
        len(space.table.rows), (rows,), generator=torch.Generator().manual_seed(seed)
    ).tolist()
    recipe = Recipe.of("ids", {"seed": seed, "rows": rows})
    return PromptEmbeds(space.lookup(ids), torch.ones(rows, dtype=torch.bool), space.fingerprint, recipe)


def space_of(space: EmbeddingSpace, hidden: int) -> EmbeddingSpace:
    """The first tokens of a space, their rows repeated to a hidden size: what a space of that size computes."""
    times = math.ceil(hidden / space.hidden_size)
    rows = space.table.rows[:TOKENS].repeat(1, times)[:, :hidden].contiguous()
    table = EmbeddingTable(rows, space.table.scale, space.table.path)
    return EmbeddingSpace(f"{space.name} x {hidden}", space.folder, space.tokenizer, table, f"{hidden}", None)


def best(call: Call, repeats: int = 7) -> float:
    """Seconds of the quickest of a few calls; of as many more as fit into 5 ms."""
    call()
    least, began = math.inf, time.perf_counter()
    while repeats > 0 or time.perf_counter() - began < 5e-3:
        start = time.perf_counter()
        call()
        least = min(least, time.perf_counter() - start)
        repeats -= 1
    return least
