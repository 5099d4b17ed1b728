"""The adapted layer: a sentence encoder with low-rank updates, trained to separate attacks from benign texts."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from embedspace._util.extras import pip_install
from embedspace._util.progress import progress
from embedspace.encoders import load_sentence_encoder, sentence_vectors
from embedspace.safety.reading import highest_scoring_windows, training_views
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.safety.reading import Reading

TARGET_MODULES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""The linear layers of one block of BERT."""
BATCH_SIZE = 32
POOL_BATCHES = 20
"""Batches that are sorted by length together, so that they contain little padding."""
LEARNING_RATE = 1e-3
"""Highest value; it decays to 0 linearly."""
WARMUP_STEPS = 50
MAX_STEPS = 2000
"""Batches of a training at most: a quarter of an hour on two cores, for texts of 24 tokens."""
LABEL_SMOOTHING = 0.02
"""Distance of the targets from 0 and 1, since some labels are wrong."""


@dataclass(frozen=True, eq=False)
class AdaptedEncoder:
    """Probability of an attack from an adapted encoder's sentence vector; a prompt gets its windows' highest.

    Each linear layer of the encoder's last blocks has a low-rank update (LoRA, Hu et al. 2021), trained together with a
    logistic regression on the vector. Only the updates are stored.
    """

    name: ClassVar[str] = "adapted"
    costly: ClassVar[bool] = True
    stored: ClassVar[dict[str, torch.dtype]] = {
        "updates": torch.float16,
        "coefficients": torch.float32,
        "intercept": torch.float32,
    }

    updates: Float[Tensor, " numbers"]
    """For each block and linear layer in turn ``down`` [rank, inputs] and then ``up`` [outputs, rank], flattened."""
    coefficients: Float[Tensor, " features"]
    intercept: Float[Tensor, ""]
    encoder: str = "all-minilm-l6-v2"
    blocks: int = 3
    rank: int = 8

    @classmethod
    def fit(
        cls,
        safe: Sequence[Reading],
        unsafe: Sequence[Reading],
        *,
        encoder: str = "all-minilm-l6-v2",
        blocks: int = 3,
        rank: int = 8,
        epochs: int = 2,
        seed: int = 0,
    ) -> AdaptedEncoder:
        """Trained on the canonical texts, both classes weighted equally; needs ``peft``.

        Args:
            safe, unsafe: the two classes.
            encoder: packaged name, local folder or hub id of a sentence-transformers model of BERT's architecture.
            blocks: how many of its last blocks get updates.
            rank: of the updates.
            epochs: passes over the texts, as far as :data:`MAX_STEPS` batches go; about 1,500 windows of 24 tokens a
                minute on one core.
            seed: of the initial updates and the order of texts.

        Raises:
            ValueError: ``peft`` is not installed.
        """
        texts, labels, weights = training_views(safe, unsafe)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            model = copy.deepcopy(load_sentence_encoder(encoder))
            _insert_updates(model, blocks, rank)
            features = int(model.get_embedding_dimension())
            head = nn.Linear(features, 1)
            scale = math.sqrt(features) / 4  # vectors have norm 1: keeps the head's weights small
            batches = list(islice(_batches(texts, epochs, np.random.default_rng(seed)), MAX_STEPS))
            _train(model, head, scale, texts, labels, _balanced(labels, weights), batches)
        updates = torch.cat([part for layer in _linear_layers(model, blocks) for part in _update(layer)])
        coefficients = head.weight.detach()[0] * scale
        # Rounded as they are stored.
        return cls(updates.half().float(), coefficients, head.bias.detach()[0], encoder, blocks, rank)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt; all texts are encoded together."""
        return highest_scoring_windows(readings, self._classify, "meaning like that of attacks")

    def _classify(self, texts: Sequence[str]) -> list[tuple[float, None]]:
        logits = sentence_vectors(self._model, texts) @ self.coefficients + self.intercept
        return [(float(value), None) for value in logits.sigmoid()]

    @cached_property
    def _model(self) -> Any:
        """The encoder with the updates added; unchanged parameters are shared with the original, not copied.

        Raises:
            ValueError: updates for another encoder's shapes.
        """
        original = load_sentence_encoder(self.encoder)
        changed = {id(layer.weight) for layer in _linear_layers(original, self.blocks)}
        shared = {id(each): each for each in original.parameters() if id(each) not in changed}
        model = copy.deepcopy(original, shared)
        expected = sum(self.rank * sum(layer.weight.shape) for layer in _linear_layers(model, self.blocks))
        if len(self.updates) != expected:
            raise ValueError(
                f"the adapted layer has {len(self.updates)} numbers of updates, {self.encoder} needs {expected}"
            )
        rest = self.updates
        with torch.no_grad():
            for layer in _linear_layers(model, self.blocks):
                outputs, inputs = layer.weight.shape
                down, up, rest = rest.split(
                    [self.rank * inputs, outputs * self.rank, len(rest) - self.rank * (inputs + outputs)]
                )
                layer.weight += up.view(outputs, self.rank) @ down.view(self.rank, inputs)
        return model


def _linear_layers(encoder: Any, blocks: int) -> Iterator[nn.Linear]:
    """The linear layers of a sentence encoder's last blocks, in the order in which updates are stored."""
    for block in encoder[0].auto_model.encoder.layer[-blocks:]:
        for name in TARGET_MODULES:
            yield block.get_submodule(name)


