"""Projectors trained without the language model, for curves over soft tokens, training sentences and heads."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace import EmbeddingSpace
from embedspace.models import cache_folder

if TYPE_CHECKING:
    from embedspace.projector import Projector
    from embedspace.projector.datamodule import SentenceData
    from embedspace.projector.sources import Sentence


@dataclass(frozen=True)
class QuickProjectors:
    """Heads fitted by their first stage alone: ridge in closed form, others by ``reconstruct``.

    They are stored in the user's cache folder, under a hash of everything that determines them.
    """

    sources: Sequence[Sequence[Sentence]]
    """Kinds of sentences to train on; their test splits are left out."""
    heads: Mapping[str, Mapping[str, int]]
    """Head -> its options."""
    tokens: Sequence[int]
    """Numbers of soft tokens, each at the largest size."""
    sizes: Sequence[int]
    """Training sentences of each kind, each at ``tokens_of_sizes`` soft tokens."""
    tokens_of_sizes: int
    epochs: int
    encoder: str
    seed: int = 0

    def folders(self, space: EmbeddingSpace) -> dict[str, Path]:
        """Trained projectors by name, ``head/tokens=.../sentences=...``; trained where they are not stored yet."""
        wanted = [(tokens, max(self.sizes)) for tokens in self.tokens]
        wanted += [(self.tokens_of_sizes, size) for size in self.sizes]
        found = {}
        for size in sorted(set(self.sizes)):
            data = self._data(space, size)
            for head in self.heads:
                for tokens in sorted({tokens for tokens, own in wanted if own == size}):
                    name = f"{head}/tokens={tokens}/sentences={len(data.sentences['train'])}"
                    found[name] = self._trained(head, tokens, data)
        return found

    def _data(self, space: EmbeddingSpace, size: int) -> SentenceData:
        from embedspace.projector import SentenceEncoder
        from embedspace.projector.datamodule import SentenceData

        limits = {source[0].kind: size for source in self.sources if len(source)}
        encoder = SentenceEncoder(self.encoder)
        data = SentenceData(
            self.sources, encoder=encoder, space=space, batch_size=64, limits=limits, seed=self.seed
        )
        data.setup()
        return data

    def _trained(self, head: str, tokens: int, data: SentenceData) -> Path:
        folder = cache_folder() / "quick-projectors" / self._digest(head, tokens, data)
        if not (folder / "config.json").is_file():
            projector = self._fit(head, tokens, data)
            kinds = Counter(sentence.kind for sentence in data.sentences["train"])
            projector.describe(
                training={"sentences": dict(kinds), "stages": ["reconstruct"], "seed": self.seed}
            )
            projector.eval().save_pretrained(folder)
        return folder

    def _digest(self, head: str, tokens: int, data: SentenceData) -> str:
        texts = [sentence.text for sentence in data.sentences["train"]]
        settings: list[Any] = [head, tokens, dict(self.heads[head]), self.epochs, self.seed, texts]
        pair = f"{data.space.fingerprint} {data.encoder.fingerprint} "
        return hashlib.blake2b((pair + json.dumps(settings)).encode(), digest_size=16).hexdigest()

    def _fit(self, head: str, tokens: int, data: SentenceData) -> Projector:
        import lightning
        from omegaconf import OmegaConf

        from embedspace.projector import Ridge
        from embedspace.projector.training import ProjectorTraining, fit_ridge
        from train.projector import starting_point

        lightning.seed_everything(self.seed, verbose=False)
        settings = {"head": head, "tokens": tokens, "options": dict(self.heads[head])}
        projector = starting_point(OmegaConf.create({"from": None, "projector": settings}), data)
        if isinstance(projector.head, Ridge):
            fit_ridge(projector, data)
            return projector
        trainer = lightning.Trainer(
            max_epochs=self.epochs,
            accelerator="cpu",
            logger=False,
            enable_checkpointing=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            limit_val_batches=0,
        )
        trainer.fit(ProjectorTraining(projector, "reconstruct", data.space), data)
        return projector
