"""Retrieval-augmented generation: what a passage is worth as text, as soft tokens, and as compressed text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedspace.reporting import Report
from embedspace.runs import Case, Record
from experiments.compression.passages import Knowledge
from experiments.rag.context import PassageContext
from experiments.rag.metrics import NONE, SHUFFLED, SOFT, TEXT, WARM_UP, Measured
from experiments.rag.report import RagReport

if TYPE_CHECKING:
    from embedspace import EmbeddingSpace


@dataclass(frozen=True)
class Rag:
    """Asks questions about a knowledge base, with retrieved passages as text, soft tokens or compressed text.

    Raises:
        ValueError: fewer than two questions, no number of passages, or more of them than there are.
    """

    knowledge: Knowledge
    source: str
    """Where passages and questions come from, for the report."""
    projector: str
    """Packaged name, folder or hub id."""
    counts: Sequence[int]
    """How many of the passages found a question gets."""
    compressed: Mapping[str, Mapping[str, Any] | None]
    """Name of a method that compresses the text to as many rows as the soft tokens have -> options of ``compress``;
    None leaves it out."""
    introduction: str
    """What stands before the passages in the user's message."""
    answered: int
    """Questions of each task that the model answers; at the others only the right answer's likelihood is computed."""
    timed: int
    """Questions of each task whose first token is timed, each asked alone."""

    def __post_init__(self) -> None:
        if len(self.knowledge.questions) < 2:
            raise ValueError(
                "shuffled soft tokens take at least two questions; ask for more facts or explanations"
            )
        if not self.counts or not 1 <= min(self.counts) <= max(self.counts) <= len(self.knowledge.passages):
            raise ValueError(
                f"counts is {list(self.counts)}; give numbers of passages from 1 to {len(self.knowledge.passages)}"
            )

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """First tokens, then answers, then likelihoods alone, so that an engine can batch each kind."""
        context = PassageContext(
            space, self.knowledge, self.projector, max(self.counts), self.compressed, self.introduction
        )
        timed = [number for number in self._numbers if self._place_in_task(number) < self.timed]
        if timed:
            # The first request is slower than all that follow, and does not count.
            yield context.case(TEXT, self.counts[0], timed[-1], key=WARM_UP, timed=True)
        for number in timed:
            for way, count in self._places:
                yield context.case(way, count, number, timed=True)
        for answered in (True, False):
            for way, count in self._places:
                for number in self._numbers:
                    if (self._place_in_task(number) < self.answered) == answered:
                        yield context.case(way, count, number, answered=answered)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each task, what each form of the passages is worth and costs."""
        sections = []
        for task in dict.fromkeys(question["task"] for question in self.knowledge.questions):
            own = [record for record in records if record.tags["task"] == task]
            measured = Measured.of(task, own, self.knowledge.questions)
            report = RagReport(
                task,
                measured,
                [record for record in own if not record.tags["timed"]],
                self.knowledge,
                self.source,
                self.projector,
                self.counts,
                self._places,
            )
            sections.append(report.section())
        return Report("Passages as vectors", "", sections)

    @property
    def _places(self) -> list[tuple[str, int]]:
        shorter = [name for name, options in self.compressed.items() if options is not None]
        return [
            (NONE, 0), *((form, count) for count in self.counts for form in (TEXT, SOFT, SHUFFLED, *shorter))
        ]  # fmt: skip

    @property
    def _numbers(self) -> range:
        return range(len(self.knowledge.questions))

    def _place_in_task(self, number: int) -> int:
        """Which question of its task it is."""
        questions = self.knowledge.questions
        return sum(question["task"] == questions[number]["task"] for question in questions[:number])
