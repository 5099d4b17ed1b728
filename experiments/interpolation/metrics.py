"""What the records of walks between prompts say: curves along t, turns from one answer to the other, and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from embedspace.metrics import STRAIGHT_WIDTH, Condition, Measure, SentenceSimilarity, Transition
from embedspace.reporting import Cell, Table, unsigned
from embedspace.runs import Record, by_tags

FIRST, SECOND = "first", "second"
"""The two ends of a path."""
COPIED, RANDOM = "zero-padded whole prompts", "path to random rows"
"""Controls: the way that is often copied, and where no other answer waits."""
_STRAIGHT = "straight line"

Curve = Mapping[float, float]


@dataclass(frozen=True)
class Walks:
    """Measures of all paths, each by (path, ...) and pair."""

    ways: Sequence[str]
    """Names of the ways between prompts that are not controls, the one in question first."""
    likelihood: Measure
    """Log-likelihood of an end's own answer, nats per token, by (path, whose answer, t)."""
    likeness: Measure
    """Likeness of the answer that is given to an end's own, by (path, whose answer, t)."""
    distance: Measure
    """Distance of the content rows to the vocabulary, by (path, t)."""
    leaving: Measure
    """Turn away from the first prompt's answer on the paths to random rows, by (quantity, path)."""

    @classmethod
    def of(cls, records: Sequence[Record], ways: Sequence[str]) -> Self:
        """The measures of an experiment's records."""
        return cls(ways, _likelihoods(records, ways), _likenesses(records, ways), _distances(records, ways),
                   _leaving(records, ways))  # fmt: skip

    @property
    def paths(self) -> list[str]:
        """Paths that lead from one prompt to the other."""
        return [*self.ways, COPIED]

    @property
    def turning(self) -> Measure:
        """What turns are read from: likelihoods, or, where the engine tells none, the answers' likeness."""
        return self.likelihood or self.likeness

    @cached_property
    def turned(self) -> Measure:
        """Share of the turn from the first answer to the second that is made, by (path, t)."""
        return Measure.of(
            ((path, t), pair, (value - curve[0.0]) / (curve[1.0] - curve[0.0]))
            for path in self.paths
            for pair, curve in self._differences(path)
            if curve[1.0] > curve[0.0]
            for t, value in curve.items()
        )

    @cached_property
    def turns(self) -> Measure:
        """Where, how wide and how steep each pair's turn is, and what it passes, by (quantity, path)."""
        return Measure.of(self._turns())

    def places(self, path: str, *more: str) -> dict[float, Condition]:
        """Position -> condition of every measured position of a path."""
        measures = (self.likelihood, self.likeness) if more else (self.turned, self.distance)
        return {
            float(place[-1]): place
            for measure in measures
            for place in measure.values
            if place[:-1] == (path, *more)
        }

    def _differences(self, path: str) -> Iterator[tuple[int, Curve]]:
        """For each pair, how much likelier the second answer is than the first, along t."""
        found: dict[int, dict[float, float]] = {}
        for t, place in _positions(self.turning, path, SECOND).items():
            first = self.turning.values.get((path, FIRST, t), {})
            for pair, value in self.turning.values[place].items():
                if pair in first:
                    found.setdefault(pair, {})[t] = value - first[pair]
        yield from ((pair, curve) for pair, curve in found.items() if {0.0, 1.0} <= curve.keys())

    def _turns(self) -> Iterator[tuple[Condition, int, float]]:
        for path in self.paths:
            for pair, curve in self._differences(path):
                turn = Transition.of(curve)
                if turn is not None:
                    yield from ((place, pair, value) for place, value in _quantities(turn, path))
                middle = min(curve, key=lambda t: abs(t - 0.5))
                sides = [self.turning.values[path, side, middle][pair] for side in (FIRST, SECOND)]
                yield ("nearer answer", path), pair, max(sides)
                if (path, middle) in self.distance.values:
                    yield ("distance", path), pair, self.distance.values[path, middle][pair]
                # What the turn is compared with: likelihood that follows t.
                yield ("width", _STRAIGHT), pair, STRAIGHT_WIDTH
                yield ("slope", _STRAIGHT), pair, 1.0


