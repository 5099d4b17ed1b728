"""Token information under a model: the surprisal of tokens, and the attention that they get when a text is repeated."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from embedspace.prompt import tensor_digest
from embedspace.space import token_ids, token_texts

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.space import EmbeddingSpace

_REQUEST = "\n\nRepeat the text above word by word.\n\n"
_WINDOW = 200
"""Rows that are repeated together: with their copy they stay within the sliding windows of current models."""
_LOGITS_BATCH_SIZE = 256
# A prompt is often compressed to several lengths; its information is the same for all.
_CACHED_TEXTS = 1024
_CACHE: WeakKeyDictionary[TransformersEngine, OrderedDict[str, Tensor]] = WeakKeyDictionary()
_SURPRISAL = "surprisal"
_Compute = Callable[["TransformersEngine", "Tensor", "Tensor"], "Tensor"]
_OBSERVED = "embedspace_observed"
_LOCK = Lock()


def surprisal(
    vectors: Float[Tensor, "tokens hidden"], space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    """Negative log-probability of every row's nearest token given the rows before, in nats, float64.

    The first row's is 0. An engine of another model scores the rows' text with its own tokenizer; the surprisal of
    its tokens is spread evenly over their characters and summed over the characters of the rows' tokens.

    Raises:
        ValueError: more rows than the engine's context.
    """
    return _cached(engine, _SURPRISAL, space, vectors, _token_nll)


def copy_attention(
    vectors: Float[Tensor, "tokens hidden"], space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    """How much each row is looked at when the model repeats the text (context reconstruction, KVzip, Kim et al. 2025).

    The model reads the rows, a request to repeat them, and the rows again; the most attention that a row gets from
    the copy is averaged over layers and heads. Long texts are read in windows. An engine of another model reads the
    rows' text with its own tokenizer; a row is worth as much as the most looked at token of its characters. About two
    forward passes of the text.
    """
    return _cached(engine, "attention", space, vectors, _copy_attention)


def _cached(
    engine: TransformersEngine, kind: str, space: EmbeddingSpace, vectors: Tensor, compute: _Compute
) -> Tensor:
    cached = _CACHE.setdefault(engine, OrderedDict())
    key = f"{kind} {space.fingerprint} {tensor_digest(vectors)}"
    if key not in cached:
        cached[key] = _by_row(vectors, space, engine, compute, is_sum=kind == _SURPRISAL)
        if len(cached) > _CACHED_TEXTS:
            cached.popitem(last=False)
    return cached[key]


def _by_row(
    vectors: Tensor, space: EmbeddingSpace, engine: TransformersEngine, compute: _Compute, *, is_sum: bool
) -> Tensor:
    """Values of the rows; from the values of an engine's own tokens, where its tokenizer is another one."""
    ids = token_ids(space, vectors)
    if engine.space.fingerprint == space.fingerprint:
        return compute(engine, vectors, ids)
    pieces = token_texts(space, ids.tolist())
    theirs, offsets = engine.space.tokenizer.encode_with_offsets("".join(pieces))
    found = compute(engine, engine.space.lookup(theirs), torch.tensor(theirs))
    characters = torch.zeros(sum(map(len, pieces)), dtype=torch.float64)
    for (start, stop), value in zip(offsets, found.tolist(), strict=True):
        characters[start:stop] = value / max(1, stop - start) if is_sum else value
    ends = list(itertools.accumulate(map(len, pieces), initial=0))
    spans = [characters[start:stop] for start, stop in itertools.pairwise(ends)]
    return torch.stack(
        [span.sum() if is_sum else span.max() if len(span) else characters.new_zeros(()) for span in spans]
    )


@torch.inference_mode()
def _token_nll(engine: TransformersEngine, vectors: Tensor, ids: Int[Tensor, " tokens"]) -> Tensor:
    limit = engine.space.context_length
    if limit is not None and len(vectors) > limit:
        raise ValueError(
            f"the prompt has {len(vectors)} rows and the context of {engine.space.name!r} is {limit}; shorten it first "
            "with a method that needs no model, or give the engine of a model with a longer context"
        )
    found = torch.zeros(len(vectors), dtype=torch.float64)
    if len(vectors) > 1:
        rows = vectors[None, :-1].to(engine.device, engine.dtype)
        logits = engine.model(inputs_embeds=rows, use_cache=False).logits[0]
        # In pieces: the log-probabilities of all rows in float32 would take twice the memory of the logits.
        for start in range(0, len(logits), _LOGITS_BATCH_SIZE):
            piece = logits[start : start + _LOGITS_BATCH_SIZE].float().log_softmax(dim=-1)
            wanted = ids[start + 1 : start + 1 + len(piece), None].to(piece.device)
            found[start + 1 : start + 1 + len(piece)] = -piece.gather(1, wanted)[:, 0].double().cpu()
    return found


@torch.inference_mode()
def _copy_attention(engine: TransformersEngine, vectors: Tensor, ids: Int[Tensor, " tokens"]) -> Tensor:
    request = engine.space.lookup(engine.space.tokenize(_REQUEST)).to(vectors)
    # The first rows of an input get attention whatever they are.
    first = request[:1]
    found = []
    for window in vectors.split(_WINDOW):
        rows = torch.cat([first, window, request, window])
        start = len(first)
        with _observed(engine.model, slice(start, start + len(window)), len(window)) as maxima:
            # Only the layers: the logits of all rows would take more time and memory than they do.
            engine.model.base_model(inputs_embeds=rows[None].to(engine.device, engine.dtype), use_cache=False)
        found.append(torch.cat(maxima).double().mean(dim=0).cpu())
    return torch.cat(found)


@contextmanager
def _observed(model: Any, keys: slice, queries: int) -> Iterator[list[Float[Tensor, "heads keys"]]]:
    """The most attention that each of some rows gets from the last ones, in each head, layer after layer."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.integrations.sdpa_attention import sdpa_attention_forward
    from transformers.masking_utils import sdpa_mask

    maxima: list[Tensor] = []

    def observe(
        module: Any, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, **options: Any
    ) -> Any:
        grouped = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
        scale = options.get("scaling") or query.shape[-1] ** -0.5
        scores = (query[0, :, -queries:] @ grouped[0].transpose(1, 2)).float() * scale
        later = torch.ones(queries, queries, dtype=torch.bool, device=scores.device).triu(1)
        scores[:, :, -queries:].masked_fill_(later, -torch.inf)
        maxima.append(scores.softmax(dim=-1)[:, :, keys].amax(dim=1))
        return sdpa_attention_forward(module, query, key, value, mask, **options)

    with _LOCK:
        AttentionInterface.register(_OBSERVED, observe)
        AttentionMaskInterface.register(_OBSERVED, sdpa_mask)
        usual = model.config._attn_implementation
        model.set_attn_implementation(_OBSERVED)
        try:
            yield maxima
        finally:
            model.set_attn_implementation(usual)
