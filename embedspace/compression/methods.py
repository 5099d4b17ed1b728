"""compress: the same prompt in fewer content rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import torch

from embedspace.compression.merging import merged
from embedspace.compression.pooling import Pooling, averaged, first, floored, spaced
from embedspace.compression.salience import INFORMATION, Information, Told, salient, word_information
from embedspace.prompt import PromptEmbeds, Recipe, Value, require_content, require_finite
from embedspace.space import resolve_space

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Method = Literal["average", "merge", "salience", "truncate", "drop", "floor_average"]


def compress(
    prompt: PromptEmbeds,
    ratio: float | None = None,
    *,
    length: int | None = None,
    method: Method = "salience",
    information: Information = "vocabulary",
    words: bool = True,
    opening: float = 0.4,
    fold: float = 0.0,
    match_norm: bool = False,
    space: EmbeddingSpace | None = None,
    engine: TransformersEngine | None = None,
) -> PromptEmbeds:
    """Shorten a prompt's content rows; template rows stay bit-identical.

    Every message (run of content rows) keeps its share of the length, at least one row, and no row is
    mixed across messages. Ratio 1 gives the prompt itself.

    Args:
        prompt: has content rows.
        ratio: how many times fewer content rows, 1 or more; the length is rounded up.
        length: exact number of content rows to keep, instead of a ratio.
        method: ``salience`` keeps the words that tell most (Selective Context, Li et al. 2023, with rows in
            place of text); ``merge`` joins the most similar neighbours; ``average`` takes means over bins of
            equal, fractional width; ``truncate`` keeps the first rows and ``drop`` evenly spaced ones;
            ``floor_average`` pools the whole prompt, template included, with a floor kernel that loses the
            tail, and is a control and nothing else. By default ``salience``.
        information: what tells how much a row tells, for ``salience``: ``vocabulary``, the order of the
            token list and the tokens' texts, or ``surprisal`` under the engine's model. The vocabulary is the
            default with an engine as well: in development it kept more of facts and of gist than surprisal did.
        words: let ``salience`` keep whole words rather than single tokens.
        opening: for ``salience``, the share of the rows kept that goes to a message's first words (numbers, and
            words that are none of the commonest), as a text tends to begin with what it is about.
        fold: for ``salience``, the weight of each row left out in the kept row nearest to it, which counts 1.
            Above 0 every content row reaches the result, and recall suffers.
        match_norm: move mixed rows out to the distance from the vocabulary's mean that the rows in them have.
        space: the prompt's space, for ``merge``, ``salience`` and ``match_norm``; by default the one in use (an
            engine's, or any that is held) that the prompt names.
        engine: for ``information='surprisal'``; a smaller model than the one that answers may do.

    Raises:
        ValueError: neither or both of ratio and length, one out of bounds, a prompt without content or not
            finite, an unknown option, an ``engine`` that is needed and not given, or a ``space`` that is needed
            and not in use.
    """
    require_content(prompt, "compression")
    require_finite(prompt, "compression")
    _check_options(method, information, opening, fold)
    runs = prompt.content_runs
    sizes = [run.stop - run.start for run in runs]
    rows = sum(sizes)
    target = target_length(rows, len(runs), ratio, length)
    if target == rows:
        return prompt
    content = _Content(prompt, space, engine, information, words, opening, fold)
    mean = content.mean if match_norm else None
    recipe = Recipe.of("compress", _parameters(content, method, target, match_norm), prompt.recipe)
    if method == "floor_average":
        total = len(prompt) - rows + target
        pooled = floored(len(prompt), total)(prompt.vectors, mean)
        return PromptEmbeds(pooled, torch.ones_like(prompt.content[:total]), prompt.space, recipe)
    lengths = allot(sizes, target)
    pieces = [
        METHODS[method](content, run, wanted)(prompt.vectors[run], mean)
        for run, wanted in zip(runs, lengths, strict=True)
    ]
    return prompt.with_runs(pieces, recipe)


@dataclass(frozen=True, eq=False)
class _Content:
    """A prompt with what the methods ask about it; nothing is computed before it is asked for."""

    prompt: PromptEmbeds
    given_space: EmbeddingSpace | None
    engine: TransformersEngine | None
    information: Information
    words: bool
    opening: float
    fold: float

    @cached_property
    def space(self) -> EmbeddingSpace:
        """The prompt's space, as given or as in use."""
        why = "merge, salience and match_norm need the vocabulary (average, drop and truncate need nothing)"
        return resolve_space(self.prompt, self.given_space, why)

    @cached_property
    def mean(self) -> Float[Tensor, " hidden"]:
        """The vocabulary's mean row."""
        return self.space.mean

    @cached_property
    def told(self) -> Told:
        """What is known of every content row."""
        return word_information(self.prompt, self.space, self.engine, self.information, self.words)


