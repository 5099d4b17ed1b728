"""compress: a prompt in fewer content rows."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from numbers import Real
from typing import TYPE_CHECKING, Literal, get_args

import torch

from embedspace.compression.passages import ContentText, Extent, keep_mask, part_mask
from embedspace.compression.pooling import Pooling, averaged, first, floored, merged, spaced
from embedspace.compression.query import Query
from embedspace.compression.salience import Information, saliences
from embedspace.prompt import PromptEmbeds, Recipe, Value, mask_as_text, require_content, require_finite

if TYPE_CHECKING:
    from jaxtyping import Bool
    from torch import Tensor

    from embedspace.encoders import SentenceEncoder
    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

Method = Literal["average", "merge", "salience", "truncate", "drop", "floor_average"]
SALIENCE_VERSION = 4
"""Of the rule; a recipe of another version describes other rows."""


def compress(
    prompt: PromptEmbeds,
    ratio: float | None = None,
    *,
    length: int | None = None,
    method: Method = "salience",
    query: str | PromptEmbeds | None = None,
    encoder: SentenceEncoder | None = None,
    keep: str | re.Pattern[str] | Sequence[str | re.Pattern[str]] | Bool[Tensor, " tokens"] | None = None,
    only: Extent | Sequence[Extent] | Bool[Tensor, " tokens"] | None = None,
    information: Information = "vocabulary",
    opening: float | None = None,
    match_norm: bool = False,
    space: EmbeddingSpace | None = None,
    engine: TransformersEngine | None = None,
) -> PromptEmbeds:
    """Shorten a prompt's content rows; template rows stay bit-identical.

    Every message (run of content rows) keeps its share of the length, and no row is mixed across messages. Ratio 1
    gives the prompt itself. The default keeps whole words and numbers of the text, in order, and between any two that
    did not stand side by side at least one separator: what is left has no word or number that the text does not have.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompt = space.embed("The museum in Lyon, founded in 1879, opens at nine. A ticket costs 14 euros.")
    >>> space.read(compress(prompt, ratio=3, query="How much is a ticket?"))
    ' Lyon A ticket costs 14 euros.'

    Args:
        prompt: has content rows.
        ratio: compression ratio of the rows that are compressed, at least 1; the length is rounded up.
        length: number of rows to keep of these, instead of a ratio. ``salience`` may keep a few less, where no whole
            word fits into the rest; other methods keep exactly so many.
        method: ``salience`` keeps the most informative words (Selective Context, Li et al. 2023, with rows in
            place of text); ``merge`` joins the most similar neighbours; ``average`` takes means over bins of
            equal, fractional width; ``truncate`` keeps the first rows and ``drop`` evenly spaced ones, also where that
            cuts a word; ``floor_average`` pools the whole prompt, template included, with a floor kernel that loses the
            tail, and serves only as a control.
        query: the question that the prompt is to answer, for ``salience``: a text or a prompt of the same space. The
            sentences (lines, statements, entries) that fit it best are kept; no model is asked. Where nothing
            informative of it stands in the text, words are kept as without a query, and the recipe says
            ``matched=False``. If the query stands in the prompt as a sentence or line, its rows stay as they are.
        encoder: with a query, sentences are compared by their vectors too, which finds what is said in other words; a
            ``SentenceEncoder()``, whose model reads as much of a sentence as it was made for.
        keep: what survives at any ratio, for ``salience``: strings that stand in the content, compiled regular
            expressions, or a mask of rows [tokens]. Words that they touch are kept whole.
        only: what is compressed, when not all content: numbers of messages (negative ones from the end), texts that
            stand in the prompt, slices of rows, or a mask of rows [tokens]. All other rows stay as they are.
        information: what ``salience`` ranks words by: ``vocabulary``, the rank of their tokens in the vocabulary, and
            their texts; ``surprisal`` under the engine's model; or ``attention``, how much the model looks at them
            when it repeats the text (two forward passes).
        opening: for ``salience`` without a query, the share of the kept rows for the first informative words of a
            message (numbers, negations, and words that are not among the most frequent), since a text tends to begin
            with its topic. By default, with ``vocabulary``, all of them, or 0.3 where more than one in twenty
            informative words is a number; with a model's information none.
        match_norm: rescale mixed rows to the mean distance of their sources from the vocabulary's mean.
        space: the prompt's space, where a method or text needs the vocabulary; by default the one loaded in this
            process that the prompt names.
        engine: for ``surprisal`` and ``attention``; may be of a smaller model than the one that answers.

    Raises:
        ValueError: neither or both of ratio and length, one out of bounds, a prompt without content or not
            finite, an unknown option, an empty query or one of another space, texts that do not stand in the prompt,
            more to keep than fits, or a needed ``engine`` or ``space`` that is missing.
        TypeError: ``query``, ``keep`` or ``only`` of another type.
    """
    require_content(prompt, "compression")
    require_finite(prompt, "compression")
    _check_options(method, information, opening)
    if method != "salience" and (query is not None or keep is not None):
        raise ValueError(f"query and keep need method='salience', which keeps whole words; got {method!r}")
    if encoder is not None and query is None:
        raise ValueError(
            "encoder compares sentences with a query, and there is none; pass query=, or leave encoder out"
        )
    if encoder is not None:
        from embedspace.encoders import SentenceEncoder

        if not isinstance(encoder, SentenceEncoder):
            raise TypeError(
                f"encoder is a {type(encoder).__name__}; it must be a SentenceEncoder of embedspace.encoders"
            )
    content = ContentText(prompt, space)
    asked = None if query is None else Query.of(content, query, encoder)
    scope = _scope(content, only, asked, whole=method == "salience")
    forced = torch.zeros_like(scope) if keep is None else keep_mask(content, keep) & scope
    scoped = replace(prompt, content=scope.to(prompt.content.device))
    runs = scoped.content_runs
    sizes = [run.stop - run.start for run in runs]
    rows = sum(sizes)
    target = target_length(rows, len(runs), ratio, length)
    if target == rows:
        return prompt
    parameters: dict[str, Value] = {"length": target, "method": method, "match_norm": match_norm}
    if not torch.equal(scope, prompt.content.cpu()):
        parameters["only"] = mask_as_text(scope)
    if method == "floor_average":
        if only is not None:
            raise ValueError("floor_average pools the whole prompt; only= needs another method")
        total = len(prompt) - rows + target
        pooled = floored(len(prompt), total)(prompt.vectors, content.space.mean if match_norm else None)
        recipe = Recipe.of("compress", parameters, prompt.recipe)
        return PromptEmbeds(pooled, torch.ones_like(prompt.content[:total]), prompt.space, recipe)
    lengths = allot(sizes, target)
    inputs = [prompt.recipe]
    if method == "salience":
        ranked = saliences(content, runs, asked, forced, information, opening, engine)
        pieces = [each.kept(prompt.vectors, own) for each, own in zip(ranked, lengths, strict=True)]
        if length is not None and sum(map(len, pieces)) > length:
            raise ValueError(
                f"length is {length}; the shortest words of {len(runs)} messages take {sum(map(len, pieces))} rows"
            )
        parameters |= {"information": information, "opening": opening, "version": SALIENCE_VERSION}
        if ratio is not None:  # what a ratio leaves may be more than its length
            parameters["ratio"] = float(ratio)
        if keep is not None:
            parameters["keep"] = mask_as_text(forced)
        if asked is not None:
            parameters |= asked.parameters(any(each.relevance is not None for each in ranked))
            inputs += asked.recipes
        if information != "vocabulary" and engine is not None:
            parameters["engine"] = repr(sorted(engine.describe().items()))
    else:
        mean = content.space.mean if match_norm else None
        pieces = [
            POOLINGS[method](content, run, own)(prompt.vectors[run], mean)
            for run, own in zip(runs, lengths, strict=True)
        ]
    return prompt.with_runs(pieces, Recipe.of("compress", parameters, *inputs), runs)


POOLINGS: dict[Method, Callable[[ContentText, slice, int], Pooling]] = {
    "average": lambda content, run, length: averaged(run.stop - run.start, length),
    "merge": lambda content, run, length: merged(content.prompt.vectors[run], length, content.space.mean),
    "truncate": lambda content, run, length: first(run.stop - run.start, length),
    "drop": lambda content, run, length: spaced(run.stop - run.start, length),
}


def _scope(
    content: ContentText, only: Extent | Sequence[Extent] | Tensor | None, query: Query | None, *, whole: bool
) -> Bool[Tensor, " tokens"]:
    """The rows that are compressed: what the caller selects, without the query; or the whole words of these."""
    scope = selected = content.prompt.content.cpu() if only is None else part_mask(content, only)
    if query is not None:
        scope = scope & ~query.rows
        if not bool(scope.any()):
            raise ValueError("what is to be compressed is the query itself; nothing else is left of it")
    if whole and (query is not None or selected is not content.prompt.content):
        scope = content.whole_units(scope)
        if not bool(scope.any()):
            raise ValueError(
                f"only={only!r:.80} selects no whole word of the prompt; there is nothing to compress"
            )
    return scope


def target_length(rows: int, runs: int, ratio: float | None, length: int | None) -> int:
    """Number of content rows for a ratio or a length.

    Raises:
        ValueError: neither or both given, or out of bounds.
    """
    if (ratio is None) == (length is None):
        raise ValueError(f"give either ratio or length; got ratio={ratio!r} and length={length!r}")
    if ratio is not None:
        if isinstance(ratio, bool) or not isinstance(ratio, Real):
            raise TypeError(f"ratio is {ratio!r}; it must be a number of at least 1, such as 4.0")
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


def _check_options(method: str, information: str, opening: float | None) -> None:
    for name, value, allowed in (
        ("method", method, get_args(Method)),
        ("information", information, get_args(Information)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")
    if opening is not None and not (isinstance(opening, int | float) and 0 <= opening <= 1):
        raise ValueError(f"opening is {opening!r}; it must be in [0, 1], a share of the rows kept")
