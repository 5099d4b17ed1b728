"""How surprising a prompt's tokens are to a model: minus the log-probability of each, given the rows before."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import torch

from embedspace.compression.token_information import token_texts
from embedspace.prompt import tensor_digest
from embedspace.space import token_ids

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.prompt import PromptEmbeds
    from embedspace.space import EmbeddingSpace

# One prompt is often asked about at several lengths, and the model's answer is the same for all.
_REMEMBERED = 1024
_KNOWN: WeakKeyDictionary[TransformersEngine, OrderedDict[str, Tensor]] = WeakKeyDictionary()


def surprisal(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    """Surprisal of every row's nearest token, in nats, float64; a first row has none and counts as 0.

    An engine of another model reads the prompt's text with its own tokenizer; the surprisal of its tokens
    is divided over their characters and summed over the characters of ours.
    """
    known = _KNOWN.setdefault(engine, OrderedDict())
    key = f"{prompt.space} {tensor_digest(prompt.vectors)}"
    if key not in known:
        known[key] = _told(prompt, space, engine)
        if len(known) > _REMEMBERED:
            known.popitem(last=False)
    return known[key]


def _told(
    prompt: PromptEmbeds, space: EmbeddingSpace, engine: TransformersEngine
) -> Float[Tensor, " tokens"]:
    ids = token_ids(space, prompt.vectors)
    if engine.space.fingerprint == space.fingerprint:
        return _surprisal(engine, prompt.vectors, ids)
    pieces = token_texts(space, ids.tolist())
    theirs, offsets = engine.space.tokenizer.encode_with_offsets("".join(pieces))
    told = _surprisal(engine, engine.space.lookup(theirs), torch.tensor(theirs))
    characters = torch.zeros(sum(map(len, pieces)), dtype=torch.float64)
    for (start, stop), nats in zip(offsets, told.tolist(), strict=True):
        characters[start:stop] = nats / max(1, stop - start)
    totals = torch.cat([characters.new_zeros(1), characters.cumsum(0)])
    ends = torch.tensor([0, *map(len, pieces)]).cumsum(0)
    return totals[ends[1:]] - totals[ends[:-1]]


@torch.inference_mode()
def _surprisal(engine: TransformersEngine, vectors: Tensor, ids: Tensor) -> Tensor:
    limit = engine.space.context_length
    if limit is not None and len(vectors) > limit:
        raise ValueError(
            f"the prompt has {len(vectors)} rows and {engine.space.name!r} reads at most {limit}; shorten it "
            "first with a method that asks no model, or ask a model with a longer context"
        )
    told = torch.zeros(len(vectors), dtype=torch.float64)
    if len(vectors) > 1:
        rows = vectors[None, :-1].to(engine.device, engine.dtype)
        logits = engine.model(inputs_embeds=rows, use_cache=False).logits[0]
        # Piece by piece: a second array of rows x vocabulary in float32 would be the largest of all.
        for start in range(0, len(logits), 256):
            piece = logits[start : start + 256].float().log_softmax(dim=-1)
            wanted = ids[start + 1 : start + 1 + len(piece), None].to(piece.device)
            told[start + 1 : start + 1 + len(piece)] = -piece.gather(1, wanted)[:, 0].double().cpu()
    return told
