"""The training command: kills, several processes, early ends, and what it refuses."""

import json
import os
import signal
import subprocess
import time
from importlib.util import find_spec

import pytest

from embedspace import Projector
from tests.trainings import ENVIRONMENT, ROOT, command, logged, make_ground, settings, trained_here, weights

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    return make_ground(tmp_path_factory.mktemp("ground"))


def finished(arguments):
    return subprocess.run(
        arguments, capture_output=True, text=True, check=False, env=ENVIRONMENT, cwd=ROOT, timeout=500
    )


def trained(ground, out, *overrides):
    """Weights of a training by the command."""
    done = finished(command(ground, out, *overrides))
    assert done.returncode == 0, done.stdout + done.stderr
    return weights(out)


@pytest.fixture(scope="module")
def whole(ground, tmp_path_factory):
    """A training that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return out, trained(ground, out)


def test_a_training_leaves_a_projector_that_says_what_it_was_trained_on(whole, ground):
    out, _ = whole
    projector = Projector.from_pretrained(out / "projector")
    assert projector.config.training["sentences"]["made"] > 500
    assert projector.config.training["config"]["distill"]["batch_size"] == 8
    assert projector.tokens == 2
    wanted = bool(find_spec("tensorboard") or find_spec("tensorboardX"))
    for stage in ("reconstruct", "distill"):
        assert logged(out, stage, "val/loss")
        assert bool(list((out / stage / "logs").glob("version_0/events.out.tfevents.*"))) == wanted


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
    alone = trained_here(tmp_path / "one", settings(ground, *shared))
    together = trained(
        ground, tmp_path / "two", *shared, "trainer=ddp", "trainer.lightning.accelerator=cpu", "trainer.device=cpu",
        "trainer.dtype=float32", "trainer.lightning.precision=32-true", "trainer.attention=eager",
    )  # fmt: skip
    for name in alone:
        assert (alone[name].float() - together[name].float()).abs().max() < 2e-3
    one, two = (logged(tmp_path / run, stage, "val/loss") for run in ("one", "two"))
    assert two == pytest.approx(one, rel=1e-3)


def test_a_stage_ends_early_where_nothing_gets_better(ground, tmp_path):
    unchanging = [
        "stages=[reconstruct]",
        "reconstruct.epochs=50",
        "reconstruct.learning_rate=0",
        "patience=2",
    ]
    trained_here(tmp_path / "run", settings(ground, *unchanging))
    assert len(logged(tmp_path / "run", "reconstruct", "val/loss")) == 3


def test_one_batch_shows_that_all_of_it_runs(ground, tmp_path):
    trained_here(tmp_path / "run", settings(ground, "debug=fast"))
    training = json.loads((tmp_path / "run" / "projector" / "config.json").read_text())["training"]
    assert training["sentences"] == {"made": 64}


def test_the_overfitting_configuration_learns_eight_sentences_by_heart(ground, tmp_path):
    own = [part for part in settings(ground) if not part.startswith(("distill.", "data.validation"))]
    trained_here(
        tmp_path / "run",
        [*own, "debug=overfit", "+data.limits.made=8", "distill.learning_rate=0.01", "projector.tokens=16",
         "projector.options.width=512"],
    )  # fmt: skip
    losses = logged(tmp_path / "run", "distill", "train/loss")
    assert losses[0] > 2
    assert losses[-1] < 0.3


def test_the_folder_of_another_training_is_left_alone(whole, ground):
    with pytest.raises(ValueError, match=r"another configuration:\n  distill\."):
        trained_here(whole[0], settings(ground, "distill.learning_rate=0.5"))
    assert json.loads((whole[0] / "train.json").read_text())["distill"]["learning_rate"] != 0.5


def test_a_first_try_that_failed_leaves_no_folder_that_refuses_the_second(ground, tmp_path):
    missing = "data.sources=[{_target_: embedspace.projector.sources.local, kind: made, path: no.txt}]"
    with pytest.raises(Exception, match="there is no file"):
        trained_here(tmp_path / "run", settings(ground, missing, "debug=fast"))
    trained_here(tmp_path / "run", settings(ground, "debug=fast"))


def test_a_training_begins_with_a_trained_projector(whole, ground, tmp_path):
    first = f"from={whole[0] / 'projector'}"
    made = trained_here(
        tmp_path / "run", settings(ground, first, "stages=[distill]", "distill.learning_rate=0")
    )
    assert all(made[name].equal(whole[1][name]) for name in made)


@pytest.mark.parametrize(
    ("override", "reported"),
    [
        ("projector.tokens=0", "tokens of a projector must be a whole number"),
        ("data.max_tokens=1", "sentences to train on"),
        ("from=nowhere", "there is no projector 'nowhere'"),
    ],
)
def test_what_cannot_be_trained_is_refused(ground, tmp_path, override, reported):
    with pytest.raises(ValueError, match=reported):
        trained_here(tmp_path / "run", settings(ground, override))


def test_the_command_tells_what_it_refuses_in_one_line(ground, tmp_path):
    done = finished(command(ground, tmp_path / "run", "data.max_tokens=1"))
    assert done.returncode == 1
    assert "sentences to train on" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_the_packages_of_trainings_the_command_says_what_to_install(ground, tmp_path):
    (tmp_path / "lightning.py").write_text("raise ModuleNotFoundError(\"No module named 'lightning'\")\n")
    places = os.pathsep.join([str(tmp_path), ENVIRONMENT["PYTHONPATH"]])
    done = subprocess.run(
        command(ground, tmp_path / "run"),
        capture_output=True, text=True, check=False, env=ENVIRONMENT | {"PYTHONPATH": places}, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pip install '.[train]'" in done.stderr
    assert "Traceback" not in done.stderr
