"""Demo: several experiments as one run with one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from embedspace import EmbeddingSpace
from embedspace.cases import Case, Experiment
from embedspace.records import Record
from embedspace.report import Report


@dataclass(frozen=True)
class Demo:
    """Experiments side by side, each under its own name."""

    title: str
    introduction: str
    """What the page is about, before the findings."""
    parts: Mapping[str, Experiment]

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The parts' cases, one part after another."""
        for name, part in self.parts.items():
            for case in part.cases(space):
                yield case.under(name)

    def analyse(self, records: Sequence[Record]) -> Report:
        """The parts' findings and sections on one page."""
        reports = [
            part.analyse(
                [
                    replace(record, key=record.key.removeprefix(f"{name}/"))
                    for record in records
                    if record.key.startswith(f"{name}/")
                ]
            )
            for name, part in self.parts.items()
        ]
        return Report(
            self.title, self.introduction, [section for report in reports for section in report.sections]
        )
