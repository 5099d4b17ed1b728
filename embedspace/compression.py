"""compress: the same prompt in fewer content rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.alignment import evenly_spaced
from embedspace.finite import require_finite
from embedspace.prompt import PromptEmbeds, require_content
from embedspace.recipe import Recipe

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

Method = Literal["average", "truncate", "drop"]


def compress(
    prompt: PromptEmbeds, ratio: float | None = None, *, length: int | None = None, method: Method = "average"
) -> PromptEmbeds:
    """Shorten a prompt's content rows; template rows stay bit-identical.

    Args:
        prompt: has content rows.
        ratio: how many times fewer content rows, 1 or more; the length is rounded up.
        length: number of content rows to keep, instead of a ratio.
        method: how rows become fewer.

    Raises:
        ValueError: bounds.
    """
    require_content(prompt, "compression")
    require_finite(prompt, "compression")
    rows = int(prompt.content.sum())
    target = target_length(rows, len(prompt.content_runs), ratio, length)
    if target == rows:
        return prompt
    pieces = [prompt.vectors[run].float() for run in prompt.content_runs]
    lengths = allot([len(piece) for piece in pieces], target)
    short = [METHODS[method](piece, wanted) for piece, wanted in zip(pieces, lengths, strict=True)]
    recipe = Recipe.of("compress", {"length": target, "method": method}, prompt.recipe)
    return prompt.with_runs(short, recipe)


def target_length(rows: int, runs: int, ratio: float | None, length: int | None) -> int:
    """Number of content rows that a ratio or a length asks for.

    Raises:
        ValueError: neither or both given, or out of bounds.
    """
    if (ratio is None) == (length is None):
        raise ValueError(f"give ratio or length, one of the two; got ratio={ratio!r} and length={length!r}")
    if ratio is not None:
        if not (math.isfinite(ratio) and ratio >= 1):
            raise ValueError(f"ratio is {ratio!r}; it must be a finite number of at least 1")
        length = max(runs, math.ceil(rows / ratio))
    assert length is not None
    if not runs <= length <= rows:
        raise ValueError(
            f"length is {length}; the prompt's {rows} content rows in {runs} messages allow {runs} to {rows}"
        )
    return length


def allot(rows: Sequence[int], length: int) -> list[int]:
    """``length`` divided over runs in proportion to their rows by largest remainder, at least one a run."""
    total = sum(rows)
    lengths = [max(1, length * count // total) for count in rows]
    while sum(lengths) != length:
        missing = [length * count / total - own for count, own in zip(rows, lengths, strict=True)]
        if sum(lengths) < length:
            lengths[missing.index(max(missing))] += 1
        else:
            smallest = min((gap, run) for run, gap in enumerate(missing) if lengths[run] > 1)
            lengths[smallest[1]] -= 1
    return lengths


def average(rows: Float[Tensor, "rows hidden"], length: int) -> Float[Tensor, "length hidden"]:
    """Means over ``length`` bins of equal, fractional width: every row weighs the same, the tail included.

    Row i is the stretch from i to i + 1, bin j the one from j to j + 1 in units of rows / length; a row
    that lies over a border goes to both bins by its shares.
    """
    count = len(rows)
    # Borders in units of 1 / length rows are integers: bin j starts at j * count, row i at i * length.
    borders = torch.cat([torch.arange(count) * length, torch.arange(length) * count]).unique()
    ends = torch.cat([borders[1:], borders.new_tensor([count * length])])
    shares = (ends - borders).double() / count
    starts = torch.searchsorted(borders, torch.arange(length) * count)
    return torch.nn.functional.embedding_bag(
        (borders // length).to(rows.device),
        rows,
        starts.to(rows.device),
        mode="sum",
        per_sample_weights=shares.to(rows),
    )


def truncate(rows: Float[Tensor, "rows hidden"], length: int) -> Float[Tensor, "length hidden"]:
    """The first rows."""
    return rows[:length]


def drop(rows: Float[Tensor, "rows hidden"], length: int) -> Float[Tensor, "length hidden"]:
    """Evenly spaced rows, whatever they say."""
    return rows[evenly_spaced(len(rows), length, rows.device)]


METHODS: dict[Method, Callable[[Tensor, int], Tensor]] = {
    "average": average,
    "truncate": truncate,
    "drop": drop,
}
