"""Generate corpus: a completion of every prompt of a corpus, on one machine or by the workers of a Ray cluster."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from embedspace import EmbeddingSpace
from embedspace._util.files import atomic_write
from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from embedspace._util.run_folder import RunFolder
from embedspace.corpus import Corpus, Runner, map_on_ray, require_runner
from embedspace.engines import Engine, Sampling
from embedspace.errors import EngineError


@dataclass(frozen=True)
class GenerateCorpus:
    """The completions of one corpus, made or resumed: a file of JSON Lines for each batch of prompts."""

    model: str
    corpus: str
    """Folder that ``experiment=embed_corpus`` wrote; on a cluster, on a disk that all nodes share."""
    engine: Callable[[], Engine]
    """Opens an engine: one here, or one in each worker of a cluster."""
    sampling: Sampling
    batch_size: int
    """Prompts that are answered together, and lines of a file."""
    actors: int
    """Workers of a cluster; each holds one engine."""
    gpus_per_actor: float
    runner: Runner
    fresh: bool

    def run(self, folder: Path) -> str:
        """Answer every batch whose file is not there.

        Raises:
            ValueError: an unknown runner, no corpus, one of another model, a folder with completions under other
                settings, Ray that is not installed, or prompts that failed (all others are there).
            EngineError: the engine stopped working; what was answered is kept.
        """
        require_runner(self.runner)
        corpus = Corpus(self.corpus, EmbeddingSpace.from_pretrained(self.model))
        folder = folder.absolute()
        claim = RunFolder(
            folder,
            "generation",
            "generation.json",
            ("settings",),
            ("completions-*.jsonl",),
            "generation.lock",
        )
        with claim.lock():
            if self.fresh:
                claim.clear()
            settings = self._settings(corpus)
            if (old := claim.read()) is None:
                claim.write({"settings": settings, **provenance()})
            else:
                claim.require_same(old["settings"], settings)
            return self._answered(corpus, claim)

    def _answered(self, corpus: Corpus, claim: RunFolder) -> str:
        """Answer what is missing, and count what there is."""
        folder = claim.path
        starts = range(0, len(corpus), self.batch_size)
        pending = [start for start in starts if not _file(folder, start).is_file()]
        place = corpus.folder.absolute()
        arguments = (self.model, place, self.engine, self.sampling, self.batch_size, folder)
        with progress("batches", len(starts), len(starts) - len(pending)) as advance:
            for _ in self._batches(arguments, pending):
                advance()
        claim.remove_drafts()  # of workers that were killed
        count, failed, first = 0, 0, None
        for line in (line for start in starts for line in _file(folder, start).read_text().splitlines()):
            error, count = json.loads(line)["error"], count + 1
            failed, first = failed + (error is not None), first or error
        summary = (
            f"{count:,} completions of {len(corpus):,} texts, {len(pending)} batches answered now: {folder}"
        )
        if failed:
            raise ValueError(f"{failed} completions failed, the first with {first!r}. {summary}")
        return summary

    def _batches(self, arguments: tuple[Any, ...], pending: Sequence[int]) -> Iterator[object]:
        """Each batch as soon as it is answered and written."""
        if self.runner == "ray":
            yield from map_on_ray(
                Answerer,
                arguments,
                pending,
                describe=self._stretch,
                workers=self.actors,
                gpus=self.gpus_per_actor,
            )
        elif pending:
            with closing(Answerer(*arguments)) as answerer:
                yield from map(answerer, pending)

    def _stretch(self, start: int) -> str:
        return f"the batch of texts {start} to {start + self.batch_size - 1}"

    def _settings(self, corpus: Corpus) -> dict[str, Any]:
        """What decides the completions."""
        engine = self.engine
        return {
            "fingerprint": corpus.space.fingerprint,
            "corpus": hashlib.sha256(json.dumps(corpus.manifest["shards"]).encode()).hexdigest(),
            "engine": f"{engine.func.__name__}{engine.keywords}"
            if isinstance(engine, partial)
            else repr(engine),
            "sampling": asdict(self.sampling),
            "batch_size": self.batch_size,
        }


class Answerer:
    """A worker: opens corpus and engine once, then answers one batch after another."""

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

    def __call__(self, start: int) -> int:
        """Answer the prompts from this number on, and write them into their file."""
        atomic_write(_file(self._folder, start), "".join(self._lines(start)), sync=True)
        return start

    def close(self) -> None:
        """Close the engine."""
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


def _file(folder: Path, start: int) -> Path:
    return folder / f"completions-{start:012d}.jsonl"
