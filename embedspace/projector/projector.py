"""Projector: from sentence vectors into the input embedding space of a language model."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import torch
from huggingface_hub import PyTorchModelHubMixin
from torch import nn

from embedspace.encoders import SentenceEncoder
from embedspace.projector.config import ProjectorConfig
from embedspace.projector.heads import HEADS, Lexical
from embedspace.projector.weights_file import read_weights, weights_folder, write_weights
from embedspace.prompt import PromptEmbeds, Recipe, Value, require_content, require_same_space

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

Place = Literal["start", "end"]


class Projector(nn.Module, PyTorchModelHubMixin):
    """Turns sentence vectors of one encoder into soft tokens for one frozen language model.

    Args:
        config: head, sizes, and the pair of models.
        space: the language model's embedding space; by default loaded by name on first use.

    >>> from embedspace import EmbeddingSpace
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> projector = Projector.from_pretrained("minilm-to-smollm2", space=space)
    >>> projector(torch.randn(2, projector.features)).shape
    torch.Size([2, 8, 576])

    Raises:
        ValueError: the space is not the configuration's.
    """

    def __init__(self, config: ProjectorConfig, space: EmbeddingSpace | None = None) -> None:
        super().__init__()
        self.config = config
        self.name: str | None = None
        """The name it was loaded by, for recipes; None for one that was not loaded."""
        self._space = space
        if space is not None:
            self.require_space(space)
        self.head = HEADS[config.head](config, space)

    @classmethod
    def from_pretrained(  # type: ignore[override]
        cls, name: str | Path, *, space: EmbeddingSpace | None = None, revision: str | None = None
    ) -> Self:
        """Load a projector, in evaluation mode, float32.

        Args:
            name: packaged name (``minilm-to-smollm2``), local folder, or hub id.
            space: its language model's embedding space, if already loaded.
            revision: branch, tag or commit of a hub projector.

        Raises:
            ValueError: there is none, its files are damaged or inconsistent, or it is for another space.
        """
        folder = weights_folder(name, revision)
        config = ProjectorConfig.from_file(folder / "config.json")
        projector = cls(config, space)
        read_weights(folder, projector.head)
        projector.name = str(name)
        return projector.eval()

    def _save_pretrained(self, save_directory: Path) -> None:
        """Write config.json and half-precision model.safetensors; called by the mixin's ``save_pretrained``."""
        write_weights(save_directory, self.config, self.head)

    @property
    def tokens(self) -> int:
        """Soft tokens for each sentence."""
        return self.config.tokens

    @property
    def hidden_size(self) -> int:
        """Length of a soft token."""
        return self.config.hidden_size

    @property
    def features(self) -> int:
        """Length of a sentence vector."""
        return self.config.features

    @property
    def space(self) -> str:
        """Fingerprint of the embedding space that the soft tokens live in."""
        return self.config.space

    @cached_property
    def encoder(self) -> SentenceEncoder:
        """The sentence encoder that this projector was trained for.

        Raises:
            ValueError: the encoder of that name has changed since.
        """
        encoder = SentenceEncoder(self.config.encoder)
        self.require_encoder(encoder)
        return encoder

    @property
    def digest(self) -> str:
        """Content hash of head, sizes, pair of models and weights."""
        digest = hashlib.blake2b(digest_size=16)
        shape = (self.config.head, self.config.tokens, self.config.encoder_fingerprint, self.config.space)
        digest.update(repr(shape).encode())
        for name, tensor in sorted(self.head.state_dict().items()):
            digest.update(
                name.encode()
                + tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes()
            )
        return digest.hexdigest()

    def forward(
        self, sentence_vectors: Float[Tensor, "batch features"]
    ) -> Float[Tensor, "batch tokens hidden"]:
        """Soft tokens of sentence vectors, float32.

        Raises:
            ValueError: another feature size, or NaN or infinity among the vectors.
        """
        self.require_vectors(sentence_vectors)
        self.attach()
        soft: Tensor = self.head(sentence_vectors)
        return soft

    def attach(self) -> None:
        """Load the rows of the language model's table that the head needs, if they are not loaded yet."""
        if isinstance(self.head, Lexical) and not len(self.head.rows):
            if self._space is None:
                from embedspace.space import EmbeddingSpace

                self._space = EmbeddingSpace.from_pretrained(self.config.space_name)
                self.require_space(self._space)
            self.head.attach(self._space)

    def encode(
        self,
        texts: Sequence[str],
        *,
        batch_size: int | None = None,
        progress: bool = False,
        cache: bool = False,
    ) -> Float[Tensor, "texts features"]:
        """Sentence vectors of texts; see :meth:`SentenceEncoder.encode`."""
        return self.encoder.encode(texts, batch_size=batch_size, progress=progress, cache=cache)

    @torch.no_grad()
    def project(
        self,
        sentence: str | Float[Tensor, " features"],
        space: EmbeddingSpace,
        *,
        vector: Float[Tensor, " features"] | None = None,
    ) -> PromptEmbeds:
        """The soft tokens of one sentence; every row is content.

        Args:
            sentence: a text, or its vector from the encoder that this projector was trained for.
            space: the language model's.
            vector: the vector of ``sentence``, if already computed.

        Raises:
            ValueError: another space, or an invalid text or vector.
        """
        self.require_space(space)
        if vector is None:
            vector = self.encode([sentence])[0] if isinstance(sentence, str) else sentence
        if vector.ndim != 1:
            raise ValueError(f"a sentence vector must have shape [{self.features}], got {list(vector.shape)}")
        vector = vector.detach().cpu().float()
        soft = self(vector[None].to(next(self.head.parameters()).device))[0].cpu()
        parameters: dict[str, Value] = {
            "projector": self.name,
            "digest": self.digest,
            "vector": base64.b64encode(vector.numpy().tobytes()).decode(),
        }
        if isinstance(sentence, str):
            parameters["text"] = sentence
        content = torch.ones(len(soft), dtype=torch.bool)
        return PromptEmbeds(soft, content, space.fingerprint, Recipe.of("project", parameters))

    def describe(
        self, *, training: Mapping[str, Any] | None = None, metrics: Mapping[str, Any] | None = None
    ) -> None:
        """Record training data and settings, or metrics, in the configuration."""
        config = self.config
        self.config = replace(config, training=training or config.training, metrics=metrics or config.metrics)

    def require_vectors(self, vectors: Tensor) -> None:
        """Raise ``ValueError`` unless the vectors have the encoder's feature size and are finite."""
        if vectors.ndim != 2 or vectors.shape[1] != self.features:
            raise ValueError(
                f"sentence vectors must have shape [batch, {self.features}] as {self.config.encoder!r} gives them, "
                f"got {list(vectors.shape)}"
            )
        if not bool(vectors.isfinite().all()):
            bad = (~vectors.isfinite().all(dim=1)).nonzero().flatten().tolist()
            raise ValueError(
                f"sentence vectors must be finite; NaN or infinity in {len(bad)} of them (first: {bad[0]})"
            )

    def require_space(self, space: EmbeddingSpace) -> None:
        """Raise ``ValueError`` unless the space is the one that this projector was trained for."""
        if space.fingerprint != self.config.space:
            raise ValueError(
                f"this projector gives soft tokens for {self.config.space_name!r} ({self.config.space}), not for "
                f"{space.name!r} ({space.fingerprint}); train one for that model: python train/projector.py model=..."
            )

    def require_encoder(self, encoder: SentenceEncoder) -> None:
        """Raise ``ValueError`` unless the encoder is the one that this projector was trained for."""
        if encoder.fingerprint != self.config.encoder_fingerprint:
            raise ValueError(
                f"this projector reads vectors of {self.config.encoder!r} ({self.config.encoder_fingerprint}), "
                f"not of {encoder.name!r} ({encoder.fingerprint}); use that encoder, or train a projector for this one"
            )


