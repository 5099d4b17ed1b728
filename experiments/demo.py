"""Demo: several experiments as one run with one report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from embedspace import EmbeddingSpace
from embedspace.reporting import Report
from embedspace.runs import Case, Record
from experiments.experiment import Experiment


@dataclass(frozen=True)
class Demo:
    """Experiments side by side, each under its own name."""

    title: str
    introduction: str
    """What the page is about, before the findings."""
    parts: Mapping[str, Experiment]

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The parts' cases: what is answered comes first, so that an engine can batch it across parts."""
        cases = [case.prefixed(name) for name, part in self.parts.items() for case in part.cases(space)]
        yield from sorted(cases, key=lambda case: not case.answered)

    def analyse(self, records: Sequence[Record]) -> Report:
        """The parts' findings and sections on one page."""
        reports = {
            name: part.analyse(
                [
                    replace(record, key=record.key.removeprefix(f"{name}/"))
                    for record in records
                    if record.key.startswith(f"{name}/")
                ]
            )
            for name, part in self.parts.items()
        }
        return Report(
            self.title,
            "\n\n".join([self.introduction, *(report.summary for report in reports.values())]),
            [section.prefixed(name) for name, report in reports.items() for section in report.sections],
        )
