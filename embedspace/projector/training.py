"""ProjectorTraining: reconstruction without the language model, then distillation through it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import distributed

from embedspace.projector.datamodule import SentenceData
from embedspace.projector.heads import Lexical, Ridge
from embedspace.projector.reader import INSTRUCTION, SoftTokenReader

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.engines import TransformersEngine
    from embedspace.projector.batches import Batch
    from embedspace.projector.projector import Projector
    from embedspace.space import EmbeddingSpace

Stage = Literal["reconstruct", "distill"]


class ProjectorTraining(LightningModule):
    """One stage of training a projector.

    ``reconstruct`` needs no language model: the lexical head learns the words of the sentence, the others the mean row
    of each part of it. ``distill`` minimises, through the frozen model, the negative log-likelihood of the sentence
    after its soft tokens, plus ``teacher_weight`` times the divergence from the model's distribution after the text.

    Args:
        projector: is trained in place.
        stage: which of the two.
        space: the language model's.
        engine: the frozen model, for ``distill``.
        learning_rate: peak of the schedule, AdamW.
        warmup: steps up to the peak, before a cosine decay to zero at the trainer's last step.
        weight_decay: of AdamW.
        teacher_weight: of the divergence.
        instructions: the user's words before the soft tokens, used in turn.

    Raises:
        ValueError: an unknown stage, ``distill`` without an engine or with one of another space, or a ridge head.
    """

    def __init__(
        self,
        projector: Projector,
        stage: Stage,
        space: EmbeddingSpace,
        engine: TransformersEngine | None = None,
        *,
        learning_rate: float = 1e-3,
        warmup: int = 100,
        weight_decay: float = 0.01,
        teacher_weight: float = 0.0,
        instructions: Sequence[str] = (INSTRUCTION,),
    ) -> None:
        super().__init__()
        if stage not in ("reconstruct", "distill"):
            raise ValueError(f"stage must be 'reconstruct' or 'distill', got {stage!r}")
        if isinstance(projector.head, Ridge):
            raise ValueError(
                "ridge regression is solved in closed form (fit_ridge); it has no steps to train"
            )
        projector.require_space(space)
        self.projector, self.stage = projector, stage
        self.learning_rate, self.warmup, self.weight_decay = learning_rate, warmup, weight_decay
        self.teacher_weight = teacher_weight
        self._space = space
        self._readers: list[SoftTokenReader] = []
        if stage == "distill":
            if engine is None or engine.space.fingerprint != space.fingerprint:
                raise ValueError(
                    "distillation needs the frozen model: give an engine of the projector's own space"
                )
            self._readers = [SoftTokenReader(engine, instruction) for instruction in instructions]
        projector.attach()
        self._places: dict[int, int] = {}
        if isinstance(projector.head, Lexical):
            self._places = {word: place for place, word in enumerate(projector.head.words.tolist())}
            trained = (
                ("query", "bias") if stage == "reconstruct" else ("row_in", "sentence_in", "body", "row_out")
            )
            for name, parameter in projector.head.named_parameters():
                parameter.requires_grad_(name.split(".")[0] in trained)

    def on_before_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Batch:
        """Check the vectors while they are on the CPU; later the check would make the CPU wait for the GPU."""
        self.projector.require_vectors(batch.vectors)
        return batch

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of one batch, logged."""
        loss = self._loss(batch, batch_idx)
        self.log("train/loss", loss, prog_bar=True, batch_size=len(batch.ids))
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        if isinstance(data, SentenceData):  # a caller's own batches are not counted
            data.mark_consumed(batch)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss of one batch of the validation split, always under the first instruction."""
        with torch.compiler.set_stance("force_eager"):  # without gradients it would be compiled again
            loss = self._loss(batch, 0)
        self.log("val/loss", loss, prog_bar=True, batch_size=len(batch.ids), sync_dist=True)

    def configure_optimizers(self) -> Any:
        """AdamW with a linear warm-up and a cosine decay to zero."""
        trained = [parameter for parameter in self.projector.parameters() if parameter.requires_grad]
        optimiser = torch.optim.AdamW(trained, lr=self.learning_rate, weight_decay=self.weight_decay)
        last = max(1, int(self.trainer.estimated_stepping_batches))

        def factor(step: int) -> float:
            warm = min(1.0, (step + 1) / max(1, self.warmup))
            return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, step / last)))

        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, factor)
        return {"optimizer": optimiser, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def _loss(self, batch: Batch, number: int) -> Tensor:
        if self.stage == "distill":
            return self._distillation(batch, self._readers[number % len(self._readers)])
        head = self.projector.head
        if isinstance(head, Lexical):
            return lexical_loss(head, batch, self._space, self._places)
        targets = torch.stack([part_means(self._space, ids, self.projector.tokens) for ids in batch.ids]).to(
            batch.vectors
        )
        return F.mse_loss(head.directions(batch.vectors), targets) * targets.shape[-1]

    def _distillation(self, batch: Batch, reader: SoftTokenReader) -> Tensor:
        soft = self.projector.head(batch.vectors)
        hidden, _, wanted = reader.hidden(soft, batch.ids)
        share = self._share(len(wanted))
        if not self.teacher_weight:
            return reader.token_losses(hidden, wanted).mean() * share
        with torch.no_grad():
            after_text, _, _ = reader.hidden([reader.text_rows(text) for text in batch.texts], batch.ids)
            teacher = reader.logits(after_text).float().log_softmax(-1)
        student = reader.logits(hidden).float().log_softmax(-1)
        divergence = F.kl_div(student, teacher, log_target=True, reduction="batchmean")
        return (F.nll_loss(student, wanted) + self.teacher_weight * divergence) * share

    def _share(self, tokens: int) -> float:
        """Factor that makes the mean over processes a mean over all their tokens."""
        if not (distributed.is_available() and distributed.is_initialized()):
            return 1.0
        total = torch.tensor(float(tokens), device=self.device)
        distributed.all_reduce(total)
        return tokens * distributed.get_world_size() / float(total)


def lexical_loss(head: Lexical, batch: Batch, space: EmbeddingSpace, places: dict[int, int]) -> Tensor:
    """Cross-entropy from the uniform distribution over the words of each sentence to the head's."""
    logits = head.scores(batch.vectors).float().log_softmax(-1)
    words = space.tokenizer.encode_many([f" {text}" for text in batch.texts])
    found = [{places[word] for word in own if word in places} for own in words]
    rows = [row for row, words in enumerate(found) for _ in words]
    columns = [place for words in found for place in sorted(words)]
    if not rows:
        return logits.sum() * 0.0
    weights = logits.new_tensor([1 / len(found[row]) for row in rows])
    return -(logits[rows, columns] * weights).sum() / sum(map(bool, found))


def part_means(space: EmbeddingSpace, ids: Sequence[int], parts: int) -> Tensor:
    """Mean row of each of ``parts`` equal parts of a sentence, minus the vocabulary's mean row; no part is empty."""
    rows = space.lookup(ids).float() - space.mean
    edges = [round(part * len(rows) / parts) for part in range(parts + 1)]
    starts = [min(edge, len(rows) - 1) for edge in edges[:-1]]
    return torch.stack([rows[a : max(b, a + 1)].mean(0) for a, b in zip(starts, edges[1:], strict=True)])


def fit_ridge(projector: Projector, data: SentenceData, penalty: float = 1.0) -> None:
    """Solve a ridge head in closed form on the training split."""
    head = projector.head
    assert isinstance(head, Ridge)
    targets = torch.stack([part_means(data.space, ids, projector.tokens) for ids in data.ids["train"]])
    head.fit(data.vectors["train"], targets, penalty)
