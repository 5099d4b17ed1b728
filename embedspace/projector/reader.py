"""The frozen language model as a reader of soft tokens: how unlikely it finds sentences after them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

    from embedspace.engines import TransformersEngine

INSTRUCTION = "Repeat this:"
_ROWS_AT_ONCE = 512


class SoftTokenReader:
    """Scores sentences after a templated instruction that ends in soft tokens.

    ``<template> instruction [soft tokens] <end of turn> <assistant>`` and then the sentence. The rows up to the
    soft tokens are the same for all: their keys and values are computed once.

    Args:
        engine: the frozen model; its dtype is computed in.
        instruction: the user's words before the soft tokens.

    Raises:
        ValueError: the model's logits are not its output embedding of the last hidden state.
    """

    def __init__(self, engine: TransformersEngine, instruction: str = INSTRUCTION) -> None:
        self.engine = engine
        self.instruction = instruction
        prompt = engine.space.embed_chat([{"role": "user", "content": instruction}])
        end = prompt.content_runs[-1].stop
        rows = prompt.vectors.to(engine.device, engine.dtype)
        self._after = rows[end:]
        self._body: Any = engine.model.base_model
        self._to_logits: Any = engine.model.get_output_embeddings()
        # One prompt is not worth compiling a compiled model once more.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            known = engine.model(inputs_embeds=rows[None, :end], use_cache=True)
            hidden = self._body(inputs_embeds=rows[None, :end], use_cache=False).last_hidden_state
            if not torch.allclose(known.logits[0, -1], self._to_logits(hidden[0, -1]), rtol=1e-2, atol=1e-2):
                raise ValueError(
                    f"the logits of {engine.space.name!r} are more than its output embedding of the last hidden state; "
                    "this reader would score another distribution"
                )
        self._prefix = [(layer.keys, layer.values) for layer in known.past_key_values.layers]

    @property
    def rows_after(self) -> int:
        """Template rows between the soft tokens and the sentence."""
        return len(self._after)

    def text_rows(self, text: str) -> Float[Tensor, "tokens hidden"]:
        """The rows of the text itself, as they follow the instruction: what soft tokens stand in for."""
        space = self.engine.space
        whole = space.embed_chat([{"role": "user", "content": f"{self.instruction} {text}"}])
        bare = space.embed_chat([{"role": "user", "content": self.instruction}])
        return whole.vectors[bare.content_runs[-1].stop : whole.content_runs[-1].stop]

    def nats(
        self, soft: Sequence[Float[Tensor, "tokens hidden"]], sentences: Sequence[Sequence[int]]
    ) -> Float[Tensor, " sentences"]:
        """Negative log-likelihood of each sentence's tokens after its soft tokens, float32, with gradients.

        Args:
            soft: soft tokens of each sentence, of any number; ``[0, hidden]`` for none.
            sentences: token ids.
        """
        hidden, owners, wanted = self.hidden(soft, sentences)
        losses = self.token_losses(hidden, wanted)
        return losses.new_zeros(len(sentences)).index_add(0, owners, losses)

    def token_losses(
        self, hidden: Float[Tensor, "places hidden"], wanted: Int[Tensor, " places"]
    ) -> Float[Tensor, " places"]:
        """Negative log-likelihood of single tokens, a piece at a time: logits are the largest array of all."""
        pieces = zip(hidden.split(_ROWS_AT_ONCE), wanted.split(_ROWS_AT_ONCE), strict=True)
        return torch.cat(
            [F.cross_entropy(self.logits(piece).float(), ids, reduction="none") for piece, ids in pieces]
        )

    def logits(self, hidden: Float[Tensor, "places hidden"]) -> Float[Tensor, "places vocabulary"]:
        """Output embedding of hidden states."""
        found: Tensor = self._to_logits(hidden)
        return found

    def hidden(
        self, soft: Sequence[Tensor], sentences: Sequence[Sequence[int]]
    ) -> tuple[Float[Tensor, "places hidden"], Tensor, Tensor]:
        """Last hidden states from which each sentence token is told, their sentence, and that token."""
        device, dtype = self.engine.device, self.engine.dtype
        after, count = len(self._after), len(sentences)
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        leading = torch.tensor([len(own) for own in soft])
        width = int((leading + lengths).max()) + after - 1
        owners, told = _runs(lengths, leading + after - 1)
        # Padding comes after all that counts, where causal attention does not look.
        filled = torch.cat(
            [
                owner * width + place
                for owner, place in (
                    _runs(leading, torch.zeros_like(leading)),
                    _runs(torch.full_like(leading, after), leading),
                    _runs(lengths - 1, leading + after),
                )
            ]
        )
        wanted = torch.tensor([token for sentence in sentences for token in sentence])
        read = torch.ones_like(wanted, dtype=torch.bool)
        read[lengths.cumsum(0) - 1] = False  # nothing is told from a sentence's last token
        own_rows = soft.flatten(0, 1) if isinstance(soft, torch.Tensor) else torch.cat(list(soft))
        known = self._body.get_input_embeddings()(wanted[read].to(device))
        rows = torch.cat([own_rows.to(device, dtype), self._after.repeat(count, 1), known])
        padded = rows.new_zeros(count * width, rows.shape[1]).index_copy(0, filled.to(device), rows)
        with torch.autocast(device.type, enabled=False):  # the frozen model computes in its own dtype
            hidden = self._body(
                inputs_embeds=padded.unflatten(0, (count, width)),
                past_key_values=self._cache(count),
                use_cache=True,
            ).last_hidden_state
        # Two-dimensional and contiguous: a batched product with the output embedding would take several times as long.
        found = hidden.flatten(0, 1)[(owners * width + told).to(device)]
        return found, owners.to(device), wanted.to(device)

    def _cache(self, sequences: int) -> Any:
        from transformers import DynamicCache

        cache: Any = DynamicCache(config=self.engine.model.config)
        for layer, (keys, values) in zip(cache.layers, self._prefix, strict=True):
            layer.lazy_initialization(keys, values)
            layer.keys = keys.expand(sequences, -1, -1, -1)
            layer.values = values.expand(sequences, -1, -1, -1)
        return cache


def _runs(lengths: Tensor, starts: Tensor) -> tuple[Tensor, Tensor]:
    """Of every place in runs of ``lengths``: number of the run, and the place, counted from the run's start."""
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    within = torch.arange(len(owners)) - (lengths.cumsum(0) - lengths)[owners]
    return owners, starts[owners] + within
