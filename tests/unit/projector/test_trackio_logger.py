"""Metrics of a training reach Trackio's local database, and a stopped training goes on in its run."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from embedspace.projector import trackio_logger
from embedspace.projector.trackio_logger import TrackioLogger

# Trackio holds pillow below the tested version, so it may have a folder of its own.
TRACKIO = os.environ.get("EMBEDSPACE_TRACKIO", "")

TRAIN = """
import json, socket, sys, warnings
warnings.filterwarnings("ignore")
import lightning, torch
from torch.utils.data import DataLoader, TensorDataset

def refuse(self, address):
    if self.family != socket.AF_UNIX:
        raise AssertionError(f"a connection to {address}")
socket.socket.connect = refuse

class Line(lightning.LightningModule):
    def __init__(self, slope=0.0):
        super().__init__()
        self.save_hyperparameters()
        self.slope = torch.nn.Parameter(torch.tensor(slope))
    def training_step(self, batch, index):
        (x,) = batch
        loss = ((self.slope * x - 2 * x) ** 2).mean()
        self.log("loss", loss)
        return loss
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05)

from embedspace.projector.trackio_logger import TrackioLogger
for begin, epochs in ((0, 2), (2, 4)):
    trainer = lightning.Trainer(max_epochs=epochs, accelerator="cpu", log_every_n_steps=1, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=sys.argv[1], logger=TrackioLogger(sys.argv[1] + "/mine/distill"))
    trainer.fit(Line(), DataLoader(TensorDataset(torch.ones(4, 1)), batch_size=2),
        ckpt_path=sys.argv[1] + "/last.ckpt" if begin else None, weights_only=False)
    trainer.save_checkpoint(sys.argv[1] + "/last.ckpt")

from trackio.sqlite_storage import SQLiteStorage
print(json.dumps([SQLiteStorage.get_projects(), SQLiteStorage.get_runs("embedspace"),
    [[each["step"], each["loss"]] for each in SQLiteStorage.get_logs("embedspace", "mine/distill") if "loss" in each]]))
"""


@pytest.mark.skipif(
    find_spec("trackio") is None and not TRACKIO,
    reason="trackio is not in the lock: pip install --target FOLDER trackio, then EMBEDSPACE_TRACKIO=FOLDER",
)
def test_metrics_are_kept_on_this_machine_and_a_continued_training_keeps_its_run(tmp_path: Path) -> None:
    places = [str(Path(__file__).parents[3]), TRACKIO]
    environment = os.environ | {
        "TRACKIO_DIR": str(tmp_path / "trackio"),
        "PYTHONPATH": os.pathsep.join(places),
    }
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, tmp_path], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    (printed,) = [line for line in done.stdout.splitlines() if line.startswith("[[")]
    projects, runs, logged = json.loads(printed)
    assert (projects, runs) == (["embedspace"], ["mine/distill"])
    assert [step for step, _ in logged] == [*range(8)]
    losses = [loss for _, loss in logged]
    assert losses == sorted(losses, reverse=True)
    assert losses[0] == 4


def test_where_trackio_is_missing_the_message_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(trackio_logger, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"pip install 'embedspace\[trackio\]'"):
        TrackioLogger(tmp_path)
