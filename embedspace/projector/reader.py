"""SoftTokenReader: the likelihood of sentences after soft tokens under a frozen language model."""

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
_LOGITS_BATCH_SIZE = 512


class SoftTokenReader:
    """Scores sentences after a templated instruction that ends in soft tokens.

    ``<template> instruction [soft tokens] <end of turn> <assistant>`` and then the sentence. All prompts share the rows
    before the soft tokens, whose keys and values are computed once.

    Args:
        engine: the frozen model, which computes in its dtype.
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
        # A compiled model would be compiled again for the shape of this one prompt.
        with torch.no_grad(), torch.compiler.set_stance("force_eager"):
            known = engine.model(inputs_embeds=rows[None, :end], use_cache=True)
            hidden = self._body(inputs_embeds=rows[None, :end], use_cache=False).last_hidden_state
            if not torch.allclose(known.logits[0, -1], self._to_logits(hidden[0, -1]), rtol=1e-2, atol=1e-2):
                raise ValueError(
                    f"the logits of {engine.space.name!r} are not its output embedding of the last hidden state, as "
                    "this reader computes them"
                )
        self._prefix = [(layer.keys, layer.values) for layer in known.past_key_values.layers]

    @property
    def rows_after(self) -> int:
        """Template rows between the soft tokens and the sentence."""
        return len(self._after)

    def text_rows(self, text: str) -> Float[Tensor, "tokens hidden"]:
        """The text's own rows after the instruction, which soft tokens replace."""
        space = self.engine.space
        whole = space.embed_chat([{"role": "user", "content": f"{self.instruction} {text}"}])
        bare = space.embed_chat([{"role": "user", "content": self.instruction}])
        return whole.vectors[bare.content_runs[-1].stop : whole.content_runs[-1].stop]

    def nll(
        self, soft: Sequence[Float[Tensor, "tokens hidden"]], sentences: Sequence[Sequence[int]]
    ) -> Float[Tensor, " sentences"]:
        """Negative log-likelihood of each whole sentence after its soft tokens, in nats, float32, with gradients.

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
        """Negative log-likelihood of single tokens, in pieces: the logits of all at once would take most memory."""
        pieces = zip(hidden.split(_LOGITS_BATCH_SIZE), wanted.split(_LOGITS_BATCH_SIZE), strict=True)
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
        """For each token of all sentences: the hidden state that predicts it, its sentence's number, and its id."""
        device, dtype = self.engine.device, self.engine.dtype
        after, count = len(self._after), len(sentences)
        lengths = torch.tensor([len(sentence) for sentence in sentences])
        leading = torch.tensor([len(own) for own in soft])
        width = int((leading + lengths).max()) + after - 1
        owners, predicting = _runs(lengths, leading + after - 1)
        # Padding comes last, where causal attention does not look.
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
        read[lengths.cumsum(0) - 1] = False  # the last token of a sentence predicts nothing
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
        # Two-dimensional and contiguous: a batched product with the output embedding takes several times as long.
        found = hidden.flatten(0, 1)[(owners * width + predicting).to(device)]
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
    """For each element of runs of ``lengths``: the run's number, and the position within it plus the run's start."""
    owners = torch.arange(len(lengths)).repeat_interleave(lengths)
    within = torch.arange(len(owners)) - (lengths.cumsum(0) - lengths)[owners]
    return owners, starts[owners] + within