def _merge(content: _Content, run: slice, length: int) -> Pooling:
    return merged(content.prompt.vectors[run], length, content.mean)


def _salience(content: _Content, run: slice, length: int) -> Pooling:
    before = int(content.prompt.content[: run.start].sum())
    told = content.told[before : before + run.stop - run.start]
    return salient(told, length, opening=content.opening, fold=content.fold)


METHODS: dict[Method, Callable[[_Content, slice, int], Pooling]] = {
    "average": lambda content, run, length: averaged(run.stop - run.start, length),
    "merge": _merge,
    "salience": _salience,
    "truncate": lambda content, run, length: first(run.stop - run.start, length),
    "drop": lambda content, run, length: spaced(run.stop - run.start, length),
}


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
        return max(runs, math.ceil(rows / ratio))
    if isinstance(length, bool) or not isinstance(length, int) or not runs <= length <= rows:
        raise ValueError(
            f"length is {length!r}; the prompt's {rows} content rows in {runs} runs allow a whole number "
            f"from {runs} to {rows}"
        )
    return length


def allot(rows: Sequence[int], length: int) -> list[int]:
    """``length`` divided over runs in proportion to their rows by largest remainder, at least one a run."""
    total = sum(rows)
    lengths = [max(1, length * count // total) for count in rows]
    missing = length - sum(lengths)
    # In units of 1 / total of a row, so that equal remainders are equal and the first run wins.
    gaps = [length * count - own * total for count, own in zip(rows, lengths, strict=True)]
    for run in sorted(range(len(rows)), key=lambda run: -gaps[run])[: max(0, missing)]:
        lengths[run] += 1
    for _ in range(max(0, -missing)):
        # The rows that small runs got come from the run that is furthest above its share.
        above = [
            (own * total - length * count, run)
            for run, (own, count) in enumerate(zip(lengths, rows, strict=True))
        ]
        lengths[max(pair for pair in above if lengths[pair[1]] > 1)[1]] -= 1
    return lengths


def _check_options(method: str, information: str, opening: float, fold: float) -> None:
    for name, value, allowed in (
        ("method", method, (*METHODS, "floor_average")),
        ("information", information, tuple(INFORMATION)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")
    if not 0 <= opening <= 1:
        raise ValueError(f"opening is {opening!r}; it must be in [0, 1], a share of the rows kept")
    if not 0 <= fold <= 1:
        raise ValueError(f"fold is {fold!r}; it must be in [0, 1], the weight of a row left out")


def _parameters(content: _Content, method: Method, length: int, match_norm: bool) -> dict[str, Value]:
    parameters: dict[str, Value] = {"length": length, "method": method, "match_norm": match_norm}
    if method == "salience":
        parameters |= {name: getattr(content, name) for name in ("information", "words", "opening", "fold")}
        if content.information == "surprisal" and content.engine is not None:
            parameters["engine"] = repr(sorted(content.engine.describe().items()))
    return parameters
