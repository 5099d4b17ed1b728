"""The ledger of sealed sets: how often each was looked at, which decides whether a report may call it held out.

A look is a run that writes a report on ten or more items of a set and is not a trial (``size=small``): of fewer items
no interval is made, so that nothing can be chosen by it. The ledger is one JSON file of the checkout, to be committed
with the pages that the look is for. It knows the looks of this checkout's history, and of nobody else's. An installed
package cannot be written: its users have a copy of their own, one for each version.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from filelock import FileLock
from platformdirs import user_data_path

from embedspace._util.files import atomic_write, read_json_object, write_json
from embedspace._util.markdown import markdown_table
from embedspace._version import __version__
from embedspace.metrics import MIN_ITEMS

if TYPE_CHECKING:
    from embedspace.runs import Run

LEDGER = Path(__file__).with_name("sealed_sets.json")
PATH_VARIABLE = "EMBEDSPACE_SEALED_SETS"
"""Environment variable with the path of another ledger."""


@runtime_checkable
class AsksItems(Protocol):
    """An experiment whose items may belong to a sealed set."""

    @property
    def item_texts(self) -> Sequence[str]:
        """The text of each item that a run asks."""
        ...


@dataclass(frozen=True)
class Look:
    """One report on items of a set."""

    when: str
    """ISO 8601, when the run began."""
    items: int
    what: str
    """Model and commit, and what else identifies it."""
    run: str = ""
    """Identity of the run: a report that is written again of the same records is the same look."""


@dataclass(frozen=True)
class SealedSet:
    """Items on which nothing is to be chosen, and who looked at them."""

    name: str
    items: tuple[str, ...]
    """Digest of each item."""
    changed: str
    """ISO 8601, when the method that is evaluated on the set was changed last; edited by hand with such a change."""
    method: str
    """What the method is since then."""
    pages: tuple[str, ...] = ()
    """Pages of ``docs/`` that report on the set; they are tested not to call it held out where it is not."""
    looks: tuple[Look, ...] = ()

    @property
    def digest(self) -> str:
        """Identity of the set, whatever the order of its items."""
        return hashlib.sha256(" ".join(sorted(self.items)).encode()).hexdigest()[:16]

    def before(self, run: str) -> tuple[Look, ...]:
        """The looks of other runs."""
        return tuple(look for look in self.looks if look.run != run or not run)

    def is_held_out(self, run: str = "") -> bool:
        """Whether no other run looked at the set before the method was changed last."""
        changed = datetime.fromisoformat(self.changed)
        return all(datetime.fromisoformat(look.when) >= changed for look in self.before(run))

    def described(self, run: str = "") -> str:
        """What a report may say of the set.

        >>> first = Look("2026-11-26T07:10:00+00:00", 20, "smollm2")
        >>> sealed = SealedSet("questions", ("aa", "bb"), "2026-11-26T11:00:00+00:00", "last row", (), (first,))
        >>> print(sealed.described().partition(": ")[2])
        looked at 1 time before, 1 time before the method was changed last (2026-11-26: last row). It is not held out.
        """
        before = self.before(run)
        text = (
            f"Set “{self.name}” ({len(self.items)} items, digest {self.digest}): looked at {_times(len(before))} "
            "before"
        )
        changed = datetime.fromisoformat(self.changed)
        earlier = sum(datetime.fromisoformat(look.when) < changed for look in before)
        if self.is_held_out(run):
            since = ", always with the present method" if before else ""
            return f"{text}{since}. It is held out."
        return (
            f"{text}, {_times(earlier)} before the method was changed last ({changed:%Y-%m-%d}: {self.method}). It is "
            "not held out."
        )


def _times(count: int) -> str:
    return f"{count} time{'' if count == 1 else 's'}"


def item_digest(text: str) -> str:
    """Identity of an item by its text.

    >>> item_digest("Why does popcorn pop?")
    '87ecfefc6e00'
    """
    return hashlib.sha256(" ".join(text.split()).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Ledger:
    """The file with all sealed sets.

    >>> import tempfile
    >>> ledger = Ledger(Path(tempfile.mkdtemp()) / "sets.json")
    >>> questions = [f"Question {number}?" for number in range(12)]
    >>> ledger.add("mine", questions, method="version 1")
    >>> [ledger.look(questions[:10], Look("2999-01-01T00:00:00+00:00", 0, "smollm2", run)) for run in ("a", "a", "b")]
    [['mine'], ['mine'], ['mine']]
    >>> [(len(sealed.looks), sealed.looks[0].items) for sealed in ledger.read()]
    [(2, 10)]
    """

    path: Path = LEDGER

    @classmethod
    def default(cls) -> Ledger:
        """That of the environment variable, of this checkout, or of the user, who has a copy of an installed one."""
        if named := os.environ.get(PATH_VARIABLE):
            return cls(Path(named))
        if (LEDGER.parents[1] / "pyproject.toml").is_file():
            return cls()
        own = user_data_path("embedspace") / f"sealed_sets-{__version__}.json"
        if not own.exists():
            own.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(own, LEDGER.read_text())
        return cls(own)

    def read(self) -> list[SealedSet]:
        """All sets.

        Raises:
            ValueError: the file is damaged: a set without its fields, or whose items do not have its digest.
        """
        if not self.path.exists():
            return []
        content = read_json_object(self.path, absent=f"{self.path} is missing")
        try:
            return [_sealed_set(name, entry) for name, entry in content.items()]
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"{self.path} is damaged ({error!r}); take it from the repository's history"
            ) from error

    def add(self, name: str, items: Sequence[str], *, method: str) -> None:
        """Seal a set from now on.

        Raises:
            ValueError: there is a set of that name, an item twice, or fewer than ten.
        """
        digests = tuple(map(item_digest, items))
        if len({*digests}) != len(digests) or len(digests) < MIN_ITEMS:
            raise ValueError(
                f"a sealed set needs at least {MIN_ITEMS} different items, got {len({*digests})} of {len(items)}"
            )
        with self._changed() as sets:
            if any(sealed.name == name for sealed in sets):
                raise ValueError(f"{self.path} has a set {name!r}; give the new one a name of its own")
            sets.append(
                SealedSet(name, digests, datetime.now().astimezone().isoformat(timespec="seconds"), method)
            )

    def look(self, items: Sequence[str], look: Look) -> list[str]:
        """Count a look at every set of which ten or more of the items are; the names of these sets.

        A look of a run that is counted already is not counted again.

        Raises:
            ValueError: the file is damaged.
            OSError: it cannot be written.
        """
        found = {
            sealed.name: count for sealed in self.read() if (count := _shared(sealed, items)) >= MIN_ITEMS
        }
        if found:
            with self._changed() as sets:
                sets[:] = [
                    replace(sealed, looks=(*sealed.before(look.run), replace(look, items=found[sealed.name])))
                    if sealed.name in found
                    else sealed
                    for sealed in sets
                ]
        return list(found)

    @contextmanager
    def _changed(self) -> Iterator[list[SealedSet]]:
        """The sets, written back when the block ends without an error; other processes wait."""
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            sets = self.read()
            yield sets
            write_json(self.path, {sealed.name: _entry(sealed) for sealed in sets})


def as_markdown(sets: Sequence[SealedSet]) -> str:
    """A table of the sets and their looks."""
    rows = [
        [
            sealed.name,
            f"{len(sealed.items)}, `{sealed.digest}`",
            ", ".join(f"[{page}]({page})" for page in sealed.pages),
            f"{datetime.fromisoformat(sealed.changed):%Y-%m-%d}: {sealed.method}",
            "; ".join(f"{look.when[:10]}, {look.items} items" for look in sealed.looks) or "none",
            "yes" if sealed.is_held_out() else "no",
        ]
        for sealed in sets
    ]
    return markdown_table(["set", "items, digest", "page", "method since", "looks", "held out"], rows)


def count_look(experiment: object, run: Run, *, trial: bool) -> str:
    """Count the report that is about to be written; what it has to say of its sealed sets, or nothing.

    Args:
        experiment: whose report it is.
        run: whose records it is of.
        trial: whether it is a small trial, which is no look.
    """
    if trial or not isinstance(experiment, AsksItems):
        return ""
    sitting = run.manifest["sittings"][0]
    identity = hashlib.sha256(
        f"{sitting['started']} {run.fingerprint} {run.folder.name}".encode()
    ).hexdigest()[:12]
    commit = (sitting.get("git") or {}).get("commit", "no checkout")[:12]
    look = Look(sitting["started"], 0, f"{sitting['command']}, commit {commit}", identity)
    try:
        ledger = Ledger.default()
        names = ledger.look(experiment.item_texts, look)
    except (OSError, ValueError) as error:
        return f"This look at sealed items could not be counted: {error}"
    return " ".join(sealed.described(identity) for sealed in ledger.read() if sealed.name in names)


def _shared(sealed: SealedSet, items: Sequence[str]) -> int:
    return len({*sealed.items} & {item_digest(item) for item in items})


def _sealed_set(name: str, entry: Mapping[str, Any]) -> SealedSet:
    looks = tuple(Look(**look) for look in entry["looks"])
    items, pages = tuple(entry["items"].split()), tuple(entry["pages"])
    sealed = SealedSet(name, items, entry["changed"], entry["method"], pages, looks)
    if sealed.digest != entry["digest"]:
        raise KeyError(f"the items of {name!r} have the digest {sealed.digest}, not {entry['digest']}")
    return sealed


def _entry(sealed: SealedSet) -> dict[str, Any]:
    return {
        "digest": sealed.digest,
        "changed": sealed.changed,
        "method": sealed.method,
        "pages": list(sealed.pages),
        "looks": [asdict(look) for look in sealed.looks],
        "items": " ".join(sealed.items),
    }


def main() -> None:
    """Write the table of the ledger anew into ``docs/evidence.md``."""
    page = LEDGER.parents[1] / "docs" / "evidence.md"
    table = as_markdown(Ledger().read()).rstrip()
    atomic_write(
        page,
        re.sub(r"^\| set \|.*?(?=\n\n)", lambda _: table, page.read_text(), flags=re.DOTALL | re.MULTILINE),
    )


if __name__ == "__main__":
    main()
