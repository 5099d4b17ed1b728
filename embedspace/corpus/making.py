"""The making of a corpus: shard by shard, on this machine or on a cluster, and gone on with after any end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from embedspace._util.progress import progress
from embedspace._util.provenance import now, provenance
from embedspace.corpus.manifest import MANIFEST, read_manifest, require_same, totals, write_manifest
from embedspace.corpus.shard import Shard, What, is_whole, make_shard, number_of, summary_of
from embedspace.corpus.sources import Source
from embedspace.corpus.tokens import Template
from embedspace.space import EmbeddingSpace

Runner = Literal["local", "ray"]

_LOCK = "corpus.lock"


@dataclass(frozen=True)
class Work:
    """Everything that decides the shards. It can be sent to any process that sees the same files."""

    model: str
    """Packaged name, local folder or hub id."""
    source: Source
    folder: Path
    """On a cluster, on a disk that all nodes share."""
    what: What = "embeddings"
    template: Template = "none"
    shard_size: int = 4096
    """Texts of a shard."""
    max_tokens: int | None = None
    """A longer prompt is refused; None is the model's context length."""

    def __post_init__(self) -> None:
        if self.shard_size < 1:
            raise ValueError(f"shard_size must be at least 1, got {self.shard_size}")
        if self.max_tokens is not None and self.max_tokens < 1:
            raise ValueError(f"max_tokens must be at least 1, got {self.max_tokens}")

    @property
    def shards(self) -> int:
        """How many there will be."""
        return -(-len(self.source) // self.shard_size)

    def settings(self) -> dict[str, Any]:
        """What a run that goes on must have in common with the one before."""
        return {
            "source": self.source.describe(),
            "what": self.what,
            "template": self.template,
            "shard_size": self.shard_size,
            "max_tokens": self.max_tokens,
        }

    def make(self, space: EmbeddingSpace, number: int) -> Shard:
        """Make one shard: the same work wherever it runs."""
        first = number * self.shard_size
        return make_shard(
            space,
            self.source.read(first, min(first + self.shard_size, len(self.source))),
            self.folder,
            number=number,
            first=first,
            what=self.what,
            template=self.template,
            max_tokens=self.max_tokens or space.context_length,
        )


@dataclass(frozen=True)
class Made:
    """What became of a corpus."""

    texts: int
    rows: int
    size: int
    """Bytes of all shards."""
    shards: int
    made: int
    """Shards made now."""
    damaged: int
    """Shards that were there, had other bytes than were written, and were made anew."""
    refused: int
    """Texts that are no prompts; the manifest tells why, the other texts are all there."""


def make_corpus(
    work: Work, *, processes: int | None = 1, runner: Runner = "local", fresh: bool = False
) -> Made:
    """Make every shard that is not there and whole.

    Args:
        work: what to make, of what, where.
        processes: workers, or on a cluster actors; None for one a core. More than one start new Python processes:
            a script needs the usual ``if __name__ == "__main__":``.
        runner: this machine or a Ray cluster; both make the same bytes.
        fresh: throw away the corpus that the folder holds.

    Raises:
        ValueError: the folder holds another corpus (each change is named), another process writes it, or Ray is
            missing.
        OSError: it cannot be written, or a worker died; what was made before is kept.
    """
    space = EmbeddingSpace.from_pretrained(work.model)
    manifest: dict[str, Any] = {"settings": work.settings(), "fingerprint": space.fingerprint, "sittings": []}
    with _alone(work.folder):
        if fresh:
            _clear(work.folder)
        old = read_manifest(work.folder)
        if old is not None:
            require_same(work.folder, old, manifest)
            manifest["sittings"] = old["sittings"]
        sitting = {"started": now(), "finished": None, **provenance()}
        manifest["sittings"].append(sitting)
        write_manifest(work.folder, manifest)
        there, damaged = _present(work.folder)
        pending = [number for number in range(work.shards) if number not in there]
        with progress("shards", work.shards, work.shards - len(pending)) as advance:
            for shard in _runner(runner, work, space, processes)(pending):
                there[shard.number] = shard
                advance()
        counts = totals([there[number] for number in range(work.shards)])
        sitting["finished"] = now()
        write_manifest(work.folder, {**manifest, **counts})
    return Made(
        counts["texts"], counts["rows"], counts["bytes"], work.shards, len(pending), damaged,
        len(counts["refused"]),
    )  # fmt: skip


def _runner(
    runner: Runner, work: Work, space: EmbeddingSpace, processes: int | None
) -> Callable[[Sequence[int]], Iterator[Shard]]:
    count = processes or len(os.sched_getaffinity(0))
    if runner == "ray":
        from embedspace.corpus.on_ray import shards_on_ray

        return lambda pending: shards_on_ray(work, pending, processes)
    if count == 1:
        return lambda pending: (work.make(space, number) for number in pending)
    from embedspace.corpus.workers import shards_of_workers

    return lambda pending: shards_of_workers(work, pending, count)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Make the folder and keep other processes from writing it."""
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / _LOCK)
        with lock.acquire(timeout=0):
            yield
    except Timeout:
        raise ValueError(
            f"another process is making the corpus in {folder}; wait for it to end or choose another folder"
        ) from None


def _present(folder: Path) -> tuple[dict[int, Shard], int]:
    """The whole shards of a folder; what is damaged or half written is removed, and counted if it was a shard."""
    for draft in folder.glob("*.draft"):
        draft.unlink(missing_ok=True)
    whole: dict[int, Shard] = {}
    damaged = 0
    paths = [path for path in folder.glob("shard-*.safetensors") if number_of(path) is not None]
    if not paths:
        return whole, damaged
    with progress("checking shards", len(paths)) as advance:
        for path in sorted(paths):
            if is_whole(path):
                shard = summary_of(path)
                whole[shard.number] = shard
            else:
                path.unlink()
                damaged += 1
            advance()
    return whole, damaged


def _clear(folder: Path) -> None:
    (folder / MANIFEST).unlink(missing_ok=True)
    for path in folder.glob("shard-*.safetensors"):
        if number_of(path) is not None:
            path.unlink()
