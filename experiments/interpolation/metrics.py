"""What is measured along paths between prompts: likelihoods, similarities, and transitions between answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

from embedspace.metrics import MIN_STEPS, STRAIGHT_WIDTH, Condition, Measure, SentenceSimilarity, Transition
from embedspace.runs import Record, by_tags

FIRST, SECOND = "first", "second"
"""The two ends of a path."""
COPIED, RANDOM = "zero-padded whole prompts", "path to random rows"
"""Controls: the method that is often copied, and paths that end at no other prompt."""
STRAIGHT = "straight line"

Curve = Mapping[float, float]


@dataclass(frozen=True)
class Walks:
    """Measures of all paths, each by (path, ...) and pair."""

    ways: Sequence[str]
    """Names of the methods that are not controls, the one in question first."""
    likelihood: Measure
    """Log-likelihood of an end's own answer, nats per token, by (path, whose answer, t)."""
    similarity: Measure
    """Cosine similarity of the answer given to an end's own, by (path, whose answer, t)."""
    distance: Measure
    """Distance of the content rows to the vocabulary, by (path, t)."""
    leaving: Measure
    """Transition away from the first prompt's answer, to the other prompt and to random rows, by (quantity, path)."""

    @classmethod
    def of(cls, records: Sequence[Record], ways: Sequence[str]) -> Self:
        """The measures of an experiment's records."""
        return cls(ways, _likelihoods(records, ways), _similarities(records, ways), _distances(records, ways),
                   _leaving(records, ways))  # fmt: skip

    @property
    def paths(self) -> list[str]:
        """Paths that lead from one prompt to the other."""
        return [*self.ways, COPIED]

    @property
    def answer_measure(self) -> Measure:
        """What transitions are computed from: likelihoods, or the answers' similarity where there are none."""
        return self.likelihood or self.similarity

    @cached_property
    def progress(self) -> Measure:
        """Share of the transition from the first answer to the second that is complete, by (path, t)."""
        return Measure.of(
            ((path, t), pair, (value - curve[0.0]) / (curve[1.0] - curve[0.0]))
            for path in self.paths
            for pair, curve in self._differences(path)
            if curve[1.0] > curve[0.0]
            for t, value in curve.items()
        )

    @cached_property
    def transitions(self) -> Measure:
        """Position, width and slope of each pair's transition, and what it passes, by (quantity, path)."""
        return Measure.of(self._transitions())

    def places(self, path: str, *more: str) -> dict[float, Condition]:
        """Position -> condition of every measured position of a path."""
        measures = (self.likelihood, self.similarity) if more else (self.progress, self.distance)
        return {
            float(place[-1]): place
            for measure in measures
            for place in measure.values
            if place[:-1] == (path, *more)
        }

    def _differences(self, path: str) -> Iterator[tuple[int, Curve]]:
        """For each pair, how much likelier the second answer is than the first, along t."""
        found: dict[int, dict[float, float]] = {}
        for t, place in _positions(self.answer_measure, path, SECOND).items():
            first = self.answer_measure.values.get((path, FIRST, t), {})
            for pair, value in self.answer_measure.values[place].items():
                if pair in first:
                    found.setdefault(pair, {})[t] = value - first[pair]
        yield from ((pair, curve) for pair, curve in found.items() if {0.0, 1.0} <= curve.keys())

    def _transitions(self) -> Iterator[tuple[Condition, int, float]]:
        for path in self.paths:
            for pair, curve in self._differences(path):
                transition = Transition.of(curve) if len(curve) > MIN_STEPS else None
                if transition is not None:
                    yield from ((place, pair, value) for place, value in _quantities(transition, path))
                middle = min(curve, key=lambda t: abs(t - 0.5))
                sides = [self.answer_measure.values[path, side, middle][pair] for side in (FIRST, SECOND)]
                yield ("nearer answer", path), pair, max(sides)
                if (path, middle) in self.distance.values:
                    yield ("distance", path), pair, self.distance.values[path, middle][pair]
                # What the transition is compared with: likelihood that is linear in t.
                yield ("width", STRAIGHT), pair, STRAIGHT_WIDTH
                yield ("slope", STRAIGHT), pair, 1.0


def _quantities(transition: Transition, path: str) -> Iterator[tuple[Condition, float]]:
    for name in ("begin", "middle", "end", "width", "slope"):
        yield (name, path), getattr(transition, name)


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


def _similarities(records: Sequence[Record], ways: Sequence[str]) -> Measure:
    """Similarity of the answers on the path, the ends included, to the ends' answers."""
    ends = {place: found[0].text for place, found in by_tags(records, "pair", "end").items()}
    given = [
        (path, t, pair, record.text)
        for path, t, pair, record in _walked(records, ways)
        if record.finish_reason != "scored"
    ]  # an empty answer is like neither end's
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
        if pair not in starts or 1.0 not in kept:
            continue
        whole = kept | {0.0: starts[pair]}
        if len(whole) > MIN_STEPS and (transition := Transition.of(whole)):
            measured += [(place, pair, value) for place, value in _quantities(transition, path)]
    return Measure.of(measured)
