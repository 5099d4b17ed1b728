"""Gradient descent on a few parameters through the frozen model: Adam, early stopping, and a file to resume from."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from embedspace._util.safetensors_file import read_tensors, save_tensors

if TYPE_CHECKING:
    from torch import Tensor

Draw = Callable[[random.Random], tuple[Sequence[Any], Sequence[Any]]]
"""Training and held-out cases; the split is fixed, the cases may be drawn anew in each call."""


@dataclass(frozen=True)
class Schedule:
    """How long and how fast."""

    epochs: int
    """Limit on the passes over the training cases."""
    batch_size: int
    rate: float
    """Adam's first step, in each coordinate."""
    falling: bool
    """Whether the rate falls linearly to 0 over the epochs; it is constant otherwise."""
    patience: int
    """Epochs without improvement on the held-out cases before stopping."""


@dataclass(frozen=True, eq=False)
class Minimum:
    """The best parameters, and how they were reached."""

    parameters: Tensor
    """With the lowest loss on the held-out cases, float32, on the CPU."""
    loss: float
    """Mean loss of the held-out cases."""
    reference_loss: float
    """That of the reference, e.g. of the start."""
    losses: tuple[float, ...]
    """Held-out loss after each epoch."""
    training_losses: tuple[float, ...]
    """Mean loss of the training cases during each epoch."""


def minimise(
    start: Tensor,
    reference: Tensor,
    draw: Draw,
    losses: Callable[[Sequence[Any], Tensor], Tensor],
    constrain: Callable[[Tensor], Tensor],
    schedule: Schedule,
    rng: random.Random,
    advance: Callable[[], None],
    *,
    checkpoint: Checkpoint | None = None,
) -> Minimum:
    """The parameters with the lowest loss on the held-out cases, the reference among them.

    Args:
        start: of any shape, on the engine's device.
        reference: what has to be improved on; returned where nothing does.
        draw: makes the cases of an epoch.
        losses: the loss of each case, in nats, with gradients to the parameters.
        constrain: the parameters within their bounds, after each step.
        schedule: how long and how fast.
        rng: of the draws and the order.
        advance: called once for each case, trained on or held out, of all epochs.
        checkpoint: where the state is kept after each epoch, and read from.

    Raises:
        ValueError: the loss is not finite; or the checkpoint is of another task.
    """
    parameters = start.detach().clone().float().requires_grad_()
    optimiser = torch.optim.Adam([parameters], lr=schedule.rate)
    _, held_out = draw(random.Random(0))
    state = None if checkpoint is None else checkpoint.read(parameters, optimiser)
    if state is None:
        first = mean_loss(losses, held_out, reference, schedule.batch_size)
        state = _State(reference.detach().cpu().float().clone(), first, first, (), ())
    for epoch in range(schedule.epochs):
        training = list(draw(rng)[0])
        rng.shuffle(training)
        count = len(training) + len(held_out)
        if epoch < len(state.losses) or state.waited >= schedule.patience:
            _repeat(advance, count)
            continue
        batches = list(_batches(training, schedule.batch_size))
        total = 0.0
        for number, batch in enumerate(batches):
            if schedule.falling:
                done = (epoch * len(batches) + number) / (schedule.epochs * len(batches))
                optimiser.param_groups[0]["lr"] = schedule.rate * (1 - done)
            optimiser.zero_grad()
            with torch.enable_grad():
                loss = losses(batch, parameters).mean()
                if not math.isfinite(float(loss.detach())):
                    raise ValueError(
                        f"the loss is {float(loss.detach())} in epoch {epoch + 1}; lower learning_rate, or let the "
                        "engine compute in float32 (TransformersEngine(model, dtype='float32'))"
                    )
                loss.backward()
            total += float(loss.detach()) * len(batch)
            optimiser.step()
            with torch.no_grad():
                parameters.copy_(constrain(parameters))
            _repeat(advance, len(batch))
        loss_held_out = mean_loss(losses, held_out, parameters, schedule.batch_size)
        state = state.after(loss_held_out, total / len(training), parameters)
        _repeat(advance, len(held_out))
        if checkpoint is not None:
            checkpoint.write(parameters, optimiser, state)
    return Minimum(state.best, state.best_loss, state.reference_loss, state.losses, state.training_losses)


@torch.no_grad()
def mean_loss(
    losses: Callable[[Sequence[Any], Tensor], Tensor],
    cases: Sequence[Any],
    parameters: Tensor,
    batch_size: int,
) -> float:
    """Mean loss of the cases, computed a batch at a time."""
    return float(torch.cat([losses(batch, parameters) for batch in _batches(cases, batch_size)]).mean())


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A file with the state after the last whole epoch."""

    path: Path
    task: str
    """Digest of everything that decides the result: the file of another task is refused."""

    def read(self, parameters: Tensor, optimiser: torch.optim.Adam) -> _State | None:
        """The state in the file, put into parameters and optimiser; None where there is no file.

        Raises:
            ValueError: the file is damaged or of another task.
        """
        if not self.path.exists():
            return None
        tensors, metadata = read_tensors(self.path, advice="delete it to begin anew")
        if metadata.get("task") != self.task:
            raise ValueError(
                f"{self.path} holds the state of another distillation (other messages, questions, settings or engine); "
                "give the same ones to go on with it, or another file"
            )
        with torch.no_grad():
            parameters.copy_(tensors["parameters"])
        optimiser.state[parameters] = {
            "step": tensors["step"],
            **{name: tensors[name].to(parameters.device) for name in ("exp_avg", "exp_avg_sq")},
        }
        return _State(
            tensors["best"],
            float(tensors["best_loss"]),
            float(tensors["reference_loss"]),
            tuple(tensors["losses"].tolist()),
            tuple(tensors["training_losses"].tolist()),
        )

    def write(self, parameters: Tensor, optimiser: torch.optim.Adam, state: _State) -> None:
        """Replace the file, atomically."""
        tensors = {
            "parameters": parameters,
            "best": state.best,
            **{name: torch.as_tensor(value) for name, value in optimiser.state[parameters].items()},
            "losses": torch.tensor(state.losses, dtype=torch.float64),
            "training_losses": torch.tensor(state.training_losses, dtype=torch.float64),
            "best_loss": torch.tensor(state.best_loss, dtype=torch.float64),
            "reference_loss": torch.tensor(state.reference_loss, dtype=torch.float64),
        }
        save_tensors(self.path, tensors, {"task": self.task})


@dataclass(frozen=True, eq=False)
class _State:
    best: Tensor
    best_loss: float
    reference_loss: float
    losses: tuple[float, ...]
    training_losses: tuple[float, ...]

    @property
    def waited(self) -> int:
        """Epochs since the last one that improved on all before it."""
        best, waited = self.reference_loss, 0
        for loss in self.losses:
            waited = 0 if loss < best else waited + 1
            best = min(best, loss)
        return waited

    def after(self, loss: float, training: float, parameters: Tensor) -> _State:
        """The state after one more epoch with these held-out and training losses."""
        better = loss < self.best_loss
        return _State(
            parameters.detach().cpu().float().clone() if better else self.best,
            min(loss, self.best_loss),
            self.reference_loss,
            (*self.losses, loss),
            (*self.training_losses, training),
        )


def _repeat(advance: Callable[[], None], times: int) -> None:
    for _ in range(times):
        advance()


def _batches(cases: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    return (cases[start : start + size] for start in range(0, len(cases), size))
