"""Two runs side by side: one HTML page with their verdicts, what differs, and the answers to each case."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from embedspace._util.files import atomic_write
from embedspace.reporting.listed_records import ListedRecord, Place, question_of, within_bounds
from embedspace.reporting.page import environment
from embedspace.reporting.table import counted
from embedspace.runs import Record, differences, read_records
from embedspace.runs.run import RECORDS, REPORT

MAX_DIFFERENCES = 200
"""Of settings, versions and prompts that a page lists."""


@dataclass(frozen=True)
class RecordPair:
    """One case as both runs recorded it; None where a run does not have it."""

    first: ListedRecord | None
    second: ListedRecord | None

    @property
    def either(self) -> ListedRecord:
        """The first run's record, or else the second's."""
        found = self.first or self.second
        assert found is not None
        return found

    @property
    def question(self) -> str:
        """What was asked; both where the runs asked differently."""
        asked = [each.question for each in (self.first, self.second) if each is not None and each.question]
        return " | ".join(dict.fromkeys(asked))

    @property
    def characters(self) -> int:
        """About how much room it takes on a page."""
        return sum(each.characters for each in (self.first, self.second) if each is not None)

    @property
    def outcome(self) -> str:
        """Whether the answers are the same."""
        if self.first is None or self.second is None:
            return "only in the second" if self.first is None else "only in the first"
        if _asked(self.first) != _asked(self.second):
            return "other question"
        a, b = self.first.record, self.second.record
        if (a.text, a.error) != (b.text, b.error):
            return "differs"
        return "same" if a.finish_reason != "scored" else "no answer asked"


def _asked(listed: ListedRecord) -> str:
    """What two runs have to ask alike for their answers to be compared: the question, or bare token ids."""
    return listed.question or listed.record.recipe.digest


def compare_runs(first: str | Path, second: str | Path, out: str | Path) -> Path:
    """Write a page that lays two run folders side by side, atomically; it lists what differs before what is the same.

    >>> import tempfile
    >>> from embedspace.runs import Run
    >>> place = tempfile.mkdtemp()
    >>> for seed in (1, 2):
    ...     Run.open(f"{place}/{seed}", {"seed": seed}, fingerprint="abc").close()
    >>> compare_runs(f"{place}/1", f"{place}/2", f"{place}/compared.html").name
    'compared.html'

    Raises:
        ValueError: a folder holds no run, or a damaged one.
        OSError: the page cannot be written.
    """
    folders = Path(first), Path(second)
    found = differences(*folders)
    pairs = _pairs(*(_records(folder) for folder in folders))
    counts = {
        outcome: sum(pair.outcome == outcome for pair in pairs)
        for outcome in dict.fromkeys(pair.outcome for pair in pairs)
    }
    page = (
        environment()
        .get_template("side_by_side.html.j2")
        .render(
            folders=folders,
            reports=[_link(folder, Path(out)) for folder in folders],
            counts=counts,
            total=len(pairs),
            sentence=_sentence(counts),
            verdicts=_verdicts(*folders),
            differences=[each for each in found if each.kind != "completions"],
            max_differences=MAX_DIFFERENCES,
            pairs=list(within_bounds(pairs, lambda pair: pair.characters)),
        )
    )
    atomic_write(Path(out), page.encode(errors="xmlcharrefreplace"))
    return Path(out)


def _records(folder: Path) -> dict[Place, ListedRecord]:
    path = folder / RECORDS
    found: Iterator[Record] = read_records(path) if path.is_file() else iter(())
    return {
        (record.key, record.choice): ListedRecord(index, record, question_of(record.recipe))
        for index, record in enumerate(found)
    }


_ORDER = ("differs", "other question", "only in the first", "only in the second", "same", "no answer asked")


def _pairs(first: Mapping[Place, ListedRecord], second: Mapping[Place, ListedRecord]) -> list[RecordPair]:
    pairs = [RecordPair(first.get(place), second.get(place)) for place in dict.fromkeys([*first, *second])]
    return sorted(pairs, key=lambda pair: _ORDER.index(pair.outcome))


def _sentence(counts: Mapping[str, int]) -> str:
    """What the records say, in one sentence.

    >>> _sentence({"differs": 2, "same": 6}), _sentence({})
    ('2 of 8 answers to the same cases differ.', 'There are no answers to compare.')
    """
    answered = counts.get("differs", 0) + counts.get("same", 0)
    if not answered:
        return "There are no answers to compare."
    differ = counts.get("differs", 0)
    said = f"{differ or 'None'} of {answered:,} answers to the same cases {'differs' if differ < 2 else 'differ'}"
    alone = [
        f"{counted(counts[name], 'record')} {'is' if counts[name] == 1 else 'are'} {name}"
        for name in _ORDER
        if "only" in name and name in counts
    ]
    if others := counts.get("other question"):
        alone.insert(
            0, f"{counted(others, 'case')} of one name {'asks' if others == 1 else 'ask'} other questions"
        )
    return f"{'; '.join([said, *alone])}."


def _verdicts(*folders: Path) -> dict[str, tuple[str, str]]:
    """Title of a section -> its verdict in each run, as the reports have them."""
    first, second = map(_verdicts_of, folders)
    return {
        title: (first.get(title, ""), second.get(title, "")) for title in dict.fromkeys([*first, *second])
    }


def _verdicts_of(folder: Path) -> dict[str, str]:
    path = (folder / REPORT).with_suffix(".md")
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return dict(re.findall(r"^## (.+)\n\n\*\*(.+)\*\*$", text, flags=re.MULTILINE))


def _link(folder: Path, out: Path) -> str | None:
    """The report of a run, as the page links to it; None where it has none."""
    report = folder / REPORT
    return os.path.relpath(report.resolve(), out.resolve().parent) if report.is_file() else None
