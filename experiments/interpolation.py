"""Interpolation: on the straight path between two prompts, whose answer does the model give?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from embedspace import EmbeddingSpace, PromptEmbeds, interpolate
from embedspace.cases import AnswerOf, Case
from embedspace.controls import random_rows
from embedspace.metrics import Interval, Measure, SentenceSimilarity
from embedspace.plots import Figure, Line, line_figure
from embedspace.records import Record, by_tags
from embedspace.report import Answer, Cell, Comparison, Report, Section, Table, unsigned

FIRST, SECOND = "first", "second"
"""The two ends of a path."""
PROMPT, RANDOM = "prompt", "random"
"""What a path leads to: the other prompt, or, for control, as many random rows of the vocabulary."""

_NAMES = {
    (PROMPT, FIRST): "first prompt's answer",
    (PROMPT, SECOND): "second prompt's answer",
    (RANDOM, FIRST): "first, on the path to random rows",
    (RANDOM, SECOND): "second, on the path to random rows",
}


@dataclass(frozen=True)
class Interpolation:
    """Walks from each pair's first prompt to its second, and to random rows of the same number."""

    pairs: Sequence[Sequence[str]]
    """Two prompts each."""
    steps: Sequence[float]
    """Positions between the ends, each in (0, 1)."""
    random_steps: Sequence[float]
    """Positions on the path to random rows, its end 1 among them."""
    answered_steps: Sequence[float]
    """Positions at which the model answers; at the others and at the ends likelihoods alone are wanted."""
    seed: int
    """Of the random rows."""

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The ends' own answers first, then every path, scored for both answers."""
        ends = [[_chat(space, text) for text in pair] for pair in self.pairs]
        for number, pair in enumerate(ends):
            for side, prompt in zip((FIRST, SECOND), pair, strict=True):
                yield Case(_end(number, side), prompt, {"pair": number, "end": side})
        walks = [(PROMPT, t) for t in (0.0, *self.steps, 1.0)] + [(RANDOM, t) for t in self.random_steps]
        # What is answered comes first, so that an engine can batch it.
        for target, t in sorted(walks, key=lambda walk: walk[1] not in self.answered_steps):
            for number, (first, second) in enumerate(ends):
                goal = second if target == PROMPT else random_rows(space, second, self.seed + number)
                yield Case(
                    f"pair{number:02d}/{target}/t={t:.2f}",
                    interpolate(first, goal, t),
                    {"pair": number, "target": target, "t": t},
                    {side: AnswerOf(_end(number, side)) for side in (FIRST, SECOND)},
                    answered=t in self.answered_steps,
                )

    def analyse(self, records: Sequence[Record]) -> Report:
        """Likelihood of both answers along the path, and likeness of the completions to them."""
        likelihood, likeness = _likelihoods(records), _likenesses(records)
        figures = [
            _figure(measure, label, caption)
            for measure, label, caption in (
                (
                    likelihood,
                    "log-likelihood, nats per token",
                    "How likely each end's own greedy answer is along the path. Bands are 95% intervals over pairs; "
                    "grey is the path to random rows.",
                ),
                (
                    likeness,
                    "likeness in meaning",
                    "Likeness (cosine of sentence vectors) of the answer given on the way to each end's own answer.",
                ),
            )
            if len(_curve(measure, PROMPT, FIRST)) > 1
        ]
        section = Section(
            "Interpolation between prompts",
            _finding(likelihood, likeness),
            "Every content row of the first prompt is moved in a straight line to the second prompt (t from 0 to 1, "
            "lengths matched by resampling). The answers of both ends are known; along the way, each becomes more or "
            "less likely. The control leads to random rows of the vocabulary, where no other answer waits.",
            figures=figures,
            tables=[_table(likelihood, likeness)] if figures else [],
            comparisons=self._comparisons(records),
        )
        return Report("Interpolation between prompts", "", [section])

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        ends = {place: found[0] for place, found in by_tags(records, "pair", "end").items()}
        walks = {place: found[0] for place, found in by_tags(records, "pair", "target", "t").items()}
        comparisons = []
        for number, (first, second) in enumerate(self.pairs):
            shown = [
                Answer.of("t 0: first prompt", ends[number, FIRST]) if (number, FIRST) in ends else None,
                *(
                    Answer.of(f"t {t:g}", walks[number, PROMPT, t])
                    for t in sorted(self.answered_steps)
                    if (number, PROMPT, t) in walks
                ),
                Answer.of("t 1: second prompt", ends[number, SECOND]) if (number, SECOND) in ends else None,
            ]
            comparisons.append(Comparison(f"{first} → {second}", [answer for answer in shown if answer]))
        return [comparison for comparison in comparisons if comparison.answers]


def _end(number: int, side: str) -> str:
    return f"pair{number:02d}/{side}"


