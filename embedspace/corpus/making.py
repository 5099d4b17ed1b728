"""The making of a corpus: shard by shard, on this machine or a cluster; an interrupted one is resumed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_args

from embedspace._util.progress import progress
from embedspace._util.provenance import now, provenance
from embedspace.corpus.manifest import corpus_folder, totals
from embedspace.corpus.ray_workers import map_on_ray
from embedspace.corpus.shard import Payload, Shard, is_whole, make_shard, number_of, summary_of
from embedspace.corpus.sources import Source
from embedspace.corpus.tokens import Template, variables_of
from embedspace.space import EmbeddingSpace, fixed_template_time

Runner = Literal["local", "ray"]


def require_runner(runner: Runner) -> None:
    """Raise ``ValueError`` unless a runner is one of those that there are."""
    if runner not in get_args(Runner):
        raise ValueError(f"unknown runner {runner!r}; allowed are {', '.join(get_args(Runner))}")


@dataclass(frozen=True)
class CorpusSpec:
    """Everything that decides the shards. It can be sent to any process that sees the same files."""

    model: str
    """Packaged name, local folder or hub id."""
    source: Source
    folder: Path
    """On a cluster, on a disk that all nodes share."""
    what: Payload = "embeddings"
    template: Template = "none"
    shard_size: int = 4096
    """Texts of a shard."""
    max_tokens: int | None = None
    """A longer prompt is refused; None is the model's context length."""
    variables: Mapping[str, Any] | None = None
    """Of the chat template, as in ``EmbeddingSpace.embed_chat``. The time that a template reads is that of the first
    start, and stands in the manifest."""

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
        """What has to be the same to resume a corpus."""
        return {
            "source": self.source.describe(),
            "what": self.what,
            "template": self.template,
            "shard_size": self.shard_size,
            "max_tokens": self.max_tokens,
            **({"variables": dict(self.variables)} if self.variables else {}),
        }

    def stretch(self, number: int) -> str:
        """A shard and its texts in words."""
        first = number * self.shard_size
        return f"shard {number} (texts {first} to {min(first + self.shard_size, len(self.source)) - 1})"

    def make(self, space: EmbeddingSpace, number: int) -> Shard:
        """Make one shard: the same bytes in every process."""
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
            variables=self.variables,
        )


@dataclass(frozen=True)
class BuildResult:
    """Counts of a finished corpus."""

    texts: int
    rows: int
    size: int
    """Bytes of all shards."""
    shards: int
    made: int
    """Shards made now."""
    damaged: int
    """Shards that had other bytes than were written, and were made again."""
    refused: int
    """Texts that are no prompts; the manifest holds the reasons, the other texts are all there."""


def make_corpus(
    spec: CorpusSpec, *, processes: int | None = 1, runner: Runner = "local", fresh: bool = False
) -> BuildResult:
    """Make every shard that is missing or damaged.

    >>> import tempfile
    >>> from embedspace.corpus import Corpus, open_source
    >>> place = Path(tempfile.mkdtemp())
    >>> _ = (place / "texts.txt").write_text("The capital of France\\nis Paris.\\n")
    >>> source = open_source(place / "texts.txt", stride=4096)
    >>> result = make_corpus(CorpusSpec("smollm2-135m-instruct", source, place / "corpus"))
    >>> result.texts, result.rows, result.shards
    (2, 7, 1)
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> space.read(Corpus(place / "corpus", space)[1])
    'is Paris.'

    Args:
        spec: the texts, the model and the folder.
        processes: workers; None for one a core, on a cluster of all its nodes. More than one start new Python
            processes: a script needs the usual ``if __name__ == "__main__":``.
        runner: this machine or a Ray cluster; both make the same bytes.
        fresh: remove the corpus that the folder holds.

    Raises:
        ValueError: an unknown runner, the folder holds another corpus (each change is named), another process
            writes it, or Ray is missing.
        OSError: it cannot be written, or a worker died; what was made before is kept.
    """
    require_runner(runner)
    space = EmbeddingSpace.from_pretrained(spec.model)
    manifest: dict[str, Any] = {"settings": spec.settings(), "fingerprint": space.fingerprint, "sittings": []}
    folder = corpus_folder(spec.folder)
    with folder.lock():
        if fresh:
            folder.clear()
        if (old := folder.read()) is not None:
            folder.require_same(_settings(old), _settings(manifest))
            manifest["sittings"] = old["sittings"]
        if spec.template == "chat" and (variables := _variables(spec, space, old)):
            manifest["variables"] = variables
            spec = replace(spec, variables=variables)
        sitting = {"started": now(), "finished": None, **provenance()}
        manifest["sittings"].append(sitting)
        folder.write(manifest)
        there, damaged = _present(spec.folder)
        pending = [number for number in range(spec.shards) if number not in there]
        with progress("texts", len(spec.source), sum(shard.texts for shard in there.values())) as advance:
            for shard in _made(spec, space, pending, processes, runner):
                there[shard.number] = shard
                advance(shard.texts)
        _remove_drafts(spec.folder)
        counts = totals([there[number] for number in range(spec.shards)])
        sitting["finished"] = now()
        folder.write({**manifest, **counts})
    return BuildResult(
        counts["texts"], counts["rows"], counts["bytes"], spec.shards, len(pending), damaged,
        len(counts["refused"]),
    )  # fmt: skip


