"""Runs are read by Inspect's own reader, with their samples, scores, model and recipes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from embedspace.cli import main
from embedspace.engines import Sampling, TransformersEngine
from embedspace.metrics import Score
from embedspace.reporting import export_inspect
from embedspace.runs import Case, Record, Run, execute, read_records
from tests.checkpoints import make_tiny_checkpoint

EARLIER = Path(__file__).parents[2] / "fixtures/earlier_version/run"
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is rain?"}]

# Its pins (fsspec) and dozens of packages do not fit the tested environment: it has a folder of its own.
INSPECT = os.environ.get("EMBEDSPACE_INSPECT", "")
needs_inspect = pytest.mark.skipif(
    not INSPECT,
    reason="inspect-ai is not in the lock: pip install --target FOLDER inspect-ai, then EMBEDSPACE_INSPECT=FOLDER",
)

READ = """
import json, sys
from inspect_ai.log import list_eval_logs, read_eval_log, read_eval_log_samples
(info,) = list_eval_logs(sys.argv[1])
log = read_eval_log(info)
print(json.dumps({
    "status": log.status, "model": log.eval.model, "task": log.eval.task,
    "means": [score.metrics["mean"].value for score in log.results.scores],
    "max_tokens": log.eval.model_generate_config.max_tokens, "commit": log.eval.revision and log.eval.revision.commit,
    "streamed": len(list(read_eval_log_samples(info, all_samples_required=False))),
    "samples": [{
        "id": s.id, "epoch": s.epoch, "input": [[m.role, m.text] for m in s.input], "text": s.output.completion,
        "scores": {name: score.as_float() for name, score in s.scores.items()}, "recipe": s.metadata["recipe"],
        "stop": s.output.choices[0].stop_reason if s.output.choices else None, "error": s.error and s.error.message,
    } for s in log.samples],
}))
"""


def read_by_inspect(folder: Path) -> dict[str, Any]:
    """What Inspect's own reader makes of the one log in a folder."""
    done = subprocess.run(
        [sys.executable, "-c", READ, folder],
        env=os.environ | {"PYTHONPATH": INSPECT},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout.splitlines()[-1]))


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    engine = TransformersEngine(make_tiny_checkpoint(tmp_path / "model"))
    space = engine.space

    def damaged():
        prompt = space.embed("a b", special_tokens=False)
        return prompt.with_runs([prompt.vectors * float("nan")], prompt.recipe)

    cases = [
        Case("sampled", lambda: space.embed_chat(CHAT), {"alpha": 0.5}),
        Case("bad", damaged, {"alpha": 1.0}),
    ]
    with Run.open(tmp_path / "run", {"seed": 1}, fingerprint=space.fingerprint) as run:
        execute(run, lambda: engine, cases, Sampling(max_tokens=3, n=2, temperature=1.0), title="test")
        scored = next(run.records())
        fields = vars(scored) | {"key": "scored", "choice": 0, "scores": {"Yes": Score(-3.0, 2)}}
        run.log.append([Record(**fields)])
    return tmp_path / "run"


def test_a_log_holds_each_record_once_and_the_same_run_gives_the_same_file(run_folder: Path) -> None:
    file = export_inspect(run_folder)
    before = file.read_bytes()
    assert export_inspect(run_folder) == file
    assert file.read_bytes() == before
    records = list(read_records(run_folder / "records.jsonl"))
    samples = json.loads(before)["samples"]
    assert [(each["id"], each["epoch"] - 1) for each in samples] == [(r.key, r.choice) for r in records]
    assert [each["metadata"]["recipe_tree"] for each in samples] == [r.recipe.to_dict() for r in records]


@needs_inspect
def test_the_reader_of_inspect_finds_samples_scores_model_and_recipes(run_folder: Path) -> None:
    file = export_inspect(run_folder)
    log = read_by_inspect(file.parent)
    records = list(read_records(run_folder / "records.jsonl"))
    git = json.loads((run_folder / "run.json").read_text())["sittings"][0]["git"]
    assert (log["status"], log["task"], log["max_tokens"]) == ("success", "run", 3)
    assert log["commit"] == (git and git["commit"])
    assert log["model"].startswith("transformers/")
    assert log["means"] == [-3.0]
    assert log["streamed"] == len(records) == 4
    assert [each["text"] for each in log["samples"]] == [record.text for record in records]
    assert [each["recipe"] for each in log["samples"]] == [str(record.recipe) for record in records]
    assert [(each["id"], each["epoch"]) for each in log["samples"]] == [
        ("sampled", 1), ("sampled", 2), ("bad", 1), ("scored", 1),
    ]  # fmt: skip
    sampled, _, bad, scored = log["samples"]
    assert sampled["input"] == [["system", "Be brief."], ["user", "What is rain?"]]
    assert sampled["stop"] in ("stop", "max_tokens")
    assert scored["scores"] == {"Yes": -3.0}
    assert "NaN" in bad["error"]


@needs_inspect
def test_a_run_of_an_earlier_version_is_exported_too(tmp_path: Path) -> None:
    file = export_inspect(EARLIER, tmp_path / "logs")
    assert len(read_by_inspect(file.parent)["samples"]) == len(list(read_records(EARLIER / "records.jsonl")))


def test_the_command_exports_a_run_and_names_what_is_none(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["runs", "export", str(EARLIER), "--out", str(tmp_path)]) == 0
    assert Path(capsys.readouterr().out.partition("\n")[0]).parent == tmp_path
    assert main(["runs", "export", str(tmp_path)]) == 2
    assert "holds no records of a run" in capsys.readouterr().err
