"""Completions of a corpus: those of the engine itself, gone on with batch by batch, never mixed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from embedspace import EmbeddingSpace
from embedspace.corpus import CorpusSpec, make_corpus, open_source
from embedspace.engines import Sampling, TransformersEngine

ROOT = Path(__file__).parents[2]
TEXTS = ["Bread rises because", "", "The sea is", "My cat", "Two and two", "In winter", "A good story"]
IN_PROCESS = "experiment.engine._target_=embedspace.engines.TransformersEngine"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "texts.txt").write_text("".join(f"{text}\n" for text in TEXTS))
    work = CorpusSpec(
        "smollm2-135m-instruct",
        open_source(str(folder / "texts.txt"), stride=4),
        folder / "made",
        shard_size=4,
    )
    assert make_corpus(work, processes=1).refused == 1
    return folder / "made"


def run(corpus: Path, out: Path, *overrides: str) -> subprocess.CompletedProcess[str]:
    settings = [
        f"experiment.corpus={corpus}",
        "experiment.batch_size=3",
        "sampling.max_tokens=5",
        f"out={out}",
    ]
    command = [sys.executable, "experiments/run.py", "experiment=generate_corpus", *settings, *overrides]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=500)


def files(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(out.glob("completions-*"))}


def lines(out: Path) -> list[dict[str, object]]:
    return [json.loads(line) for content in files(out).values() for line in content.splitlines()]


def test_every_prompt_gets_the_engines_own_answer_and_a_lost_file_alone_is_made_again(
    corpus: Path, tmp_path: Path, smollm2: EmbeddingSpace
) -> None:
    done = run(corpus, tmp_path, IN_PROCESS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 completions of 7 texts, 3 batches answered now" in done.stdout
    texts = [text for text in TEXTS if text]
    answers = TransformersEngine(smollm2).generate(smollm2.embed_many(texts), Sampling(max_tokens=5))
    made = lines(tmp_path)
    assert [line["text"] for line in made] == [answer.text for answer in answers]
    assert [line["number"] for line in made] == [0, 2, 3, 4, 5, 6]

    before = files(tmp_path)
    (tmp_path / "completions-000000000003.jsonl").unlink()
    again = run(corpus, tmp_path, IN_PROCESS)
    assert "1 batches answered now" in again.stdout
    assert files(tmp_path) == before

    other = run(corpus, tmp_path, IN_PROCESS, "sampling.max_tokens=6")
    assert other.returncode == 1
    assert "sampling.max_tokens: 5 -> 6" in other.stderr
    assert files(tmp_path) == before
