"""Training data of projectors: sentences with their vectors, split by lemma or document."""

from __future__ import annotations

import hashlib
import logging
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

from lightning import LightningDataModule

from embedspace.encoders import SentenceEncoder
from embedspace.projector.batches import Batch, BucketedBatches
from embedspace.projector.sources import Sentence

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

Split = Literal["train", "validation", "test"]
_log = logging.getLogger(__name__)


def split_of(sentence: Sentence, seed: int = 0) -> Split:
    """The split of a sentence's lemma or document, by its hash: 94% train, 2% validation, 4% test.

    >>> split_of(Sentence("A whale is a mammal.", "definitions", "whale"))
    'train'
    """
    digest = hashlib.blake2b(f"{seed} {sentence.group}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest) % 100
    return "test" if place < 4 else "validation" if place < 6 else "train"


def select(
    sentences: Sequence[Sentence],
    space: EmbeddingSpace,
    *,
    max_tokens: int,
    min_tokens: int = 4,
    limit: int | None = None,
) -> tuple[list[Sentence], Counter[str]]:
    """The sentences to use, without duplicates and in hash order, and the number left out for each reason.

    Args:
        sentences: of one kind.
        space: the language model's, for its tokenizer.
        max_tokens: longer sentences are left out, never truncated.
        min_tokens: shorter sentences are left out.
        limit: on the sentences kept.
    """
    known: set[str] = set()
    left_out: Counter[str] = Counter()
    kept: list[Sentence] = []
    order = sorted(sentences, key=lambda s: hashlib.blake2b(s.text.encode(), digest_size=8).digest())
    for sentence, length in zip(order, _lengths(order, space), strict=True):
        if limit is not None and len(kept) == limit:
            left_out["beyond the limit"] = len(order) - sum(left_out.values()) - len(kept)
            break
        plain = " ".join(sentence.text.lower().split())
        reason = (
            "said before" if plain in known
            else f"longer than {max_tokens} tokens" if length > max_tokens
            else "not plain English" if not _plain(sentence.text)
            else f"shorter than {min_tokens} tokens" if length < min_tokens
            else None
        )  # fmt: skip
        known.add(plain)
        if reason is None:
            kept.append(sentence)
        else:
            left_out[reason] += 1
    return kept, left_out


def _lengths(sentences: Sequence[Sentence], space: EmbeddingSpace, batch_size: int = 4096) -> Iterator[int]:
    """Tokens of each sentence, counted lazily in batches, since a limit may stop the selection early."""
    for start in range(0, len(sentences), batch_size):
        texts = [sentence.text for sentence in sentences[start : start + batch_size]]
        yield from map(len, space.tokenizer.encode_many(texts))


def _plain(text: str) -> bool:
    """Whether at least 85% of a text are ASCII letters and spaces."""
    plain = sum(character.isascii() and (character.isalpha() or character == " ") for character in text)
    return plain >= 0.85 * len(text)


class SentenceData(LightningDataModule):
    """Sentences of several kinds, split, tokenised and encoded.

    Args:
        sources: lists of sentences, one for each kind.
        encoder: sentence encoder; its vectors are cached on disk.
        batch_size: sentences per step, over all processes.
        max_tokens, min_tokens: longer and shorter sentences are left out; their numbers are logged.
        limits: on the training sentences of a kind, by its name.
        limit: on the sentences of each kind that ``limits`` does not name.
        validation: limit on the validation sentences.
        seed: of the order of batches.

    Raises:
        ValueError: no sentences, or too few for one batch.
    """

    def __init__(
        self,
        sources: Sequence[Sequence[Sentence]],
        *,
        encoder: SentenceEncoder,
        space: EmbeddingSpace,
        batch_size: int = 32,
        max_tokens: int = 40,
        min_tokens: int = 4,
        limits: dict[str, int] | None = None,
        limit: int | None = None,
        validation: int = 256,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.encoder, self.space = encoder, space
        self.batch_size, self.max_tokens, self.limits = batch_size, max_tokens, limits or {}
        self.min_tokens, self.validation, self.seed = min_tokens, validation, seed
        self.limit = limit
        self.sources = sources
        self.batches: int | None = None
        self._consumed = 0
        self.left_out: Counter[str] = Counter()
        self.sentences: dict[Split, list[Sentence]] = {"train": [], "validation": [], "test": []}
        self.vectors: dict[Split, Tensor] = {}
        self.ids: dict[Split, list[list[int]]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Select, split, tokenise and encode; does nothing when called again."""
        if self.vectors:
            return
        for source in self.sources:
            self._add(source)
        random.Random(0).shuffle(self.sentences["validation"])
        del self.sentences["validation"][self.validation :]
        if not self.sentences["validation"]:
            self._hold_out()
        counts = {split: len(found) for split, found in self.sentences.items()}
        if self.left_out:
            _log.warning(
                "left out: %s", "; ".join(f"{count} {why}" for why, count in sorted(self.left_out.items()))
            )
        if counts["train"] < 2 or counts["validation"] < 1:
            raise ValueError(
                f"the data hold {counts['train']} sentences to train on and {counts['validation']} to validate on "
                f"(left out: {dict(self.left_out) or 'none'}); give sources with more sentences or documents"
            )
        for split in ("train", "validation"):
            texts = [sentence.text for sentence in self.sentences[split]]
            self.ids[split] = self.space.tokenizer.encode_many(texts)
            self.vectors[split] = self.encoder.encode(texts, progress=True, cache=True)

    def _hold_out(self) -> None:
        """Take one document in twenty out of training where the hash put none into validation: the data are few."""
        train = self.sentences["train"]
        groups = list(dict.fromkeys(sentence.group for sentence in train))
        held = set(groups[: max(1, len(groups) // 20)] if len(groups) > 2 else ())
        self.sentences["validation"] = [sentence for sentence in train if sentence.group in held]
        self.sentences["train"] = [sentence for sentence in train if sentence.group not in held]

    def _add(self, source: Sequence[Sentence]) -> None:
        parts: dict[Split, list[Sentence]] = {"train": [], "validation": [], "test": []}
        for sentence in source:
            parts[split_of(sentence)].append(sentence)
        for split, part in parts.items():
            kind = part[0].kind if part else ""
            limit = self.limits.get(kind, self.limit) if split == "train" else self.limit
            kept, left_out = select(
                part, self.space, max_tokens=self.max_tokens, min_tokens=self.min_tokens, limit=limit
            )
            self.sentences[split] += kept
            if split == "train":
                self.left_out += left_out

    def train_dataloader(self) -> BucketedBatches:
        """Training batches; after loading a checkpoint, from its position on."""
        batches = self._batches("train", shuffle=True)
        batches.skip_to(self._consumed)
        return batches

    def val_dataloader(self) -> BucketedBatches:
        """Validation batches, always in the same order."""
        return self._batches("validation", shuffle=False)

    def mark_consumed(self, batch: Batch) -> None:
        """Record that a batch was trained on: a checkpoint holds this position, not that of prefetching."""
        self._consumed = batch.number + 1

    def start_stage(self, *, batch_size: int, batches: int | None) -> None:
        """Begin a stage of training at the stream's first batch.

        Args:
            batch_size: sentences per step, over all processes; with fewer sentences, all of them, and a warning.
            batches: steps per epoch; by default one pass over the sentences.
        """
        if 0 < len(self.sentences["train"]) < batch_size:
            count = len(self.sentences["train"])
            _log.warning(
                "%d sentences do not fill a batch of %d: each step takes all of them", count, batch_size
            )
            batch_size = count
        self.batch_size, self.batches, self._consumed = batch_size, batches, 0

    def state_dict(self) -> dict[str, int]:
        """Seed, batch size and number of batches trained on, for a checkpoint."""
        return {"seed": self.seed, "batch_size": self.batch_size, "consumed": self._consumed}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Resume from a checkpoint.

        Raises:
            ValueError: it has another seed or batch size.
        """
        for name in ("seed", "batch_size"):
            if state_dict[name] != getattr(self, name):
                raise ValueError(
                    f"the checkpoint has {name} {state_dict[name]}, this training has {getattr(self, name)}; the order "
                    "of batches would differ"
                )
        self._consumed = state_dict["consumed"]

    def _batches(self, split: Split, *, shuffle: bool) -> BucketedBatches:
        rank, world = (self.trainer.global_rank, self.trainer.world_size) if self.trainer else (0, 1)
        return BucketedBatches(
            self.vectors[split],
            self.ids[split],
            [sentence.text for sentence in self.sentences[split]],
            batch_size=self._shared_batch_size(world),
            seed=self.seed,
            shuffle=shuffle,
            length=self.batches if shuffle else None,
            rank=rank,
            world=world,
        )

    def _shared_batch_size(self, world: int) -> int:
        """The batch size; where it is all sentences, as many as the processes can share."""
        if self.batch_size == len(self.sentences["train"]) > world:
            return self.batch_size - self.batch_size % world
        return self.batch_size
