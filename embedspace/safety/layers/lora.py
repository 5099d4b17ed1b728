"""The adapted layer: a sentence encoder whose last blocks were taught to tell attacks from benign texts."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import torch

from embedspace.encoders import load_sentence_encoder, sentence_vectors
from embedspace.safety.reading import most, training_views
from embedspace.safety.verdict import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float
    from torch import Tensor, nn

    from embedspace.safety.reading import Reading

MATRICES = (
    "attention.self.query",
    "attention.self.key",
    "attention.self.value",
    "attention.output.dense",
    "intermediate.dense",
    "output.dense",
)
"""The linear maps of one block of BERT."""


@dataclass(frozen=True, eq=False)
class Adapted:
    """Probability of an attack from an adapted encoder's sentence vector; the highest over windows and views counts.

    Each matrix of the encoder's last blocks has a low-rank update (LoRA, Hu et al. 2021), trained together with a
    logistic regression on the vector. Only the updates are stored.
    """

    name: ClassVar[str] = "adapted"

    updates: Float[Tensor, " numbers"]
    """Of each block and matrix in turn ``down`` [rank, inputs] and then ``up`` [outputs, rank]."""
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
    ) -> Adapted:
        """Trained on the canonical texts of both sides, which weigh alike; needs ``peft``.

        Args:
            safe, unsafe: the two sides.
            encoder: packaged name, local folder or hub id of a sentence-transformers model of BERT's architecture.
            blocks: how many of its last blocks get updates.
            rank: of the updates.
            epochs: over the texts; a minute takes some 250 texts on one core.
            seed: of the updates and of the order of texts.

        Raises:
            ValueError: ``peft`` is not installed.
        """
        from embedspace.safety.layers.lora_training import adapt

        texts, labels, weights = training_views(safe, unsafe)
        made = adapt(encoder, texts, labels, weights, blocks=blocks, rank=rank, epochs=epochs, seed=seed)
        return cls(*made, encoder, blocks, rank)

    def scores(self, readings: Sequence[Reading]) -> list[Finding]:
        """One finding for each prompt; all texts are encoded together."""
        return most(
            readings,
            lambda texts: [(value, None) for value in self.probabilities(texts)],
            "meaning like that of attacks",
        )

    def score(self, reading: Reading) -> Finding:
        """Probability of the window that looks worst."""
        return self.scores([reading])[0]

    def probabilities(self, texts: Sequence[str]) -> list[float]:
        """Of canonical texts."""
        logits = sentence_vectors(self._model, texts) @ self.coefficients + self.intercept
        return [float(value) for value in logits.sigmoid()]

    @cached_property
    def _model(self) -> Any:
        """The encoder with the updates added; what has none is the encoder's own, not a copy.

        Raises:
            ValueError: updates of another encoder's shapes.
        """
        plain = load_sentence_encoder(self.encoder)
        changed = {id(matrix.weight) for matrix in matrices(plain, self.blocks)}
        shared = {id(each): each for each in plain.parameters() if id(each) not in changed}
        made = copy.deepcopy(plain, shared)
        expected = sum(self.rank * sum(matrix.weight.shape) for matrix in matrices(made, self.blocks))
        if len(self.updates) != expected:
            raise ValueError(
                f"the adapted layer has {len(self.updates)} numbers of updates, {self.encoder} needs {expected}"
            )
        rest = self.updates
        with torch.no_grad():
            for matrix in matrices(made, self.blocks):
                outputs, inputs = matrix.weight.shape
                down, up, rest = rest.split(
                    [self.rank * inputs, outputs * self.rank, len(rest) - self.rank * (inputs + outputs)]
                )
                matrix.weight += up.view(outputs, self.rank) @ down.view(self.rank, inputs)
        return made


def matrices(encoder: Any, blocks: int) -> Iterator[nn.Linear]:
    """The linear maps of a sentence encoder's last blocks, in the order in which updates are stored."""
    for block in encoder[0].auto_model.encoder.layer[-blocks:]:
        for name in MATRICES:
            yield block.get_submodule(name)