def insert(prompt: PromptEmbeds, soft: PromptEmbeds, at: Place | int = "end") -> PromptEmbeds:
    """A templated chat with soft tokens inserted into its last message; template rows stay bit-identical.

    >>> prompt = PromptEmbeds(torch.tensor([[1.0], [2.0]]), torch.tensor([False, True]), "s", Recipe.of("example", {}))
    >>> soft = PromptEmbeds(torch.tensor([[5.0]]), torch.tensor([True]), "s", Recipe.of("example", {}))
    >>> insert(prompt, soft, at="start").vectors.flatten().tolist()
    [1.0, 5.0, 2.0]

    Args:
        prompt: of :meth:`EmbeddingSpace.embed_chat`.
        soft: of :meth:`Projector.project`.
        at: ``start`` or ``end`` of the last run of content rows, or the number of its rows before the soft tokens.

    Raises:
        ValueError: another space, no content rows, or a position outside the run.
    """
    require_same_space(prompt, soft)
    require_content(prompt, "insert")
    run = prompt.content_runs[-1]
    length = run.stop - run.start
    before = {"start": 0, "end": length}.get(at, at) if isinstance(at, str) else at
    if not isinstance(before, int) or isinstance(before, bool) or not 0 <= before <= length:
        raise ValueError(
            f"at is {at!r}; give 'start', 'end' or a number of rows from 0 to {length}, the message's length"
        )
    place = run.start + before
    dtype = torch.promote_types(prompt.vectors.dtype, soft.vectors.dtype)
    rows = [prompt.vectors[:place], soft.vectors.to(prompt.vectors.device), prompt.vectors[place:]]
    content = [
        prompt.content[:place],
        torch.ones_like(prompt.content[:1]).expand(len(soft)),
        prompt.content[place:],
    ]
    recipe = Recipe.of("insert", {"at": at}, prompt.recipe, soft.recipe)
    return PromptEmbeds(torch.cat([row.to(dtype) for row in rows]), torch.cat(content), prompt.space, recipe)
