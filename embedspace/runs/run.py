"""Runs: a folder that holds one experiment's configuration, records and report, and can be resumed."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from embedspace._util.provenance import now, provenance
from embedspace._util.run_folder import RunFolder, flatten_settings
from embedspace.runs.records import Record, RecordLog, read_records
from embedspace.space import fixed_template_time

MANIFEST, RECORDS, REPORT, LOCK = "run.json", "records.jsonl", "report.html", "run.lock"

_CLIENT_SETTINGS = ("url", "timeout", "max_retries", "patience", "max_concurrency")
UNIMPORTANT = (
    "out",
    "fresh",
    "size",  # a name for values that the configuration has as well
    "experiment.page",
    *(f"{client}.{setting}" for client in ("engine", "engine.client") for setting in _CLIENT_SETTINGS),
)
"""Configuration that says where things are and decides no result: it may change between the sittings of a run."""


class Run:
    """A run folder that this process alone writes. Use it as a context manager.

    ``run.json`` says where the results come from, ``records.jsonl`` holds them, ``report.html`` shows
    them. Opening a folder that holds the same run resumes it. The clock is read once a run: as long as the run is open,
    chat templates that write the date get the time at which it was first opened, also when it is resumed.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for _ in range(2):
    ...         with Run.open(folder, {"seed": 7}, fingerprint="abc") as run:
    ...             print(run.manifest["seeds"], len(run.manifest["sittings"]), len(list(run.records())))
    {'seed': 7} 1 0
    {'seed': 7} 2 0
    """

    def __init__(
        self, folder: RunFolder, manifest: dict[str, Any], log: RecordLog, lock: contextlib.ExitStack
    ) -> None:
        self.folder = folder.path
        self.manifest = manifest
        """What ``run.json`` holds."""
        self.log = log
        self._folder, self._lock = folder, lock

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

        One of another configuration that failed before its first record is replaced: there is nothing to mix with.

        Args:
            folder: made if missing.
            config: everything that decides the results, as plain values.
            fingerprint: of the embedding space.
            fresh: remove the run that the folder holds.
            ignored: dotted names of configuration keys that may change between sittings.

        Raises:
            ValueError: the folder holds a run of another configuration or model (each change is named), or
                another process writes it.
            OSError: the folder cannot be written.
        """
        opened = _run_folder(Path(folder))
        lock = opened.lock()
        try:
            if fresh:
                opened.clear()
            with opened.writable():
                old = read_manifest(opened.path)
            time = datetime.now().replace(microsecond=0) if old is None else time_of(old)
            new: dict[str, Any] = {
                "config": dict(config),
                "fingerprint": fingerprint,
                "seeds": _seeds(config),
                "template_time": time.isoformat(),
                "sittings": [],
            }
            if old is not None:
                try:
                    opened.require_same(_settings(old), _settings(new), ignored)
                    new["sittings"] = old["sittings"]
                except ValueError:
                    if _has_records(opened.path):
                        raise
            new["sittings"].append({"started": now(), "finished": None, **provenance()})
            lock.enter_context(fixed_template_time(time))
            run = cls(opened, new, RecordLog(opened.path / RECORDS), lock)
            opened.write(new)
            return run
        except BaseException:
            lock.close()
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
        """Whether the run's engine can compute likelihoods; None before it was ever started."""
        known = [
            sitting["engine_scores"] for sitting in self.manifest["sittings"] if "engine_scores" in sitting
        ]
        return known[-1] if known else None

    def note(self, entries: Mapping[str, Any]) -> None:
        """Add plain values to the manifest's entry for this process."""
        self.sitting.update(entries)
        self._folder.write(self.manifest)

    def records(self) -> Iterator[Record]:
        """All records, errors included, in the order in which they came."""
        return read_records(self.records_path)

    def close(self) -> None:
        """Force everything to the disk and let other processes write the folder."""
        try:
            self.log.close()
            self.sitting["finished"] = now()
            self._folder.write(self.manifest)
        finally:
            self._lock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # Where the disk is full, the first error says so; closing would only say it again.
        with contextlib.suppress(OSError) if isinstance(error, OSError) else contextlib.nullcontext():
            self.close()


def last_engine(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """What the engine said of itself in the latest sitting that had one; empty where none ever had."""
    return next(
        (sitting["engine"] for sitting in reversed(manifest["sittings"]) if sitting.get("engine")), {}
    )


def read_manifest(folder: Path) -> dict[str, Any] | None:
    """What ``run.json`` of a run folder holds; None where nothing was ever run in it.

    Raises:
        ValueError: the file is damaged, or there are records without it.
    """
    manifest = _run_folder(folder).read()
    if manifest is None and (folder / RECORDS).exists():
        raise ValueError(
            f"{folder} holds records but no {MANIFEST} with their configuration; choose another out=FOLDER, or pass "
            "fresh=true to remove them"
        )
    return manifest


def time_of(manifest: Mapping[str, Any]) -> datetime:
    """The local time that chat templates read in a run; of a run of an earlier version, the time of its start."""
    recorded = manifest.get("template_time")
    if recorded is not None:
        return datetime.fromisoformat(recorded)
    sittings = manifest["sittings"]
    started = datetime.fromisoformat(sittings[0]["started"]) if sittings else datetime.now()
    return started.astimezone().replace(tzinfo=None)


def _has_records(folder: Path) -> bool:
    path = folder / RECORDS
    return path.is_file() and path.stat().st_size > 0


def _run_folder(path: Path) -> RunFolder:
    return RunFolder(path, "run", MANIFEST, ("config", "fingerprint", "sittings"), (RECORDS, REPORT), LOCK)


def _settings(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {**manifest["config"], "model fingerprint": manifest["fingerprint"]}


def _seeds(config: Mapping[str, Any]) -> dict[str, object]:
    """Every entry of the configuration that is named ``seed`` or ``seeds``."""
    return {
        name: value
        for name, value in flatten_settings(config).items()
        if {"seed", "seeds"} & set(name.split("."))
    }
