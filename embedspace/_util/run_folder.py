"""A folder that one process writes, that holds the results of one configuration, and that can be resumed."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embedspace._util.files import write_json

MAX_SHOWN_CHANGES = 12
_CLASS_IN_REPR = re.compile(r"<(class|function) '?(?:[\w<>]+\.)*(\w+)'?(?: at 0x[0-9a-f]+)?>")


@dataclass(frozen=True)
class RunFolder:
    """One folder, its JSON file with the configuration, and the words for its errors."""

    path: Path
    noun: str
    """What the folder holds: "run", "corpus"."""
    manifest: str
    """Name of the JSON file that holds the configuration."""
    required: tuple[str, ...]
    """Keys that the JSON file must have."""
    results: tuple[str, ...]
    """Glob patterns of all other files and folders that :meth:`clear` removes."""
    lock_file: str
    elsewhere: str = "choose another out=FOLDER"
    """What to do where the folder cannot be used."""

    @contextmanager
    def writable(self) -> Iterator[None]:
        """Errors of the disk in this block say which folder cannot be written and what to do."""
        try:
            yield
        except OSError as error:
            raise OSError(
                f"cannot write the {self.noun} folder {self.path} ({error.strerror or error}); what was written before "
                f"is kept. Make it writable, make room, or {self.elsewhere}"
            ) from error

    def lock(self) -> ExitStack:
        """Make the folder and keep other processes from writing it until the stack is closed or its block ends.

        Raises:
            ValueError: another process writes it.
            OSError: it cannot be written.
        """
        from filelock import FileLock, Timeout

        with self.writable():
            self.path.mkdir(parents=True, exist_ok=True)
            held = ExitStack()
            try:
                held.enter_context(FileLock(self.path / self.lock_file, timeout=0))
            except Timeout:
                raise ValueError(
                    f"another process is writing the {self.noun} in {self.path}; wait for it to end or {self.elsewhere}"
                ) from None
            self.remove_drafts()
        return held

    def remove_drafts(self) -> None:
        """Remove what a process that was killed had half written; call it while no worker writes."""
        for name in (self.manifest, *self.results):
            for draft in self.path.glob(f"{name}.*.draft"):
                draft.unlink(missing_ok=True)

    def clear(self) -> None:
        """Remove the configuration and the results; the lock and files of others stay."""
        with self.writable():
            for pattern in (self.manifest, *self.results):
                for path in self.path.glob(pattern):
                    if path.is_dir() and not path.is_symlink():
                        shutil.rmtree(path)
                    elif path.name != self.lock_file:
                        path.unlink(missing_ok=True)

    def read(self) -> dict[str, Any] | None:
        """What the JSON file holds; None where there is none.

        Raises:
            ValueError: it is damaged.
        """
        path = self.path / self.manifest
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            for key in self.required:
                content[key]
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{path} is damaged ({error!r}); {self.elsewhere}, or pass fresh=true to start anew"
            ) from error
        return content

    def write(self, content: Mapping[str, Any]) -> None:
        """Replace the JSON file, atomically."""
        with self.writable():
            write_json(self.path / self.manifest, content)

    def require_same(
        self, before: Mapping[str, Any], after: Mapping[str, Any], ignored: Collection[str] = ()
    ) -> None:
        """Refuse to mix results of different settings.

        Args:
            before: settings under which the folder was written.
            after: settings of now.
            ignored: dotted names of settings that may change.

        Raises:
            ValueError: a setting differs; each change is named, with the old and the new value.
        """
        changes = settings_changes(before, after, ignored)
        if changes:
            raise ValueError(
                f"{self.path} holds a {self.noun} with another configuration:\n" + "\n".join(changes) + "\n"
                f"{self.elsewhere}, or pass fresh=true to throw the old {self.noun} away"
            )


def settings_changes(
    before: Mapping[str, Any], after: Mapping[str, Any], ignored: Collection[str] = ()
) -> list[str]:
    """One line ``name: old -> new`` for each setting that differs, at most 12 of them.

    A class or function counts by its own name, not by the module that it is imported from: code that moved decides
    the same results.
    """
    old, new = flatten_settings(before), flatten_settings(after)
    changes = [
        f"  {name}: {_shown(old, name)} -> {_shown(new, name)}"
        for name in sorted(old.keys() | new.keys())
        # An absent setting counts as None: a setting that is new and off does not part the runs.
        if comparable_setting(name, old.get(name)) != comparable_setting(name, new.get(name))
        and not is_covered(name, ignored)
    ]
    if len(changes) > MAX_SHOWN_CHANGES:
        changes[MAX_SHOWN_CHANGES:] = [f"  and {len(changes) - MAX_SHOWN_CHANGES} more"]
    return changes


def flatten_settings(value: object, name: str = "") -> dict[str, object]:
    """Nested mappings and lists as one mapping with dotted names.

    >>> flatten_settings({"sampling": {"seed": 7}, "questions": ["one", "two"]})
    {'sampling.seed': 7, 'questions.0': 'one', 'questions.1': 'two'}
    """
    if isinstance(value, Mapping):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    else:
        return {name: value}
    flat: dict[str, object] = {} if items or not name else {name: {} if isinstance(value, Mapping) else []}
    for key, inner in items:
        flat.update(flatten_settings(inner, f"{name}.{key}" if name else str(key)))
    return flat


def is_covered(name: str, outer: Collection[str]) -> bool:
    """Whether a dotted name, or a part that it lies in, is among ``outer``."""
    return any(name == part or name.startswith(f"{part}.") for part in outer)


def comparable_setting(name: str, value: object) -> object:
    """A value of :func:`flatten_settings` without the module that a class or function is imported from.

    >>> comparable_setting("engine._target_", "embedspace.engines.VLLMClient")
    'VLLMClient'
    """
    if not isinstance(value, str):
        return value
    if name.rpartition(".")[2] == "_target_":
        return value.rpartition(".")[2]
    return _CLASS_IN_REPR.sub(r"\2", value)


def _shown(side: Mapping[str, object], name: str) -> str:
    text = repr(side[name]) if name in side else "(absent)"
    return text if len(text) <= 80 else f"{text[:77]}..."
