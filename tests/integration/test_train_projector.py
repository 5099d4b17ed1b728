"""The training command: kills, several processes, early ends, and what it refuses."""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
from safetensors.torch import load_file

from embedspace import Projector
from tests.checkpoints import make_tiny_checkpoint

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A tiny language model and a text file with a sentence a paragraph."""
    folder = tmp_path_factory.mktemp("ground")
    make_tiny_checkpoint(folder / "model")
    draw = random.Random(0)
    words = [
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
    sentences = [" ".join(draw.choices(words, k=draw.randint(4, 9))) for _ in range(600)]
    (folder / "text.txt").write_text("\n\n".join(sentences))
    return folder


def command(ground, out, *overrides):
    return [
        sys.executable, str(ROOT / "train" / "projector.py"), f"out={out}", f"model.name={ground / 'model'}",
        "data=wordnet", "data.limits={}", "data.validation=8", "data.max_tokens=400", "projector=mlp",
        "projector.tokens=2",
        "projector.options.width=16", "reconstruct.epochs=1", "reconstruct.batch_size=16",
        "distill.epochs=2", "distill.batch_size=8", "distill.warmup=5", "checkpoint_every=7",
        f"data.sources=[{{_target_: embedspace.projector.sources.local, kind: made, path: {ground / 'text.txt'}}}]",
        *overrides,
    ]  # fmt: skip


def finished(arguments, cwd=ROOT):
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=cwd, timeout=500
    )


def trained(ground, out, *overrides):
    done = finished(command(ground, out, *overrides))
    assert done.returncode == 0, done.stdout + done.stderr
    return load_file(out / "projector" / "model.safetensors")


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory):
    """A training that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, trained(ground, out)


def logged(out, name):
    with (out / "logs" / "metrics.csv").open() as file:
        return [float(row[name]) for row in csv.DictReader(file) if row.get(name)]


def test_a_training_leaves_a_projector_that_says_what_it_was_trained_on(whole, ground):
    out, _ = whole
    projector = Projector.from_pretrained(out / "projector")
    assert projector.config.training["sentences"]["made"] > 500
    assert projector.config.training["config"]["distill"]["batch_size"] == 8
    assert projector.tokens == 2
    assert logged(out, "val/loss")
    wanted = bool(find_spec("tensorboard") or find_spec("tensorboardX"))
    assert bool(list((out / "logs").glob("events.out.tfevents.*"))) == wanted


@pytest.mark.parametrize("stage", ["reconstruct", "distill"])
def test_a_killed_training_goes_on_bit_for_bit(whole, ground, tmp_path, stage):
    out = tmp_path / "run"
    process = subprocess.Popen(
        command(ground, out), env=ENVIRONMENT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    checkpoint = out / stage / "last.ckpt"
    while process.poll() is None and not checkpoint.is_file():
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed"
    assert not (out / "projector").exists()
    resumed = trained(ground, out)
    assert resumed.keys() == whole[1].keys()
    assert all(resumed[name].equal(whole[1][name]) for name in resumed)


@pytest.mark.parametrize("stage", ["reconstruct", "distill"])
def test_two_processes_learn_what_one_learns(ground, tmp_path, stage):
    shared = [f"stages=[{stage}]"]
    alone = trained(ground, tmp_path / "one", *shared)
    together = trained(
        ground, tmp_path / "two", *shared, "trainer=ddp", "trainer.lightning.accelerator=cpu", "trainer.device=cpu",
        "trainer.dtype=float32", "trainer.lightning.precision=32-true", "trainer.attention=eager",
    )  # fmt: skip
    for name in alone:
        assert (alone[name].float() - together[name].float()).abs().max() < 2e-3
    one, two = (logged(tmp_path / run, "val/loss") for run in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)


def test_a_stage_ends_early_where_nothing_gets_better(ground, tmp_path):
    trained(
        ground, tmp_path / "run", "stages=[reconstruct]", "reconstruct.epochs=50", "reconstruct.learning_rate=0",
        "patience=2",
    )  # fmt: skip
    assert len(logged(tmp_path / "run", "val/loss")) == 3


def test_one_batch_shows_that_all_of_it_runs(ground, tmp_path):
    trained(ground, tmp_path / "run", "debug=fast")


def test_the_overfitting_configuration_learns_eight_sentences_by_heart(ground, tmp_path):
    arguments = [
        part
        for part in command(ground, tmp_path / "run")
        if not part.startswith(("distill.", "data.validation"))
    ]
    done = finished([
        *arguments, "debug=overfit", "+data.limits.made=8", "distill.learning_rate=0.01", "projector.tokens=16",
        "projector.options.width=512",
    ])  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    losses = logged(tmp_path / "run", "train/loss")
    assert losses[0] > 2
    assert losses[-1] < 0.3


def test_the_folder_of_another_training_is_left_alone(whole, ground):
    done = finished(command(ground, whole[0], "distill.learning_rate=0.5"))
    assert done.returncode == 1
    assert "another configuration: distill differ" in done.stderr
    assert json.loads((whole[0] / "train.json").read_text())["distill"]["learning_rate"] != 0.5


def test_a_training_begins_with_a_trained_projector(whole, ground, tmp_path):
    made = trained(
        ground,
        tmp_path / "run",
        f"from={whole[0] / 'projector'}",
        "stages=[distill]",
        "distill.learning_rate=0",
    )
    assert all(made[name].equal(whole[1][name]) for name in made)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("projector.tokens=0", "tokens of a projector must be a whole number"),
        ("distill.batch_size=4096", "do not fill one batch of 4096"),
        ("data.max_tokens=1", "sentences to train on"),
        ("from=nowhere", "there is no projector 'nowhere'"),
    ],
)
def test_what_cannot_be_trained_is_told_in_one_line(ground, tmp_path, override, told):
    done = finished(command(ground, tmp_path / "run", override))
    assert done.returncode == 1
    assert told in done.stderr
    assert "Traceback" not in done.stderr
