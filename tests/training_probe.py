"""TrainingProbe: lets a test act at one step of a training in another process, and see what each process learned."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

STEP = 20


class TrainingProbe(Callback):
    """Waits once at a step of distillation until the test goes on, and writes a digest of what each process learned.

    The file ``step`` is there while the training waits. The test removes it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Wait, in the first process of the first start."""
        waited = self._folder / "waited"
        if (
            (pl_module.stage, trainer.global_step) != ("distill", STEP)
            or trainer.global_rank
            or waited.exists()
        ):
            return
        waited.touch()
        (self._folder / "step").touch()
        while (self._folder / "step").exists():
            time.sleep(0.05)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """One file for each process, of its last stage."""
        digest = hashlib.sha256()
        for _, weight in sorted(pl_module.named_parameters()):
            digest.update(weight.detach().numpy().tobytes())
        (self._folder / f"rank-{trainer.global_rank}-of-{trainer.world_size}").write_text(digest.hexdigest())
