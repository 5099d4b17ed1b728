"""Corpora on a real Ray cluster of three nodes: the bytes of one process, whatever is killed on the way."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from embedspace.corpus import CorpusSpec, make_corpus, map_on_ray, open_source
from tests.checkpoints import make_tiny_checkpoint
from tests.ray_cluster import NODE, doubler, ray_cluster, refusing
from tests.slurm_cluster import until

pytest.importorskip("ray")
pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
TEXTS, SHARD = 2400, 4


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with ray_cluster() as cluster, pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_ADDRESS", cluster.address)
        yield cluster


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, texts, and the corpus of them that one process makes."""
    folder = tmp_path_factory.mktemp("ground")
    make_tiny_checkpoint(folder / "model")
    draw = random.Random(0)
    lines = (
        " ".join(draw.choices(["bread", "rises", "in", "the", "sea"], k=draw.randint(1, 9)))
        for _ in range(TEXTS)
    )
    (folder / "texts.txt").write_text("".join(f"{line}\n" for line in lines))
    source = open_source(folder / "texts.txt", stride=SHARD)
    make_corpus(CorpusSpec(str(folder / "model"), source, folder / "corpus", shard_size=SHARD))
    return folder


@contextlib.contextmanager
def started(ground: Path, out: Path, *words: str) -> Iterator[subprocess.Popen[str]]:
    """An experiment on the cluster while it runs; what it says on stderr goes into a file beside its folder."""
    command = [sys.executable, "experiments/run.py", *words, f"model.name={ground / 'model'}", f"out={out}"]
    with (out.parent / "said").open("w") as said, subprocess.Popen(
        [*command, "experiment.runner=ray"], cwd=ROOT, text=True, stdout=said, stderr=said
    ) as process:  # fmt: skip
        try:
            yield process
        finally:
            process.kill()


def at(process: subprocess.Popen[str], count: int, files: Callable[[], list[Path]]) -> None:
    """Wait until so many files are there, and the command has not ended."""

    def enough() -> bool:
        assert process.poll() is None, "it ended before it could be disturbed"
        return len(files()) >= count

    until(enough, f"{count} files", 450, look=0.02)


def contents(paths: list[Path]) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in paths}


def test_a_corpus_outlives_its_driver_and_a_node_and_has_the_bytes_of_one_process(
    nodes: Any, ground: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [
        "experiment=embed_corpus",
        f"experiment.source={ground / 'texts.txt'}",
        f"experiment.shard_size={SHARD}",
    ]

    def shards(folder: Path = out) -> list[Path]:
        return list(folder.glob("shard-*.safetensors"))

    with started(ground, out, *words) as process:
        at(process, 20, shards)
    assert 20 <= len(shards()) < TEXTS // SHARD
    with started(ground, out, *words) as process:
        at(process, 200, shards)
        nodes.remove_node(nodes.worker_nodes.copy().pop(), allow_graceful=False)
        nodes.add_node(**NODE)
        assert process.wait(300) == 0, (tmp_path / "said").read_text()
    assert contents(shards()) == contents(shards(ground / "corpus"))
    assert not list(out.glob("*.draft"))
    said = (tmp_path / "said").read_text()
    assert f"texts: {TEXTS} of {TEXTS}" in said
    assert "(_Worker pid=" not in said
    assert "worker.py" not in said


def kill_a_worker(process: subprocess.Popen[str]) -> bool:
    """Kill a worker that is answering; False where none is just now."""
    assert process.poll() is None, "it ended before a worker was killed"
    for each in psutil.process_iter(["cmdline"]):
        if (each.info["cmdline"] or [""])[0] == "ray::_Worker.work":
            each.kill()
            return True
    return False


def test_a_worker_that_is_killed_as_it_generates_is_named_with_its_batch_and_nothing_is_lost_or_doubled(
    nodes: Any, ground: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = [
        "experiment=generate_corpus", f"experiment.corpus={ground / 'corpus'}", "experiment.batch_size=40",
        "experiment.actors=2", "experiment.engine._target_=embedspace.engines.TransformersEngine",
        "+experiment.engine.batch_size=1", "sampling.max_tokens=4",
    ]  # fmt: skip
    with started(ground, out, *words) as process:
        at(process, 1, lambda: list(out.glob("completions-*.jsonl")))
        until(lambda: kill_a_worker(process), "a worker at work", 60, look=0.02)
        assert process.wait(400) == 0, (tmp_path / "said").read_text()
    made = contents(list(out.glob("completions-*")))
    assert "a worker died with the batch of texts " in (tmp_path / "said").read_text()
    here = tmp_path / "here"
    command = [sys.executable, "experiments/run.py", *words, f"model.name={ground / 'model'}", f"out={here}"]
    assert subprocess.run(command, cwd=ROOT, capture_output=True).returncode == 0
    assert made == contents(list(here.glob("completions-*")))


def test_work_that_kills_every_worker_is_named_and_the_rest_is_there(nodes: Any) -> None:
    results = map_on_ray(doubler, (5,), range(6), describe=lambda n: f"piece {n}", workers=1)
    assert [next(results) for _ in range(5)] == [0, 2, 4, 6, 8]
    with pytest.raises(
        ChildProcessError, match=r"3 workers died one after another with piece 5; .* process has died"
    ):
        next(results)


def test_the_error_of_a_worker_reaches_the_caller_as_it_was_raised(nodes: Any) -> None:
    with pytest.raises(ValueError, match="there is no such model"):
        list(map_on_ray(refusing, (), range(2), describe=str, workers=1))
