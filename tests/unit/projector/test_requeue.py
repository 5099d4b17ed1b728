"""The handler of a cluster's signal runs between two steps of training, when a checkpoint is there."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.demos.boring_classes import BoringModel

from embedspace.projector.requeue import RequeueBetweenSteps


class Signalled(BoringModel):
    """Gets the signal in the middle of its third batch."""

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        if batch_idx == 2:
            os.kill(os.getpid(), signal.SIGUSR2)
        return super().training_step(batch, batch_idx)


@pytest.fixture
def handled(tmp_path: Path) -> Iterator[list[int]]:
    """The steps that ``last.ckpt`` held whenever the handler ran; it ends the process as that of submitit does."""
    steps: list[int] = []

    def handler(signum: int, frame: Any) -> None:
        steps.append(torch.load(tmp_path / "last.ckpt", weights_only=False)["global_step"])
        raise SystemExit(3)

    before = signal.signal(signal.SIGUSR2, handler)
    yield steps
    signal.signal(signal.SIGUSR2, before)


@pytest.mark.parametrize(("accumulated", "step"), [(1, 3), (2, 2)])
def test_the_handler_runs_once_after_the_step_in_which_the_signal_came(
    tmp_path: Path, handled: list[int], accumulated: int, step: int
) -> None:
    trainer = Trainer(
        max_epochs=2, limit_train_batches=8, accelerator="cpu", accumulate_grad_batches=accumulated, logger=False,
        callbacks=[RequeueBetweenSteps(), ModelCheckpoint(tmp_path, save_last=True, save_top_k=0)],
        enable_progress_bar=False, enable_model_summary=False, default_root_dir=tmp_path, limit_val_batches=0,
    )  # fmt: skip
    with pytest.raises(SystemExit, match="3"):
        trainer.fit(Signalled())
    assert handled == [step]
