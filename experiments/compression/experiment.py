"""Compression: how much of a passage's likelihood gain is left when its rows are compressed, and is it all its own?"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace._util.extras import pip_install
from embedspace.engines import Prompt
from embedspace.reporting import Report
from embedspace.runs import Case, Record, Tag
from experiments.compression.items import Item, task_of
from experiments.compression.llmlingua import installed, shortened
from experiments.compression.metrics import FULL, LLMLINGUA, NONE, RIGHT, SAME_LENGTH, Measured, inventions
from experiments.compression.overview import Goal, Overview
from experiments.compression.report import CompressionReport
from experiments.compression.ways import Asked, Way, passage_rows, passage_text

_SHOWN_INVENTIONS = 3


@dataclass(frozen=True)
class Compression:
    """Asks about a passage whose rows are compressed; the question's own rows stay as they are."""

    items: Sequence[Item]
    source: str
    """Where the items come from, for the report."""
    ways: Mapping[str, Way | None]
    """Name of a method -> how it shortens; None leaves the method out. The first is the one in question."""
    controls: Sequence[str]
    """Names of the methods that any other should beat at equal length; figures show them in grey."""
    drawn: Sequence[str]
    """Names of the other methods that figures show, six at most."""
    rivals: Mapping[str, Sequence[str]]
    """Name of a method -> those that it must not be below: for each kind of text and ratio it is compared with the best
    of them, item by item."""
    margin: float
    """Nats per token of the right answer by which a method may be below the best of its rivals, with the whole interval
    of the difference, and counts as good."""
    goals: Sequence[Goal]
    """Shares of the gain that were set as targets before the run."""
    ratios: Sequence[float]
    fewer_ratios: Mapping[str, Sequence[float]]
    """Name of a method -> the only ratios at which it is asked, to save time."""
    llmlingua: bool
    """Whether LLMLingua's own package shortens the text too, and the first method compresses to the number of rows that
    it reaches."""
    answered_ratios: Sequence[float]
    """Ratios at which the model answers; at the others only the right answer's likelihood is computed."""
    answered_items: int | None = None
    """Of each kind, the first so many are answered; None for all."""
    asked_items: int | None = None
    """Of each kind, the first so many are asked about; None for all."""

    @property
    def chosen(self) -> dict[str, Way]:
        """The methods that are not left out."""
        return {method: way for method, way in self.ways.items() if way is not None}

    @property
    def item_texts(self) -> list[str]:
        """Passages with their questions, for the ledger of sealed sets."""
        asked = (self.items[number] for number in sorted(self._first(self.asked_items)))
        return [f"{item['text']} {item['question']}" for item in asked]

    @property
    def own(self) -> str:
        """Name of the first method at the number of rows that the package keeps."""
        return f"{next(iter(self.chosen))} {SAME_LENGTH}"

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """For each item the whole passage, none, and every method at every ratio.

        What is answered comes first, so that an engine can batch it. All that is asked about a passage stands together,
        so that what is computed of a passage once (its information, its sentences' vectors) is still at hand.

        Raises:
            ValueError: the package LLMLingua is asked for and not installed.
        """
        if self.llmlingua and not installed():
            raise ValueError(
                f"experiment.llmlingua=true needs a package that is not installed: {pip_install('llmlingua')}"
            )
        asked_about, answered = self._first(self.asked_items), self._answered()
        for answers in (True, False):
            for number in sorted(asked_about):
                item = self.items[number]
                asked = Asked(space, item)
                for method, ratio, prompt_of in self._conditions(asked):
                    place = number in answered and (method in (FULL, NONE) or ratio in self.answered_ratios)
                    if place == answers:
                        yield self._case(method, ratio, number, asked, prompt_of, answers)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each task, what each method keeps of the passage's gain; over all tasks, where goals are reached."""
        title = "Compression of a passage"
        tasks = list(dict.fromkeys(map(task_of, self.items)))
        same_length = self.own if self.llmlingua else None
        reports = []
        for task in tasks:
            own = [record for record in records if task_of(self.items[int(record.tags["passage"])]) == task]
            reports.append(
                CompressionReport(
                    f"{title}: {task}" if len(tasks) > 1 else title,
                    Measured.of(own, self.items, same_length),
                    own,
                    self.items,
                    sum(task_of(self.items[number]) == task for number in self._first(self.asked_items)),
                    self.source,
                    list(self.chosen),
                    self.controls,
                    self.drawn,
                    self.rivals,
                    self.margin,
                    self.ratios,
                    self.answered_ratios,
                    same_length,
                )
            )
        sections = [report.section() for report in reports]
        if len(tasks) > 1:
            measured = {task: report.measured for task, report in zip(tasks, reports, strict=True)}
            overview = Overview(
                measured,
                list(self.chosen),
                self.ratios,
                self.rivals,
                self.margin,
                self.goals,
                self.answered_ratios,
            )
            # The answers of one kind stand for all; each kind has its own below.
            shown = replace(
                overview.section(), comparisons=sections[0].comparisons[:1], pair=sections[0].pair
            )
            sections.insert(0, shown)
        return Report(title, "", sections)

    def _answered(self) -> frozenset[int]:
        """Numbers of the items that are answered."""
        return self._first(self.answered_items) if self.answered_ratios else frozenset()

    def _first(self, count: int | None) -> frozenset[int]:
        """Numbers of the first items of each kind; of all for None."""
        seen: Counter[str] = Counter()
        found = set()
        for number, item in enumerate(self.items):
            if count is None or seen[task_of(item)] < count:
                found.add(number)
            seen[task_of(item)] += 1
        return frozenset(found)

    def _conditions(self, asked: Asked) -> Iterator[tuple[str, float, Callable[[], PromptEmbeds]]]:
        """Method, ratio and how the prompt is made; the first method beside LLMLingua's package keeps as many rows."""
        yield NONE, 0.0, partial(asked.with_text, None)
        yield FULL, 1.0, partial(asked.with_text, asked.item["text"])
        for method, way in self.chosen.items():
            for ratio in self._ratios(method):
                yield method, ratio, partial(way, asked, ratio)
        if self.llmlingua:
            first = next(iter(self.chosen.values()))
            for ratio in self.ratios:
                yield LLMLINGUA, ratio, partial(_llmlingua, asked, ratio)
                yield self.own, ratio, partial(_of_same_length, first, asked, ratio)

    def _ratios(self, method: str) -> list[float]:
        return [ratio for ratio in self.ratios if ratio in self.fewer_ratios.get(method, self.ratios)]

    def _case(
        self,
        method: str,
        ratio: float,
        number: int,
        asked: Asked,
        prompt_of: Callable[[], PromptEmbeds],
        answers: bool,
    ) -> Case:
        return Case(
            f"{method}/ratio={ratio:g}/p{number:03d}",
            prompt_of,
            {"method": method, "ratio": ratio, "passage": number},
            {RIGHT: asked.item["answer"]},
            answers,
            measured=None if method == NONE else partial(_tags, asked),
        )


def _llmlingua(asked: Asked, ratio: float) -> PromptEmbeds:
    """The prompt with what LLMLingua leaves of the text; were that nothing, with its first word."""
    text = asked.item["text"]
    return asked.with_text(shortened(asked.space.folder, text, ratio).strip() or text.split()[0])


def _of_same_length(way: Way, asked: Asked, ratio: float) -> PromptEmbeds:
    """The prompt compressed to as many rows as LLMLingua leaves of it, and no more than it has."""
    rows = passage_rows(asked.prompt)
    length = min(rows, passage_rows(_llmlingua(asked, ratio)))
    # A ratio that leaves so many rows whatever is lost in a division.
    return way(asked, rows / (length - 1e-6))


def _tags(asked: Asked, prompt: Prompt) -> dict[str, Tag]:
    """Rows of the passage, and the first words and numbers in them that the passage does not have."""
    assert isinstance(prompt, PromptEmbeds)
    invented = inventions(passage_text(asked.space, prompt), asked.item["text"])
    return {"rows": passage_rows(prompt), "invented": " | ".join(invented[:_SHOWN_INVENTIONS])}