def finding(walks: Walks) -> str:
    """Whether it is a path or a switch, and where, in words."""
    way = walks.ways[0]
    width, begin, middle, end, slope = (
        walks.turns.mean((quantity, way)) for quantity in ("width", "begin", "middle", "end", "slope")
    )
    if not (width and begin and middle and end and slope):
        return "Too few answers were recorded to follow a path between prompts."
    if width.high < STRAIGHT_WIDTH / 2:
        verdict = "A switch, not a path"
    elif round(width.low, 6) <= STRAIGHT_WIDTH <= round(width.high, 6):
        verdict = "A path, not a switch"
    else:
        verdict = "Neither a path nor a switch" if width.low < STRAIGHT_WIDTH else "Slower than a path"
    measure = "likelihood" if walks.likelihood else "likeness of the answers given"
    text = (
        f"{verdict}: between two prompts ({width.items} pairs, {way}) the {measure} goes over from the first's answer "
        f"to the second's between t {begin.estimate:.2f} and {end.estimate:.2f}, half of it by t {middle:.2f}. That is "
        f"{width:.2f} wide, where a straight line takes {STRAIGHT_WIDTH:g}, and its slope {slope:.1f} times that"
    )
    away, own = walks.leaving.mean(("width", RANDOM)), walks.leaving.mean(("width", way))
    if away and own:
        text += (
            f". The first answer is left within {own:.2f} on the way to the other prompt and within {away:.2f} on the "
            "way to random rows, measured alike"
        )
    copied, nearer = (walks.turns.mean(("nearer answer", path)) for path in (COPIED, way))
    if copied and nearer:
        text += (
            f". Half-way, the likelier of the two answers has {unsigned(nearer.estimate)}"
            f"{' nats a token' if walks.likelihood else ''}, and {unsigned(copied.estimate)} with whole prompts padded "
            "with zeros"
        )
    return f"{text}."


def ways_table(walks: Walks) -> Table:
    """Each way between prompts: its turn and its middle."""
    quantities = ("begin", "middle", "end", "width", "slope", "nearer answer", "distance")
    rows: list[list[Cell]] = []
    for path in walks.paths:
        means = [walks.turns.mean((quantity, path)) for quantity in quantities]
        if any(means):
            rows.append([path, *("" if mean is None else mean for mean in means)])
    unit = "nats per token" if walks.likelihood else "likeness"
    return Table(
        ("Way", "10% at t", "50% at t", "90% at t", "Width", "Slope",
         f"Nearer answer at the middle, {unit}", "Distance to the vocabulary at the middle"),
        rows,
        "The turn from the first answer to the second, pair by pair; a straight line's is 0.8 wide and has a slope of "
        "1. Means over pairs; 95% bootstrap intervals in small print.",
    )  # fmt: skip


def effects_table(walks: Walks) -> Table:
    """The first way against a straight line, and every other way against the first."""
    way = walks.ways[0]
    compared = [
        ("width", _STRAIGHT, way),
        ("slope", _STRAIGHT, way),
        *(
            (quantity, way, path)
            for path in walks.paths[1:]
            for quantity in ("width", "middle", "nearer answer", "distance")
        ),
    ]
    rows: list[list[Cell]] = []
    for quantity, before, after in compared:
        change = walks.turns.change((quantity, before), (quantity, after))
        effect = walks.turns.effect((quantity, before), (quantity, after))
        if change and effect:
            rows.append([f"{after} against {before}", quantity, change, effect.size, f"{effect.p_value:.2g}"])
    return Table(
        ("Compared", "In", "Difference", "Effect size", "p"),
        rows,
        "Pair by pair: mean difference with its 95% interval, effect size (mean over standard deviation of the "
        "differences) and p-value (Wilcoxon's signed-rank test, not corrected for the number of comparisons).",
    )


def leaving_table(walks: Walks) -> Table:
    """How the first prompt's answer is lost on the way to another prompt and to random rows."""
    rows: list[list[Cell]] = []
    for path in (walks.ways[0], RANDOM):
        means = [walks.leaving.mean((quantity, path)) for quantity in ("begin", "middle", "end", "width")]
        if any(means):
            rows.append([path, *("" if mean is None else mean for mean in means)])
    return Table(
        ("Way", "10% lost at t", "50% lost at t", "90% lost at t", "Width"),
        rows,
        "Likelihood of the first prompt's answer, from its value at t 0 to that at t 1, read at the same positions of "
        "both paths. Is the turn a matter of arriving at another prompt, or of leaving one?",
    )


def kinds_table(walks: Walks, kinds: Sequence[str]) -> Table:
    """The first way's turn by kind of pair."""
    rows: list[list[Cell]] = []
    for kind in dict.fromkeys(kinds):
        own = Measure(
            {
                place: kept
                for place, items in walks.turns.values.items()
                if (kept := {pair: value for pair, value in items.items() if kinds[pair] == kind})
            }
        )
        means = [own.mean((quantity, walks.ways[0])) for quantity in ("middle", "width", "slope")]
        if (width := means[1]) is not None:
            rows.append([kind, width.items, *("" if mean is None else mean for mean in means)])
    return Table(
        ("Kind of pair", "Pairs", "50% at t", "Width", "Slope"), rows, f"The turn by kind of pair ({walks.ways[0]})."
    )  # fmt: skip


