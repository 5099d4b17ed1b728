"""Trains the updates of an adapted encoder."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedspace._util.progress import progress
from embedspace.encoders import load_sentence_encoder
from embedspace.safety.layers.lora import MATRICES, matrices

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jaxtyping import Float
    from torch import Tensor

BATCH = 32
POOL = 20
"""Batches whose texts are sorted by length together, so that little of a batch is padding."""
RATE = 1e-3
"""Highest learning rate; it falls to 0 along a line."""
WARMUP = 50
"""Steps."""
SMOOTH = 0.02
"""How far the labels are from 0 and 1: some of them are wrong."""


def adapt(
    name: str,
    texts: Sequence[str],
    labels: Sequence[int],
    weights: Sequence[float],
    *,
    blocks: int,
    rank: int,
    epochs: int,
    seed: int,
) -> tuple[Float[Tensor, " numbers"], Float[Tensor, " features"], Float[Tensor, ""]]:
    """Updates of an encoder's last blocks, and the regression on its sentence vectors, from labelled texts.

    Args:
        name: of the sentence encoder.
        texts: what to tell apart.
        labels: 1 is an attack.
        weights: of the texts; those of a label are scaled to sum to the same.
        blocks, rank, epochs, seed: see :meth:`embedspace.safety.layers.lora.Adapted.fit`.

    Raises:
        ValueError: ``peft`` is not installed.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = copy.deepcopy(load_sentence_encoder(name))
        _insert(encoder, blocks, rank)
        features = int(encoder.get_embedding_dimension())
        head = nn.Linear(features, 1)
        spread = math.sqrt(features) / 4  # vectors have length 1: the head's weights need not grow large
        share, target = _balanced(labels, weights), torch.tensor(labels).float() * (1 - 2 * SMOOTH) + SMOOTH
        trained = [each for each in (*encoder.parameters(), *head.parameters()) if each.requires_grad]
        optimiser = torch.optim.AdamW(trained, RATE, weight_decay=0.01)
        batches = list(_batches(texts, epochs, np.random.default_rng(seed)))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser, lambda step: min(1.0, (step + 1) / WARMUP) * (1 - step / len(batches))
        )
        with progress("adapting the sentence encoder", len(batches)) as advance:
            for batch in batches:
                tokens = encoder.tokenizer(
                    [texts[n] for n in batch],
                    padding=True,
                    truncation=True,
                    max_length=encoder.max_seq_length,
                    return_tensors="pt",
                )
                vectors = encoder(dict(tokens))["sentence_embedding"]
                logits = head(F.normalize(vectors, dim=1) * spread)[:, 0]
                loss = F.binary_cross_entropy_with_logits(logits, target[batch], share[batch])
                optimiser.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(trained, 1.0)
                optimiser.step()
                schedule.step()
                advance()
    updates = torch.cat([part for matrix in matrices(encoder, blocks) for part in _update(matrix)])
    coefficients = head.weight.detach()[0] * spread
    return updates.half().float(), coefficients, head.bias.detach()[0]  # as they are stored


def _insert(encoder: Any, blocks: int, rank: int) -> None:
    """Low-rank updates, which alone are trained, in the last blocks; dropout there alone."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError("the adapted layer is trained with peft: pip install 'embedspace[train]'") from error
    bert = encoder[0].auto_model
    count = len(bert.encoder.layer)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(MATRICES),
        layers_to_transform=list(range(count - blocks, count)),
        layers_pattern="layer",
    )
    inject_adapter_in_model(config, bert)
    encoder.eval()
    for block in bert.encoder.layer[-blocks:]:
        block.train()


def _update(matrix: Any) -> tuple[Float[Tensor, " down"], Float[Tensor, " up"]]:
    (down,), (up,), (scale,) = (each.values() for each in (matrix.lora_A, matrix.lora_B, matrix.scaling))
    return down.weight.detach().flatten(), scale * up.weight.detach().flatten()


def _balanced(labels: Sequence[int], weights: Sequence[float]) -> Float[Tensor, " texts"]:
    """Weights of mean 1, half of them on either label."""
    share, unsafe = torch.tensor(weights), torch.tensor(labels).bool()
    for side in (unsafe, ~unsafe):
        share[side] /= share[side].sum()
    return share / share.mean()


def _batches(texts: Sequence[str], epochs: int, draw: np.random.Generator) -> Iterator[list[int]]:
    """Numbers of texts in batches of like length, in random order, every text once an epoch."""
    for _ in range(epochs):
        order = draw.permutation(len(texts))
        found = []
        for start in range(0, len(order), BATCH * POOL):
            pool = sorted(order[start : start + BATCH * POOL].tolist(), key=lambda n: len(texts[n]))
            found += [pool[first : first + BATCH] for first in range(0, len(pool), BATCH)]
        draw.shuffle(found)
        yield from found
