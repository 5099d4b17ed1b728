"""The overview of all kinds of text: shares kept, goals, comparisons with the best of the simple ways, inventions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from embedspace.metrics import MIN_ITEMS, Condition, Interval, Measure, ratio_interval
from embedspace.reporting import Cell, Figure, Section, Table, counted, dot_figure
from experiments.compression.metrics import WITHOUT, Measured


@dataclass(frozen=True)
class Goal:
    """Shares of the gain that a method was to keep."""

    way: str
    shares: Mapping[float, float]
    """Compression ratio -> share."""
    kinds: Sequence[str] | None = None
    """Of text; None for all."""


Standing = Literal["above", "as good", "not told", "below"]
"""``as good``: at most the margin below the best of the rivals."""


@dataclass(frozen=True)
class Rival:
    """A method against the best of those that it must not be below, at one ratio."""

    method: str
    ratio: float
    best: str
    """Name of the one with the highest mean likelihood at this ratio; chosen on the same items, which favours it."""
    difference: Interval
    """The method minus the best of the others, in nats per token."""
    margin: float
    """Nats per token by which a method may be below and still counts as good as the best."""

    @property
    def standing(self) -> Standing:
        """What the interval of the difference shows; of equal differences, what they show."""
        found = self.difference
        low, high = (found.low, found.high) if found.known else (found.estimate, found.estimate)
        if high < 0:
            return "below"
        if low > 0:
            return "above"
        return "as good" if low >= -self.margin else "not told"


def headline_ratio(ratios: Sequence[float], answered_ratios: Sequence[float]) -> float:
    """The ratio that verdicts are about: the first that is answered, or the middle one."""
    answered = [ratio for ratio in ratios if ratio in answered_ratios]
    return answered[0] if answered else sorted(ratios)[(len(ratios) - 1) // 2]


def kept_in_words(share: Interval, *, short: bool = False) -> str:
    """What a passage keeps, as a clause that its interval allows.

    >>> kept_in_words(Interval(0.59, 0.5, 0.7, 12), short=True), kept_in_words(Interval(0.2, -0.1, 0.5, 12), short=True)
    ('keeps 59%', 'keeps 20% (its interval reaches 0)')
    >>> kept_in_words(Interval(-0.1, -0.4, 0.1, 12), short=True), kept_in_words(Interval(-0.2, -0.3, -0.1, 12))
    ('keeps nothing', 'is worse than no passage')
    """
    if share.high < 0:
        return "is worse than no passage"
    what = "" if short else " of what it adds to the right answer's likelihood"
    if share.estimate <= 0:
        return f"keeps nothing{what}"
    return f"keeps {share.estimate:.0%}{what}" + (" (its interval reaches 0)" if share.low <= 0 else "")


def rivalries(
    measured: Measured, rivals: Mapping[str, Sequence[str]], ratios: Sequence[float], margin: float
) -> Iterator[Rival]:
    """Each method against the best of its rivals, at each ratio at which both were measured on enough clusters."""
    for method, others in rivals.items():
        for ratio in ratios:
            best = measured.best([(other, ratio) for other in others])
            difference = measured.change(best, (method, ratio)) if best else None
            if best and difference and difference.items >= MIN_ITEMS:
                yield Rival(method, ratio, str(best[0]), difference, margin)


def rivals_table(found: Sequence[Rival], margin: float) -> Table:
    """One row for each comparison."""
    rows: list[list[Cell]] = [
        [
            each.method,
            f"{each.ratio:g}",
            each.best,
            each.difference,
            each.standing,
        ]
        for each in found
    ]
    return Table(
        ("Method", "Compression ratio", "Best of its rivals", "Nats per token more", "Verdict"),
        rows,
        "Methods against the best of their rivals. Mean difference of the right answer's log-likelihood, item by "
        "item, from the best of the ways that the method must not be below, with its 95% interval. Below and above: "
        f"the whole interval is. As good: the interval ends above -{margin:g}. Otherwise so few items cannot tell.",
    )


@dataclass(frozen=True)
class Overview:
    """What is said of all kinds together."""

    measured: Mapping[str, Measured]
    """Kind of text -> its measures."""
    methods: Sequence[str]
    ratios: Sequence[float]
    rivals: Mapping[str, Sequence[str]]
    margin: float
    """Nats per token; see :class:`Rival`."""
    goals: Sequence[Goal]
    answered_ratios: Sequence[float]

    def section(self) -> Section:
        """Finding and tables; tables in which nothing was measured are left out."""
        tables = [
            *(self._shares(ratio) for ratio in self.ratios),
            *(self._answers(ratio) for ratio in self.answered_ratios),
            self._goal_table(),
            self._inventions(),
        ]
        return Section(
            "All kinds of text",
            self._finding(),
            "Shares of a passage's likelihood gain that are left, for each kind of text; each kind has a section of "
            "its own below, with the comparisons on which the verdicts rest. Intervals are of a bootstrap over "
            "clusters: the documents, patterns or records that items were made from.",
            figures=self._figures(),
            tables=[table for table in tables if table.rows],
            verdict=self._verdict(),
        )

    def _verdict(self) -> str:
        """On how many kinds each method is below the best of its rivals, and how many goals are reached."""
        said = []
        for method in self.rivals:
            kinds = [found for found in self._compared(method).values() if found]
            below = sum(any(each.standing == "below" for each in found) for found in kinds)
            said += [f"{method} on {below or 'none'} of {len(kinds)}"] if kinds else []
        if not said:
            return ""
        goals = self._goals
        met = f"; {self._reached} of {counted(len(goals), 'goal')} are reached" if goals else ""
        return (
            f"Kinds of text on which a method is clearly below the best of its rivals at some ratio: "
            f"{', '.join(said)}{met}."
        )

    def _figures(self) -> list[Figure]:
        """The share that the first method keeps of each kind, at one ratio."""
        ratio = headline_ratio(self.ratios, self.answered_ratios)
        own = self.methods[0]
        shares = {kind: measured.kept((own, ratio)) for kind, measured in self.measured.items()}
        drawn = {kind: share for kind, share in shares.items() if share is not None}
        if not drawn:
            return []
        label = "share of the passage's gain kept"
        caption = f"What the method “{own}” keeps at a compression ratio of {ratio:g}, by kind of text."
        return [dot_figure(drawn, x_label=label, caption=caption, over="clusters of questions")]

    def _finding(self) -> str:
        said = [sentence for method in self.rivals if (sentence := self._finding_of(method))]
        if self._goals:
            said.append(f"{self._reached} of {len(self._goals)} goals are reached")
        return ". ".join(said) + "." if said else "Too little was recorded to compare ways."

    def _finding_of(self, method: str) -> str | None:
        """Where a method is below the best of its rivals; None where they were not compared."""
        compared = self._compared(method)
        if not any(compared.values()):
            return None
        below = [
            f"{kind} ({', '.join(f'{each.ratio:g}x {each.best}' for each in lost)})"
            for kind, found in compared.items()
            if (lost := [each for each in found if each.standing == "below"])
        ]
        count = Counter(each.standing for found in compared.values() for each in found)
        said = (
            f"{method[:1].upper()}{method[1:]} is above the best of its rivals in {count['above']} of "
            f"{counted(count.total(), 'comparison')}, as good within {self.margin:g} nats a token in "
            f"{count['as good']}, not told from it in {count['not told']}, and below it in {count['below']}"
        )
        return f"{said}: {'; '.join(below)}" if below else said

    def _shares(self, ratio: float) -> Table:
        rows: list[list[Cell]] = [
            [kind, *(measured.kept((method, ratio)) for method in self.methods)]
            for kind, measured in self.measured.items()
        ]
        return Table(
            ("Kind of text", *self.methods),
            [row for row in rows if any(row[1:])],
            f"Share of the gain kept at a compression ratio of {ratio:g}.",
        ).filled()

    def _answers(self, ratio: float) -> Table:
        places: dict[str, Condition] = {method: (method, ratio) for method in self.methods}
        places = {"whole passage": ("full", 1.0), **places, "no passage": WITHOUT}
        rows: list[list[Cell]] = [
            [kind, *(measured.mean(measured.right, place) for place in places.values())]
            for kind, measured in self.measured.items()
        ]
        return Table(
            ("Kind of text", *places),
            [row for row in rows if any(row[1:])],
            f"Share of the model's answers that contain the right string, at a compression ratio of {ratio:g}. The "
            "first words of the answer are given to the model; it answers greedily.",
        ).filled()

    def _compared(self, method: str) -> dict[str, list[Rival]]:
        """Kind of text -> a method against the best of its rivals, ratio by ratio."""
        return {
            kind: [each for each in found if each.method == method] for kind, found in self._rivalries.items()
        }

    @cached_property
    def _rivalries(self) -> dict[str, list[Rival]]:
        return {
            kind: list(rivalries(measured, self.rivals, self.ratios, self.margin))
            for kind, measured in self.measured.items()
        }

    @property
    def _reached(self) -> int:
        """How many goals are reached."""
        return sum(share.estimate >= wanted for *_, wanted, share in self._goals)

    @cached_property
    def _goals(self) -> list[tuple[Goal, str, float, float, Interval]]:
        return [
            (goal, kind, ratio, wanted, share)
            for goal in self.goals
            for kind, measured in self.measured.items()
            if goal.kinds is None or kind in goal.kinds
            for ratio, wanted in goal.shares.items()
            if (share := measured.kept((goal.way, ratio))) is not None
        ]

    def _goal_table(self) -> Table:
        rows: list[list[Cell]] = [
            [goal.way, kind, f"{ratio:g}", wanted, share, _outcome(share, wanted)]
            for goal, kind, ratio, wanted, share in self._goals
        ]
        return Table(
            ("Method", "Kind of text", "Compression ratio", "Goal", "Share kept", "Verdict"),
            rows,
            "Goals that were set before the run. Within its interval: the share is below the goal, and its interval "
            "reaches it.",
        )

    def _inventions(self) -> Table:
        rows: list[list[Cell]] = []
        for method in self.methods:
            cells = [
                _pooled(measured, measured.invented, method, self.ratios)
                for measured in self.measured.values()
            ]
            if any(cell is not None for cell in cells):
                rows.append([method, *cells])
        return Table(
            ("Method", *self.measured),
            rows,
            "Share of shortened passages, all ratios together, with a word or number that the passage does not have.",
        ).filled()


def _pooled(measured: Measured, measure: Measure, method: str, ratios: Sequence[float]) -> Interval | None:
    """Mean over the items of all ratios."""
    found = [
        (value, measured.clusters[item])
        for ratio in ratios
        for item, value in measure.values.get((method, ratio), {}).items()
    ]
    return ratio_interval([value for value, _ in found], None, [own for _, own in found]) if found else None


def _outcome(share: Interval, wanted: float) -> str:
    if share.estimate >= wanted:
        return "reached"
    return "missed, within its interval" if share.high >= wanted else "missed"