def places_table(walks: Walks) -> Table:
    """The measures at every position of the first way and of the controls."""
    rows: list[list[Cell]] = []
    for path in (walks.ways[0], COPIED, RANDOM):
        for side in (FIRST, SECOND):
            for t, place in sorted(walks.places(path, side).items()):
                means = (walks.likelihood.mean(place), walks.likeness.mean(place))
                rows.append([path, side, f"{t:g}", *("" if mean is None else mean for mean in means)])
    return Table(
        ("Path", "Whose answer", "t", "Log-likelihood, nats per token", "Likeness of the answer given"),
        rows,
        "Means over pairs; 95% bootstrap intervals in small print.",
    )


def _quantities(turn: Transition, path: str) -> Iterator[tuple[Condition, float]]:
    for name in ("begin", "middle", "end", "width", "slope"):
        yield (name, path), getattr(turn, name)


def _positions(measure: Measure, *start: str) -> dict[float, Condition]:
    return {float(place[-1]): place for place in measure.values if place[:-1] == start}


def _walked(records: Sequence[Record], ways: Sequence[str]) -> Iterator[tuple[str, float, int, Record]]:
    """Path, position, pair and record; an end that paths share is given under each of them."""
    for (pair, path, t), found in by_tags(records, "pair", "path", "t").items():
        shared = [path]
        if path == ways[0] and t in (0, 1):
            shared = [*ways, RANDOM] if t == 0 else [*ways]
        for name in shared:
            yield from ((str(name), float(t), int(pair), record) for record in found)


def _likelihoods(records: Sequence[Record], ways: Sequence[str]) -> Measure:
    return Measure.of(
        ((path, side, t), pair, score.per_token)
        for path, t, pair, record in _walked(records, ways)
        for side, score in record.scores.items()
    )


def _distances(records: Sequence[Record], ways: Sequence[str]) -> Measure:
    return Measure.of(
        ((path, t), pair, float(record.tags["distance"])) for path, t, pair, record in _walked(records, ways)
    )


def _likenesses(records: Sequence[Record], ways: Sequence[str]) -> Measure:
    """Likeness of what is answered on the way, the ends included, to the ends' answers."""
    ends = {place: found[0].text for place, found in by_tags(records, "pair", "end").items()}
    given = [(path, t, pair, record.text) for path, t, pair, record in _walked(records, ways) if record.text]
    for (pair, side), text in ends.items():
        # Zero-padded prompts have other ends.
        paths = [*ways, RANDOM] if side == FIRST else ways
        given += [(path, float(side == SECOND), int(pair), text) for path in paths]
    compared = [(answer, side) for answer in given for side in (FIRST, SECOND) if (answer[2], side) in ends]
    cosines = SentenceSimilarity().cosines(
        [text for (*_, text), _ in compared], [ends[answer[2], side] for answer, side in compared]
    )
    return Measure.of(
        ((path, side, t), pair, cosine)
        for ((path, t, pair, _), side), cosine in zip(compared, cosines, strict=True)
    )


def _leaving(records: Sequence[Record], ways: Sequence[str]) -> Measure:
    """Transitions of the first answer's loss, to the other prompt and to random rows, at the same positions."""
    curves: dict[tuple[str, int, int], dict[float, float]] = {}
    starts: dict[int, float] = {}
    for (pair, path, t), found in by_tags(records, "pair", "path", "t").items():
        for record in found:
            if FIRST in record.scores and path in (ways[0], RANDOM):
                lost = -record.scores[FIRST].per_token
                curves.setdefault((str(path), int(pair), int(record.tags.get("seed", 0))), {})[float(t)] = (
                    lost
                )
                if t == 0:
                    starts[int(pair)] = lost
    shared = {t for (path, *_), curve in curves.items() if path == RANDOM for t in curve} | {0.0}
    measured: list[tuple[Condition, int, float]] = []
    for (path, pair, _), curve in curves.items():
        kept = {t: value for t, value in curve.items() if t in shared}
        if pair in starts and 1.0 in kept and (turn := Transition.of(kept | {0.0: starts[pair]})):
            measured += [(place, pair, value) for place, value in _quantities(turn, path)]
    return Measure.of(measured)