def _insert_updates(encoder: Any, blocks: int, rank: int) -> None:
    """Low-rank updates in the last blocks: the only trained parameters, and the only blocks with dropout."""
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ValueError(f"the adapted layer is trained with peft: {pip_install('train')}") from error
    bert = encoder[0].auto_model
    count = len(bert.encoder.layer)
    config = LoraConfig(
        r=rank,
        lora_alpha=2 * rank,
        target_modules=list(TARGET_MODULES),
        layers_to_transform=list(range(count - blocks, count)),
        layers_pattern="layer",
    )
    inject_adapter_in_model(config, bert)
    encoder.eval()
    for block in bert.encoder.layer[-blocks:]:
        block.train()


def _train(
    encoder: Any,
    head: nn.Linear,
    scale: float,
    texts: Sequence[str],
    labels: Sequence[int],
    weights: Float[Tensor, " texts"],
    batches: Sequence[list[int]],
) -> None:
    targets = torch.tensor(labels).float() * (1 - 2 * LABEL_SMOOTHING) + LABEL_SMOOTHING
    trained = [each for each in (*encoder.parameters(), *head.parameters()) if each.requires_grad]
    optimiser = torch.optim.AdamW(trained, LEARNING_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: min(1.0, (step + 1) / WARMUP_STEPS) * (1 - step / len(batches))
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
            logits = head(F.normalize(vectors, dim=1) * scale)[:, 0]
            loss = F.binary_cross_entropy_with_logits(logits, targets[batch], weights[batch])
            optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            advance()


def _update(layer: Any) -> tuple[Float[Tensor, " down"], Float[Tensor, " up"]]:
    (down,), (up,), (scale,) = (each.values() for each in (layer.lora_A, layer.lora_B, layer.scaling))
    return down.weight.detach().flatten(), scale * up.weight.detach().flatten()


def _balanced(labels: Sequence[int], weights: Sequence[float]) -> Float[Tensor, " texts"]:
    """Weights of mean 1; both labels have the same total."""
    share, unsafe = torch.tensor(weights), torch.tensor(labels).bool()
    for side in (unsafe, ~unsafe):
        share[side] /= share[side].sum()
    return share / share.mean()


def _batches(texts: Sequence[str], epochs: int, rng: np.random.Generator) -> Iterator[list[int]]:
    """Indices of texts in batches of similar length, in random order, every text once an epoch."""
    for _ in range(epochs):
        order = rng.permutation(len(texts))
        batches = []
        for start in range(0, len(order), BATCH_SIZE * POOL_BATCHES):
            pool = sorted(
                order[start : start + BATCH_SIZE * POOL_BATCHES].tolist(), key=lambda n: len(texts[n])
            )
            batches += [pool[first : first + BATCH_SIZE] for first in range(0, len(pool), BATCH_SIZE)]
        rng.shuffle(batches)
        yield from batches