def _variables(spec: CorpusSpec, space: EmbeddingSpace, old: dict[str, Any] | None) -> dict[str, Any]:
    """Variables of the template, and the time that it read when the corpus was begun."""
    if old is None or not old["sittings"]:
        return variables_of(space, spec.variables)
    if "variables" in old:
        return dict(old["variables"])
    # Earlier versions kept no time: that of the start is the likeliest.
    started = datetime.fromisoformat(old["sittings"][0]["started"]).astimezone()
    with fixed_template_time(started.replace(tzinfo=None)):
        return variables_of(space, spec.variables)


def _settings(manifest: dict[str, Any]) -> dict[str, Any]:
    return {**manifest["settings"], "model fingerprint": manifest["fingerprint"]}


def _remove_drafts(folder: Path) -> None:
    """Remove what workers that were killed had half written."""
    for draft in folder.glob("*.draft"):
        draft.unlink(missing_ok=True)


def _present(folder: Path) -> tuple[dict[int, Shard], int]:
    """The whole shards of a folder; what is damaged or half written is removed, and counted if it was a shard."""
    _remove_drafts(folder)
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


def _made(
    spec: CorpusSpec, space: EmbeddingSpace, pending: Sequence[int], processes: int | None, runner: Runner
) -> Iterable[Shard]:
    """Each shard as soon as it is made."""
    if runner == "ray":
        return map_on_ray(_shard_maker, (spec,), pending, describe=spec.stretch, workers=processes)
    count = processes or len(os.sched_getaffinity(0))
    if count == 1:
        return (spec.make(space, number) for number in pending)
    return _made_by_processes(spec, pending, count)


# In a worker process: the space and the corpus that it was started for.
_ASSIGNED: list[tuple[EmbeddingSpace, CorpusSpec]] = []


def _made_by_processes(spec: CorpusSpec, numbers: Sequence[int], processes: int) -> Iterator[Shard]:
    """Each shard as soon as a process has made it.

    A worker gets the number of a shard and reads its texts itself, so nothing large is sent between processes.

    Raises:
        ChildProcessError: a worker was killed.
    """
    # A process that holds the threads of a tokenizer or of torch must not be forked.
    context = multiprocessing.get_context("spawn")
    left = iter(numbers)
    with ProcessPoolExecutor(processes, context, initializer=_assign, initargs=(spec,)) as pool:
        try:
            first = itertools.islice(left, 2 * processes)
            waiting: set[Future[Shard]] = {pool.submit(_make, number) for number in first}
            while waiting:
                done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
                    waiting |= {pool.submit(_make, number) for number in itertools.islice(left, 1)}
        except BrokenProcessPool as error:
            raise ChildProcessError(
                "a worker process was killed, as the system does where memory runs out; the shards made before are "
                "kept. Use fewer processes or a smaller shard_size and run the same command again"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _shard_maker(spec: CorpusSpec) -> Callable[[int], Shard]:
    """In a worker of Ray: opens the space once."""
    return partial(spec.make, EmbeddingSpace.from_pretrained(spec.model))


def _assign(spec: CorpusSpec) -> None:
    # The workers share the cores among themselves: threads inside each would only wait for each other.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import torch

    torch.set_num_threads(1)
    _ASSIGNED.append((EmbeddingSpace.from_pretrained(spec.model), spec))


def _make(number: int) -> Shard:
    ((space, spec),) = _ASSIGNED
    return spec.make(space, number)
