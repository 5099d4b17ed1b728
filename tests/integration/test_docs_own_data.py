"""The pages about own data: a reader who writes their files and runs their commands in order gets what they promise."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"

SMALLER = {
    "own-sentences": ["debug=fast", "data.limit=null", "callbacks.progress=null"],
    "own-style": ["--cfg", "job", "--resolve"],
}
"""Words that make the training or the experiment of a page shorter; none of the page's own is taken away."""


class Reader:
    """Somebody with a folder, who does what a page says."""

    def __init__(self, page: str, folder: Path) -> None:
        self.page, self.folder = page, folder
        self.text = (DOCS / f"{page}.md").read_text()

    def write_files(self) -> None:
        for name, content in re.findall(
            r"^Write `([^`]+)`:\n\n```\w+\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE
        ):
            path = self.folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content)

    def commands(self) -> list[str]:
        blocks = re.findall(r"^```bash\n(.*?)^```", self.text, re.DOTALL | re.MULTILINE)
        return [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]

    def run(self, command: str) -> str:
        words = shlex.split(command)
        if words[:2] == ["embedspace", "distill"]:
            words += ["--help"]  # it takes minutes
        if words[1] in ("experiments/run.py", "train/projector.py"):
            words[1] = str(ROOT / words[1])
            words += SMALLER.get(self.page, [])
        program = {"python": [sys.executable], "embedspace": [sys.executable, "-m", "embedspace"]}[words[0]]
        done = subprocess.run(
            [*program, *words[1:]], cwd=self.folder, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}"},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout


@pytest.fixture
def follow(tmp_path):
    def read(page: str) -> tuple[Path, list[str]]:
        reader = Reader(page, tmp_path)
        reader.write_files()
        return tmp_path, [
            reader.run(command) for command in reader.commands() if "experiment=projector" not in command
        ]

    return read


def test_an_own_experiment_runs_and_reports(follow):
    folder, (printed,) = follow("own-experiment")
    shown = re.findall(
        r"^```text\n(.*?)^```", (DOCS / "own-experiment.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert printed.endswith(shown[0])
    assert "After a polite word" in (folder / "runs/please-transformers-smollm2/report.html").read_text()


def test_own_documents_are_found_and_shortened(follow):
    _, (asked, searched) = follow("own-documents")
    assert "costs $12.50" in asked
    before, after = map(int, re.findall(r"(\d+) rows", asked))
    assert after < before
    shown = re.findall(
        r"^```text\n(.*?)^```", (DOCS / "own-documents.md").read_text(), re.DOTALL | re.MULTILINE
    )
    assert searched.startswith(shown[1])


def test_own_sentences_train_a_projector(follow):
    folder, (_, trained) = follow("own-sentences")
    assert len((folder / "sentences.txt").read_text().splitlines()) == 200
    assert trained.splitlines()[-1] == "projector: runs/mine/projector"
    assert (folder / "runs/mine/projector/model.safetensors").is_file()
    count = int(re.findall(r"^distill: (\d+) sentences", trained, re.MULTILINE)[0])
    assert f"distill: {count} sentences\n" in (DOCS / "own-sentences.md").read_text()


def test_an_own_style_is_an_experiment(follow):
    _, (_, composed) = follow("own-style")
    assert "positive_name: blunt" in composed
    assert "Please answer bluntly" in composed


def test_the_python_of_the_page_on_styles_shows_an_answer_that_changes(capsys):
    (code,) = re.findall(
        r"^```python\n(.*?)^```", (DOCS / "own-style.md").read_text(), re.DOTALL | re.MULTILINE
    )
    exec(compile(code, "own-style.md", "exec"), {"__name__": "__main__"})
    plain, moved = capsys.readouterr().out.splitlines()[:2]
    assert plain.partition(": ")[2] != moved.partition(": ")[2]
