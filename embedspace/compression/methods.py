"""compress: a prompt in fewer content rows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal, get_args

import torch

from embedspace.compression.pooling import Pooling, averaged, first, floored, merged, spaced
from embedspace.compression.token_selection import Information, TokenFeatures, salient, token_features
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

    Every message (run of content rows) keeps its share of the length, at least one row, and no row is mixed across
    messages. Ratio 1 gives the prompt itself.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompt = space.embed("The museum in Lyon, founded in 1879, opens at nine and costs 14 euros.")
    >>> space.read(compress(prompt, ratio=2))
    'The museum Lyon founded 1879 14'

    Args:
        prompt: has content rows.
        ratio: compression ratio of the content rows, at least 1; the length is rounded up.
        length: exact number of content rows to keep, instead of a ratio.
        method: ``salience`` keeps the most informative words (Selective Context, Li et al. 2023, with rows in
            place of text); ``merge`` joins the most similar neighbours; ``average`` takes means over bins of
            equal, fractional width; ``truncate`` keeps the first rows and ``drop`` evenly spaced ones;
            ``floor_average`` pools the whole prompt, template included, with a floor kernel that loses the
            tail, and serves only as a control.
        information: what ``salience`` ranks tokens by: ``vocabulary``, their rank in the vocabulary and their texts,
            or ``surprisal`` under the engine's model. The vocabulary is the default with an engine as well: on
            development data it kept more facts, and more of the gist, than surprisal did.
        words: let ``salience`` keep whole words rather than single tokens.
        opening: for ``salience``, the share of the kept rows for the first informative words of a message (numbers,
            and words that are not among the most frequent), since a text tends to begin with its topic.
        fold: for ``salience``, the weight of each dropped row in the kept row nearest to it, whose own weight is 1.
            Above 0 every content row contributes to the result, but a model recalls less of it.
        match_norm: rescale mixed rows to the mean distance of their sources from the vocabulary's mean.
        space: the prompt's space, for ``merge``, ``salience`` and ``match_norm``; by default the one loaded in this
            process that the prompt names.
        engine: for ``information='surprisal'``; may be of a smaller model than the one that answers.

    Raises:
        ValueError: neither or both of ratio and length, one out of bounds, a prompt without content or not
            finite, an unknown option, or a needed ``engine`` or ``space`` that is missing.
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
    """A prompt with the properties that methods use, computed on first use."""

    prompt: PromptEmbeds
    given_space: EmbeddingSpace | None
    engine: TransformersEngine | None
    information: Information
    words: bool
    opening: float
    fold: float

    @cached_property
    def space(self) -> EmbeddingSpace:
        """The prompt's space, as given or as loaded in this process."""
        why = "merge, salience and match_norm need the vocabulary (average, drop and truncate need nothing)"
        return resolve_space(self.prompt, self.given_space, why)

    @cached_property
    def mean(self) -> Float[Tensor, " hidden"]:
        """The vocabulary's mean row."""
        return self.space.mean

    @cached_property
    def features(self) -> TokenFeatures:
        """Features of every content row."""
        return token_features(self.prompt, self.space, self.engine, self.information, self.words)


def _merge(content: _Content, run: slice, length: int) -> Pooling:
    return merged(content.prompt.vectors[run], length, content.mean)


def _salience(content: _Content, run: slice, length: int) -> Pooling:
    before = int(content.prompt.content[: run.start].sum())
    features = content.features[before : before + run.stop - run.start]
    return salient(features, length, opening=content.opening, fold=content.fold)


METHODS: dict[Method, Callable[[_Content, slice, int], Pooling]] = {
    "average": lambda content, run, length: averaged(run.stop - run.start, length),
    "merge": _merge,
    "salience": _salience,
    "truncate": lambda content, run, length: first(run.stop - run.start, length),
    "drop": lambda content, run, length: spaced(run.stop - run.start, length),
}


def target_length(rows: int, runs: int, ratio: float | None, length: int | None) -> int:
    """Number of content rows for a ratio or a length.

    Raises:
        ValueError: neither or both given, or out of bounds.
    """
    if (ratio is None) == (length is None):
        raise ValueError(f"give either ratio or length; got ratio={ratio!r} and length={length!r}")
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
    """``length`` divided over runs in proportion to their rows by largest remainder, at least one per run."""
    total = sum(rows)
    lengths = [max(1, length * count // total) for count in rows]
    missing = length - sum(lengths)
    # In units of 1 / total of a row, so that equal remainders are equal and the first run wins.
    gaps = [length * count - own * total for count, own in zip(rows, lengths, strict=True)]
    for run in sorted(range(len(rows)), key=lambda run: -gaps[run])[: max(0, missing)]:
        lengths[run] += 1
    for _ in range(max(0, -missing)):
        # Rows given to small runs are taken from the run furthest above its share.
        above = [
            (own * total - length * count, run)
            for run, (own, count) in enumerate(zip(lengths, rows, strict=True))
        ]
        lengths[max(pair for pair in above if lengths[pair[1]] > 1)[1]] -= 1
    return lengths


def _check_options(method: str, information: str, opening: float, fold: float) -> None:
    for name, value, allowed in (
        ("method", method, get_args(Method)),
        ("information", information, get_args(Information)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")
    if not 0 <= opening <= 1:
        raise ValueError(f"opening is {opening!r}; it must be in [0, 1], a share of the rows kept")
    if not 0 <= fold <= 1:
        raise ValueError(f"fold is {fold!r}; it must be in [0, 1], the weight of a dropped row")


def _parameters(content: _Content, method: Method, length: int, match_norm: bool) -> dict[str, Value]:
    parameters: dict[str, Value] = {"length": length, "method": method, "match_norm": match_norm}
    if method == "salience":
        parameters |= {name: getattr(content, name) for name in ("information", "words", "opening", "fold")}
        if content.information == "surprisal" and content.engine is not None:
            parameters["engine"] = repr(sorted(content.engine.describe().items()))
    return parameters
