"""RequeueBetweenSteps: a job that its cluster ends early ends between two steps of training, with a checkpoint."""

from __future__ import annotations

import signal
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from lightning import Callback

if TYPE_CHECKING:
    from lightning import LightningModule, Trainer


class RequeueBetweenSteps(Callback):
    """Puts off the handler of a cluster's signal until the step is done and its checkpoint is written.

    ``launcher=slurm`` installs a handler for SIGUSR2, SLURM's signal before the time limit, which queues the job again
    and exits at once: in the middle of a step, whose work since the last checkpoint would be lost. Lightning's own
    handler saves there, where an optimizer may have updated half of the parameters. Outside of training steps, and
    where nothing handles the signal, nothing changes.

    Under DDP the processes agree on the step; the first one queues the job again, and the others wait for SLURM to end
    them. A validation is not interrupted: the signal has to precede the time limit by more than one takes.

    >>> RequeueBetweenSteps().signum.name
    'SIGUSR2'
    """

    signum = signal.SIGUSR2

    def __init__(self) -> None:
        self._handler: Any = None
        self._frame: FrameType | None = None
        self._signalled = self._saved = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take the place of the handler; Lightning puts it back when the training ends, whatever way."""
        handler = signal.getsignal(self.signum)
        if callable(handler):
            self._handler = handler
            signal.signal(self.signum, self._note)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Write ``last.ckpt`` if any process was signalled; never between the batches of one step."""
        if self._handler is None or not self._step_is_done(trainer):
            return
        if trainer.strategy.reduce_boolean_decision(self._signalled, all=False):
            assert trainer.checkpoint_callback is not None
            folder = Path(trainer.checkpoint_callback.dirpath)  # type: ignore[attr-defined]
            trainer.save_checkpoint(folder / "last.ckpt")
            self._saved = True

    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        """Leave before the next step, when the last one has been logged."""
        self._leave()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave after the last step of an epoch."""
        self._leave()

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self._signalled, self._frame = True, frame

    def _step_is_done(self, trainer: Trainer) -> bool:
        batches = trainer.fit_loop.epoch_loop.batch_idx + 1
        return trainer.is_last_batch or batches % trainer.accumulate_grad_batches == 0

    def _leave(self) -> None:
        if not self._saved:
            return
        self._handler(self.signum, self._frame)
        # It has ended the first process. Another one that went on, or failed without it, would report an error.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        while True:
            signal.pause()
