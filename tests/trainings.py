"""Trainings of a projector by the command, on a tiny model and few sentences, and what they leave."""

from __future__ import annotations

import csv
import os
import random
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from safetensors.torch import load_file
from torch import Tensor

from tests.checkpoints import make_tiny_checkpoint
from train.projector import train

ROOT = Path(__file__).parents[1]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
WORDS = [
    "whale",
    "horse",
    "tiger",
    "eagle",
    "bridge",
    "river",
    "house",
    "sleeps",
    "runs",
    "falls",
    "near",
    "under",
]


def make_ground(folder: Path) -> Path:
    """A tiny language model and a text file with a sentence a paragraph."""
    make_tiny_checkpoint(folder / "model")
    draw = random.Random(0)
    sentences = [" ".join(draw.choices(WORDS, k=draw.randint(4, 9))) for _ in range(600)]
    (folder / "text.txt").write_text("\n\n".join(sentences))
    return folder


def settings(ground: Path, *overrides: str) -> list[str]:
    """One epoch of reconstruction and two of distillation."""
    return [
        f"model.name={ground / 'model'}",
        "data=wordnet", "data.limits={}", "data.validation=8", "data.max_tokens=400", "projector=mlp",
        "projector.tokens=2",
        "projector.options.width=16", "reconstruct.epochs=1", "reconstruct.batch_size=16",
        "distill.epochs=2", "distill.batch_size=8", "distill.warmup=5", "checkpoint_every=7",
        f"data.sources=[{{_target_: embedspace.projector.sources.local, kind: made, path: {ground / 'text.txt'}}}]",
        *overrides,
    ]  # fmt: skip


def command(ground: Path, out: Path, *overrides: str) -> list[str]:
    """The command of a training in a folder."""
    script = str(ROOT / "train" / "projector.py")
    return [sys.executable, script, f"out={out}", *settings(ground, *overrides)]


def trained_here(out: Path, overrides: list[str]) -> dict[str, Tensor]:
    """Weights of a training in this process, which spares the start of another one."""
    with initialize_config_dir(str(ROOT / "configs" / "train"), version_base=None):
        config = compose("train", [f"out={out}", *overrides])
    train(config, out)
    return weights(out)


def weights(out: Path) -> dict[str, Tensor]:
    """Of the projector that a training left."""
    return load_file(out / "projector" / "model.safetensors")


def logged(out: Path, stage: str, name: str) -> list[float]:
    """What every start of a stage logged, in the order of the starts."""
    found: list[float] = []
    paths = (out / stage / "logs").glob("version_*/metrics.csv")
    for path in sorted(paths, key=lambda path: int(path.parent.name.removeprefix("version_"))):
        with path.open() as file:
            found += [float(row[name]) for row in csv.DictReader(file) if row.get(name)]
    return found
