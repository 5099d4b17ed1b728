"""Runs: a folder that holds one experiment's configuration, records and report, and can be resumed."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from embedspace._util.provenance import now, provenance
from embedspace.runs.records import Record, RecordLog, read_records

if TYPE_CHECKING:
    from filelock import BaseFileLock

MANIFEST, RECORDS, REPORT, LOCK = "run.json", "records.jsonl", "report.html", "run.lock"

_HOW_TO_ASK = ("url", "timeout", "max_retries", "patience", "max_concurrency")
UNIMPORTANT = (
    "out",
    "fresh",
    *(f"{client}.{setting}" for client in ("engine", "engine.client") for setting in _HOW_TO_ASK),
)
"""Configuration that says where things are and decides no result: it may change between the sittings of a run."""

_SHOWN_CHANGES = 12


class Run:
    """A run folder that this process alone writes. Use it as a context manager.

    ``run.json`` says where the results come from, ``records.jsonl`` holds them, ``report.html`` shows
    them. Opening a folder that holds the same run goes on where it stopped.
    """

    def __init__(self, folder: Path, manifest: dict[str, Any], log: RecordLog, lock: BaseFileLock) -> None:
        self.folder = folder
        self.manifest = manifest
        """What ``run.json`` holds."""
        self.log = log
        self._lock = lock

    @classmethod
    def open(
        cls,
        folder: str | Path,
        config: Mapping[str, Any],
        *,
        fingerprint: str,
        fresh: bool = False,
        ignored: Collection[str] = (),
    ) -> Self:
        """A new run, or the one that the folder holds.

        Args:
            folder: made if missing.
            config: everything that decides the results, as plain values.
            fingerprint: of the embedding space.
            fresh: throw away the run that the folder holds.
            ignored: dotted names of configuration keys that may change between sittings.

        Raises:
            ValueError: the folder holds a run of another configuration or model (each change is named), or
                another process writes it.
            OSError: the folder cannot be written.
        """
        folder = Path(folder)
        with _writable(folder):
            folder.mkdir(parents=True, exist_ok=True)
            lock = _locked(folder)
        try:
            with _writable(folder):
                if fresh:
                    _clear(folder)
                old = read_manifest(folder)
            new: dict[str, Any] = {
                "config": dict(config),
                "fingerprint": fingerprint,
                "seeds": _seeds(config),
                "sittings": [],
            }
            if old is not None:
                _require_same(folder, old, new, ignored)
                new["sittings"] = old["sittings"]
            new["sittings"].append({"started": now(), "finished": None, **provenance()})
            run = cls(folder, new, RecordLog(folder / RECORDS), lock)
            run._save()
            return run
        except BaseException:
            lock.release()
            raise

    @property
    def records_path(self) -> Path:
        """The record file."""
        return self.folder / RECORDS

    @property
    def report_path(self) -> Path:
        """The report, once it is written."""
        return self.folder / REPORT

    @property
    def fingerprint(self) -> str:
        """Identity of the run's embedding space."""
        return str(self.manifest["fingerprint"])

    @property
    def sitting(self) -> dict[str, Any]:
        """The manifest's entry for this process."""
        sitting: dict[str, Any] = self.manifest["sittings"][-1]
        return sitting

    @property
    def engine_scores(self) -> bool | None:
        """Whether the run's engine can tell likelihoods; None before it was ever started."""
        told = [
            sitting["engine_scores"] for sitting in self.manifest["sittings"] if "engine_scores" in sitting
        ]
        return told[-1] if told else None

    def note(self, entries: Mapping[str, Any]) -> None:
        """Add plain values to the manifest's entry for this process."""
        self.sitting.update(entries)
        self._save()

    def records(self) -> Iterator[Record]:
        """All records, errors included, in the order in which they came."""
        return read_records(self.records_path)

    def close(self) -> None:
        """Force everything to the disk and let other processes write the folder."""
        try:
            self.log.close()
            self.sitting["finished"] = now()
            self._save()
        finally:
            self._lock.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the disk is full, the first error says so; closing would only say it again.
        with contextlib.suppress(OSError) if isinstance(error, OSError) else contextlib.nullcontext():
            self.close()

    def _save(self) -> None:
        with _writable(self.folder):
            draft = self.folder / f"{MANIFEST}.draft"
            draft.write_text(json.dumps(self.manifest, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            draft.replace(self.folder / MANIFEST)


@contextlib.contextmanager
def _writable(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise OSError(
            f"cannot write the run folder {folder} ({error.strerror or error}); what was recorded before is kept. "
            "Make it writable, make room, or choose another out=FOLDER"
        ) from error


def _locked(folder: Path) -> BaseFileLock:
    from filelock import FileLock, Timeout

    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"another process is writing the run {folder}; wait for it to end or choose another out=FOLDER"
        ) from None
    return lock


def _clear(folder: Path) -> None:
    for name in (MANIFEST, RECORDS, REPORT):
        (folder / name).unlink(missing_ok=True)


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` of a run folder holds; None where nothing was ever run in it.

    Raises:
        ValueError: the file is damaged, or there are records without it.
    """
    path = folder / MANIFEST
    if not path.exists():
        if (folder / RECORDS).exists():
            raise ValueError(
                f"{folder} holds records but no {MANIFEST} that says what they are of; choose another out=FOLDER, or "
                "pass fresh=true to throw them away"
            )
        return None
    try:
        manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        manifest["config"], manifest["fingerprint"], manifest["sittings"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is damaged ({error!r}); choose another out=FOLDER, or pass fresh=true to start anew"
        ) from error
    return manifest


def _require_same(
    folder: Path, old: Mapping[str, Any], new: Mapping[str, Any], ignored: Collection[str]
) -> None:
    before, after = (
        {**flattened(side["config"]), "model fingerprint": side["fingerprint"]} for side in (old, new)
    )
    changes = [
        f"  {name}: {_shown(before, name)} -> {_shown(after, name)}"
        for name in sorted(before.keys() | after.keys())
        if before.get(name) != after.get(name) and not covers(ignored, name)
    ]
    if changes:
        if len(changes) > _SHOWN_CHANGES:
            changes[_SHOWN_CHANGES:] = [f"  and {len(changes) - _SHOWN_CHANGES} more"]
        raise ValueError(
            f"{folder} holds a run with another configuration:\n" + "\n".join(changes) + "\n"
            "choose another out=FOLDER, or pass fresh=true to throw the old run away"
        )


def covers(names: Collection[str], name: str) -> bool:
    """Whether a dotted name, or what it is a part of, is among these."""
    return any(name == outer or name.startswith(f"{outer}.") for outer in names)


def flattened(value: object, name: str = "") -> dict[str, object]:
    """Nested mappings and lists as one mapping with dotted names."""
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return {name: value}
    flat: dict[str, object] = {} if items else {name: type(value)()}
    for key, inner in items:
        flat.update(flattened(inner, f"{name}.{key}" if name else str(key)))
    return flat


def _shown(side: Mapping[str, object], name: str) -> str:
    text = repr(side[name]) if name in side else "(absent)"
    return text if len(text) <= 80 else f"{text[:77]}..."


def _seeds(config: Mapping[str, Any]) -> dict[str, object]:
    """Every entry of the configuration that is named ``seed`` or ``seeds``."""
    return {
        name: value for name, value in flattened(config).items() if {"seed", "seeds"} & set(name.split("."))
    }
