"""Generate corpus: a completion of every prompt of a corpus, on one machine or by the actors of a Ray cluster."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace import EmbeddingSpace
from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from embedspace.corpus import Corpus, Runner
from embedspace.corpus.on_ray import ray_data
from embedspace.engines import Engine, Sampling
from embedspace.errors import EngineError

if TYPE_CHECKING:
    import numpy.typing as npt

SETTINGS = "generation.json"


@dataclass(frozen=True)
class GenerateCorpus:
    """The completions of one corpus, made or gone on with: a file of JSON Lines for each batch of prompts."""

    model: str
    corpus: str
    """Folder that ``experiment=embed_corpus`` wrote; on a cluster, on a disk that all nodes share."""
    engine: Callable[[], Engine]
    """Opens an engine: one here, or one in each actor."""
    sampling: Sampling
    batch_size: int
    """Prompts that are answered together, and lines of a file."""
    actors: int
    """Of a cluster; each holds one engine."""
    gpus_per_actor: float
    runner: Runner

    def run(self, folder: Path) -> str:
        """Answer every batch whose file is not there.

        Raises:
            ValueError: no corpus, one of another model, a folder with completions under other settings, Ray that
                is not installed, or prompts that failed (all others are there).
            EngineError: the engine stopped working; what was answered is kept.
        """
        corpus = Corpus(self.corpus, EmbeddingSpace.from_pretrained(self.model))
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        self._require_same(corpus, folder)
        starts = range(0, len(corpus), self.batch_size)
        pending = [start for start in starts if not _file(folder, start).is_file()]
        place = corpus.folder.absolute()
        actor = partial(Answerer, self.model, place, self.engine, self.sampling, self.batch_size, folder)
        runners: dict[str, Callable[[partial[Answerer], Sequence[int]], Iterator[int]]] = {
            "local": _locally,
            "ray": partial(_on_ray, actors=self.actors, gpus=self.gpus_per_actor),
        }
        with progress("batches", len(starts), len(starts) - len(pending)) as advance:
            for _ in runners[self.runner](actor, pending):
                advance()
        count, failed, first = 0, 0, None
        for line in (line for start in starts for line in _file(folder, start).read_text().splitlines()):
            error, count = json.loads(line)["error"], count + 1
            failed, first = failed + (error is not None), first or error
        told = (
            f"{count:,} completions of {len(corpus):,} texts, {len(pending)} batches answered now: {folder}"
        )
        if failed:
            raise ValueError(f"{failed} completions failed, the first with {first!r}. {told}")
        return told

    def _require_same(self, corpus: Corpus, folder: Path) -> None:
        """Completions under different settings are never mixed in one folder."""
        engine = self.engine
        settings = {
            "fingerprint": corpus.space.fingerprint,
            "corpus": hashlib.sha256(json.dumps(corpus.manifest["shards"]).encode()).hexdigest(),
            "engine": repr(engine)
            if not isinstance(engine, partial)
            else f"{engine.func.__name__}{engine.keywords}",
            "sampling": json.loads(json.dumps(asdict(self.sampling))),
            "batch_size": self.batch_size,
        }
        path = folder / SETTINGS
        if path.is_file():
            before = json.loads(path.read_text())["settings"]
            if changed := [name for name in settings if before.get(name) != settings[name]]:
                raise ValueError(
                    f"{folder} holds completions under other settings: "
                    + "; ".join(f"{name} was {before.get(name)}, is {settings[name]}" for name in changed)
                    + ". Choose another out=FOLDER"
                )
            return
        _write(path, json.dumps({"settings": settings, **provenance()}, indent=1))


class Answerer:
    """The actor: opens corpus and engine once, then answers one batch after another."""

    def __init__(
        self,
        model: str,
        corpus: Path,
        engine: Callable[[], Engine],
        sampling: Sampling,
        batch_size: int,
        folder: Path,
    ) -> None:
        self._corpus = Corpus(corpus, EmbeddingSpace.from_pretrained(model))
        self._engine = engine()
        self._sampling = sampling
        self._batch_size = batch_size
        self._folder = folder

    def __call__(self, batch: dict[str, npt.NDArray[Any]]) -> dict[str, list[int]]:
        """Answer the batches that begin at these numbers, and write each into its file."""
        starts = [int(start) for start in batch["start"]]
        for start in starts:
            _write(_file(self._folder, start), "".join(self._lines(start)))
        return {"start": starts}

    def close(self) -> None:
        """Let go of the engine."""
        self._engine.close()

    def _lines(self, start: int) -> Iterator[str]:
        texts = range(start, min(start + self._batch_size, len(self._corpus)))
        numbers = [number for number in texts if number not in self._corpus.refused]
        prompts = (self._corpus[number] for number in numbers)
        answered = 0
        for made in self._engine.generate(prompts, self._sampling):
            answered += 1
            line = {
                "number": numbers[made.prompt_index],
                "choice": made.index,
                "text": made.text,
                "token_ids": made.token_ids,
                "finish_reason": made.finish_reason,
                "error": made.error,
            }
            yield json.dumps(line, ensure_ascii=False) + "\n"
        if answered < len(numbers):
            raise EngineError(
                f"the engine gave {answered} answers to the {len(numbers)} prompts from text {start} on"
            )


def _locally(actor: partial[Answerer], starts: Sequence[int]) -> Iterator[int]:
    import numpy as np

    if not starts:
        return
    answerer = actor()
    try:
        for start in starts:
            yield from answerer({"start": np.array([start])})["start"]
    finally:
        answerer.close()


def _on_ray(actor: partial[Answerer], starts: Sequence[int], *, actors: int, gpus: float) -> Iterator[int]:
    """Each batch as soon as an actor of Ray Data's ``map_batches`` has answered it."""
    data, strategy = ray_data()
    if not starts:
        return
    made = data.from_items([{"start": start} for start in starts], override_num_blocks=len(starts))
    made = made.map_batches(
        actor.func,
        fn_constructor_args=actor.args,
        batch_size=1,
        num_gpus=gpus or None,
        compute=strategy(size=actors),
    )
    for row in made.iter_rows():
        yield int(row["start"])


def _file(folder: Path, start: int) -> Path:
    return folder / f"completions-{start:012d}.jsonl"


def _write(path: Path, text: str) -> None:
    """The whole file or none of it, whatever dies."""
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
