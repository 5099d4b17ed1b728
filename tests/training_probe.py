"""TrainingProbe: lets a test act at one step of a training in another process."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer

STEP = 20


class TrainingProbe(Callback):
    """Waits once at a step of distillation until the test goes on.

    The file ``step`` is there while the training waits. The test removes it.
    """

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        """Wait, in the first start."""
        waited = self._folder / "waited"
        if (pl_module.stage, trainer.global_step) != ("distill", STEP) or waited.exists():
            return
        waited.touch()
        (self._folder / "step").touch()
        while (self._folder / "step").exists():
            time.sleep(0.05)
