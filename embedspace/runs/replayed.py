"""Replay: a recorded prompt made again from its recipe and compared bit by bit."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace.distillation import SoftPrompt
from embedspace.engines import Prompt
from embedspace.runs.cases import prompt_sha256
from embedspace.runs.records import Record, read_records
from embedspace.runs.replayer import Replayer, shipped_vectors
from embedspace.runs.run import MANIFEST, read_manifest, time_of
from embedspace.space import EmbeddingSpace, fixed_template_time
from embedspace.style import StyleVector


@dataclass(frozen=True)
class Replayed:
    """A record and the prompt that its recipe makes today."""

    record: Record
    prompt: Prompt
    digest: str
    """Of the prompt that was made now."""

    @property
    def identical(self) -> bool:
        """Whether the prompt is bit-identical to the recorded one."""
        return self.digest == self.record.prompt_sha256


def replay(
    path: Path, index: int, *, model: str | None = None, vectors: Sequence[str | Path] = ()
) -> Replayed:
    """Make the prompt of a record again.

    >>> import tempfile
    >>> from embedspace.engines import Completion, Sampling
    >>> from embedspace.runs import Case, Run, execute
    >>> class Silent:
    ...     def generate(self, prompts, sampling):
    ...         return (Completion(i, 0, "", (), "stop", 0.0) for i, _ in enumerate(prompts))
    ...     def describe(self):
    ...         return {"engine": "silent"}
    ...     def close(self):
    ...         pass
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> with Run.open(tempfile.mkdtemp(), {}, fingerprint=space.fingerprint) as run:
    ...     _ = execute(run, Silent, [Case("q0", space.embed("Hello"))], Sampling(), title="embed")
    >>> replay(run.records_path, 0, model="smollm2-135m-instruct").identical
    True

    Args:
        path: record file of a run.
        index: which record, counted from 0.
        model: whose space to use; by default the one that the run's ``run.json`` names.
        vectors: files of style vectors that cannot be fitted again from a recipe (``optimised`` ones), and folders of
            soft prompts. Vectors that ship with the package are known.

    Raises:
        ValueError: no such file or record, a record without a digest, another model, or a recipe with a step
            that is unknown or lacks something.
    """
    record = _record(path, index)
    if record.prompt_sha256 is None:
        raise ValueError(
            f"record {index} of {path} was written by a version that kept no digest of the prompt, so there is nothing "
            "to compare with; run the experiment again with fresh=true"
        )
    name = model or _model_of(path, record)
    space = EmbeddingSpace.from_pretrained(name)
    if space.fingerprint != record.space:
        raise ValueError(
            f"the recorded prompt lives in the space {record.space}, {name!r} is {space.fingerprint}: another model, "
            "or its table, tokenizer or template has changed. Name the right one with --model"
        )
    paths = [Path(path) for path in vectors]
    known = [StyleVector.load(path, space) for path in paths if not path.is_dir()]
    known += shipped_vectors(space)
    soft = [SoftPrompt.load(path, space) for path in paths if path.is_dir()]
    replayer = Replayer(
        space, {vector.digest: vector for vector in known}, {each.digest: each for each in soft}
    )
    with _time_of_run(path):
        prompt = replayer.ids(record.recipe) or replayer.prompt(record.recipe)
    return Replayed(record, prompt, prompt_sha256(prompt))


def _record(path: Path, index: int) -> Record:
    if not path.is_file():
        raise ValueError(f"there is no record file {path}; give the records.jsonl of a run")
    if index < 0:
        raise ValueError(f"index is {index}; records are counted from 0")
    found = next(itertools.islice(read_records(path), index, None), None)
    if found is None:
        count = sum(1 for _ in read_records(path))
        raise ValueError(f"{path} holds {count} records, counted from 0; there is no record {index}")
    return found


def _manifest_of(path: Path) -> dict[str, Any] | None:
    return read_manifest(path.parent) if (path.parent / MANIFEST).exists() else None


def _time_of_run(path: Path) -> AbstractContextManager[None]:
    """Recipes of earlier versions do not say which time their chat template read."""
    manifest = _manifest_of(path)
    return nullcontext() if manifest is None else fixed_template_time(time_of(manifest))


def _model_of(path: Path, record: Record) -> str:
    model = (_manifest_of(path) or {}).get("config", {}).get("model")
    name = model.get("name") if isinstance(model, dict) else None
    return str(name or record.engine.get("model", ""))
