"""Every code block of the README and the docs runs as it stands."""

from __future__ import annotations

import contextlib
import io
import itertools
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from embedspace.engines import VLLMServer

ROOT = Path(__file__).parents[2]
PAGES = [
    ROOT / "README.md",
    # Those about own data are followed from beginning to end by test_docs_own_data.py.
    *(page for page in sorted((ROOT / "docs").glob("*.md")) if not page.name.startswith("own-")),
]
SERVER = "http://localhost:8000"

pytestmark = pytest.mark.server


def blocks(page: Path) -> list[tuple[str, str]]:
    return re.findall(r"^```(\w+)\n(.*?)^```", page.read_text(), flags=re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_python_blocks_of_a_page_run_in_order(
    page: Path, vllm_server: VLLMServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "\n".join(body for language, body in blocks(page) if language == "python")
    exec(compile(code.replace(SERVER, vllm_server.url), page.name, "exec"), {"__name__": "__main__"})


def followed_by_text(page: Path) -> list[tuple[str, str, str]]:
    """Python before a block, the block, and the text block directly below it, which shows what the block prints."""
    shown, before = blocks(page), ""
    below = page.read_text()
    found = []
    for (language, body), (next_language, printed) in itertools.pairwise([*shown, ("", "")]):
        if language != "python":
            continue
        if next_language == "text" and f"{body}```\n\n```text\n{printed}" in below:
            found.append((before, body, printed))
        before += body
    return found


PRINTED = [(page, *parts) for page in PAGES for parts in followed_by_text(page)]


@pytest.mark.parametrize(
    ("page", "before", "code", "printed"), PRINTED, ids=[page.stem for page, *_ in PRINTED]
)
def test_a_python_block_prints_the_text_block_below_it(
    page: Path,
    before: str,
    code: str,
    printed: str,
    vllm_server: VLLMServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "__main__"}
    output = io.StringIO()
    exec(compile(before.replace(SERVER, vllm_server.url), page.name, "exec"), names)
    with contextlib.redirect_stdout(output):
        exec(compile(code.replace(SERVER, vllm_server.url), page.name, "exec"), names)
    assert output.getvalue() == printed


def test_the_readme_shows_what_its_first_block_prints() -> None:
    languages = [language for language, _ in blocks(ROOT / "README.md")]
    first = languages.index("python")
    assert languages[first + 1] == "text"
    assert any(page.name == "README.md" and not before for page, before, *_ in PRINTED)


COMMANDS = [
    (page, line.split(" #")[0].strip())
    for page in PAGES
    for language, body in blocks(page)
    if language == "bash"
    for line in body.replace("\\\n", " ").splitlines()
    if line.strip() and not line.lstrip().startswith("#")
]


def begun(command: Sequence[str], folder: Path) -> str:
    """What a sweep prints up to its first job, at which it is stopped."""
    printed = ""
    with subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    ) as process:  # fmt: skip
        assert process.stdout is not None
        for line in process.stdout:
            printed += line
            if "\t#0 : " in line:
                process.kill()
    return printed


@pytest.mark.parametrize(("page", "command"), COMMANDS, ids=[command for _, command in COMMANDS])
def test_the_commands_of_a_page_run(
    page: Path, command: str, vllm_server: VLLMServer, tmp_path: Path
) -> None:
    words = shlex.split(command.replace(SERVER, vllm_server.url))
    if words[:2] in (["embedspace", "run"], ["embedspace", "train"]):
        words[:2] = ["python", {"run": "experiments/run.py", "train": "train/projector.py"}[words[1]]]
    if words[0] == "make":
        # The targets call this very test: it is enough that make knows them and what they need.
        done = subprocess.run(["make", "--dry-run", *words[1:]], cwd=ROOT, capture_output=True, text=True)
    elif words[:2] in (["python", "experiments/run.py"], ["python", "train/projector.py"]):
        # Long runs are tested elsewhere. Here a sweep begins and is stopped at its first job, which needs the launcher
        # of this machine; of other commands Hydra shows what it would run.
        if "--multirun" in words and not any(
            word.startswith(("launcher=", "trainer=slurm")) for word in words
        ):
            assert "\t#0 : " in begun([sys.executable, str(ROOT / words[1]), *words[2:]], tmp_path)
            return
        job = [word.split(",")[0] if "--multirun" in words else word for word in words[1:]]
        job = [word for word in job if word != "--multirun"]
        done = subprocess.run(
            [sys.executable, *job, "--cfg", "job", "--resolve"], cwd=ROOT, capture_output=True, text=True
        )
    elif words[0] == "embedspace" and words[1] in ("serve", "gateway", "distill", "playground"):
        # They run until they are stopped, or for minutes.
        done = subprocess.run(
            [sys.executable, "-m", "embedspace", *words[1:2], "--help"], capture_output=True, text=True
        )
    elif words[0] == "embedspace":
        done = subprocess.run(
            [sys.executable, "-m", "embedspace", *words[1:]], cwd=tmp_path, capture_output=True, text=True
        )
    else:
        assert words[0] in {"git", "cd", "pip"}, f"no test knows how to try {command!r} of {page.name}"
        return
    assert done.returncode == 0, done.stdout + done.stderr