def _chat(space: EmbeddingSpace, text: str) -> PromptEmbeds:
    return space.embed_chat([{"role": "user", "content": text}])


def _likelihoods(records: Sequence[Record]) -> Measure:
    """Log-likelihood of the ends' answers, nats per token, by (path, whose answer, t)."""
    measured = []
    for (pair, target, t), (record, *_) in by_tags(records, "pair", "target", "t").items():
        # Both paths start at the first prompt.
        for path in (str(target), RANDOM) if t == 0 else (str(target),):
            measured += [
                ((path, side, float(t)), int(pair), score.per_token) for side, score in record.scores.items()
            ]
    return Measure.of(measured)


def _likenesses(records: Sequence[Record]) -> Measure:
    """Likeness of what is answered on the way, the ends included, to the ends' answers."""
    ends = {place: found[0].text for place, found in by_tags(records, "pair", "end").items()}
    given = [
        (int(pair), str(target), float(t), found[0].text)
        for (pair, target, t), found in by_tags(records, "pair", "target", "t").items()
        if found[0].text
    ]
    for (pair, side), text in ends.items():
        given.append((int(pair), PROMPT, float(side == SECOND), text))
        if side == FIRST:
            given.append((int(pair), RANDOM, 0.0, text))
    compared = [(answer, side) for answer in given for side in (FIRST, SECOND) if (answer[0], side) in ends]
    cosines = SentenceSimilarity().cosines(
        [text for (*_, text), _ in compared], [ends[answer[0], side] for answer, side in compared]
    )
    return Measure.of(
        ((target, side, t), pair, cosine)
        for ((pair, target, t, _), side), cosine in zip(compared, cosines, strict=True)
    )


def _curve(measure: Measure, path: str, side: str) -> dict[float, Interval]:
    places = {float(place[2]): place for place in measure.values if place[:2] == (path, side)}
    return measure.curve(places)


def _figure(measure: Measure, label: str, caption: str) -> Figure:
    lines = [
        Line(name, points, control=path == RANDOM, band=path == PROMPT)
        for (path, side), name in _NAMES.items()
        if len(points := _curve(measure, path, side)) > 1
    ]
    return line_figure(lines, x_label="position t on the path", y_label=label, caption=caption)


def _table(likelihood: Measure, likeness: Measure) -> Table:
    rows: list[list[Cell]] = []
    for (path, side), name in _NAMES.items():
        measured = [_curve(measure, path, side) for measure in (likelihood, likeness)]
        for t in sorted({*measured[0], *measured[1]}):
            rows.append([name, f"{t:g}", *(points.get(t, "") for points in measured)])
    return Table(
        ("Whose answer", "t", "Log-likelihood, nats per token", "Likeness of the answer given"),
        rows,
        "Means over pairs; 95% bootstrap intervals in small print.",
    )


def _finding(likelihood: Measure, likeness: Measure) -> str:
    if not likelihood:
        return _finding_in_words(likeness)
    first, second = _curve(likelihood, PROMPT, FIRST), _curve(likelihood, PROMPT, SECOND)
    if not {0.0, 1.0} <= first.keys() & second.keys():
        return "Too few answers were recorded to follow a path between prompts."
    moves = [
        f"from {unsigned(curve[0.0].estimate)} to {unsigned(curve[1.0].estimate)}"
        for curve in (first, second)
    ]
    text = (
        f"On the straight path from one prompt to another ({first[0.0].items} pairs), the log-likelihood in nats per "
        f"token of the first prompt's answer goes {moves[0]}, that of the second's {moves[1]}"
    )
    ahead = [t for t in sorted(first.keys() & second.keys()) if second[t].estimate >= first[t].estimate]
    if ahead and ahead[0] > 0:
        before = max(t for t in second if t < ahead[0])
        text += f"; the second overtakes the first between t {before:g} and {ahead[0]:g}"
    control = _curve(likelihood, RANDOM, SECOND)
    if 1.0 in control:
        text += f". On the path to random rows the second's ends at {unsigned(control[1.0].estimate)}"
    return f"{text}."


def _finding_in_words(likeness: Measure) -> str:
    """What the answers given on the way say; at the ends they are the ends' own."""
    first, second = _curve(likeness, PROMPT, FIRST), _curve(likeness, PROMPT, SECOND)
    between = sorted((first.keys() & second.keys()) - {0.0, 1.0}, key=lambda t: abs(t - 0.5))
    if not between or 0.0 not in second:
        return "Too few answers were recorded to follow a path between prompts."
    t = between[0]
    return (
        f"At t {t:g} on the straight path from one prompt to another ({first[t].items} pairs), the answer's likeness "
        f"to the first prompt's is {unsigned(first[t].estimate)} and to the second's {unsigned(second[t].estimate)} "
        f"(those two are alike by {unsigned(second[0.0].estimate)})."
    )
