"""Report of the interpolation experiment: the finding, tables and figures of measured paths."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from embedspace.metrics import MIN_ITEMS, MIN_STEPS, STRAIGHT_WIDTH, Interval, Measure, holm
from embedspace.reporting import Cell, Figure, Table, counted, effect_cells, line_figure, lines_of, unsigned
from experiments.interpolation.metrics import COPIED, FIRST, RANDOM, SECOND, STRAIGHT, Walks

Course = Literal["too few", "switch", "path", "neither", "slower", "not told"]
STRAIGHT_MARGIN = 0.1
"""Difference of a width from that of a straight line that does not matter: a course is called a path only where the
whole interval lies within it."""

_NAMES: dict[Course, str] = {
    "switch": "A switch, not a path",
    "path": "A path, not a switch",
    "neither": "Neither a path nor a switch",
    "slower": "Slower than a path",
    "not told": "Whether it is a path cannot be told",
}
_PLAINLY: dict[Course, str] = {
    "switch": "Between two prompts the answer switches",
    "path": "Between two prompts the answer changes as gradually as a straight line",
    "neither": "Between two prompts the answer changes faster than a straight line, and does not switch",
    "slower": "Between two prompts the answer changes more slowly than a straight line",
    "not told": "Whether the answer changes as gradually as a straight line cannot be told",
}


def verdict(walks: Walks) -> str:
    """Whether it is a path or a switch, in one plain sentence; empty where too little was recorded."""
    way = walks.ways[0]
    width, begin, end = (walks.transitions.mean((quantity, way)) for quantity in ("width", "begin", "end"))
    if not (width and begin and end):
        return ""
    course = _course(width)
    said = (
        f"{counted(width.items, 'pair')} of prompts {'is' if width.items == 1 else 'are'} too few to tell a path from "
        "a switch"
        if course == "too few"
        else _PLAINLY[course]
    )
    return (
        f"{said}: the change from the first prompt's answer to the second's falls mostly (80% of it) between "
        f"{begin.estimate:.0%} and {end.estimate:.0%} of the way."
    )


def _course(width: Interval) -> Course:
    """What the mean width of the transitions says, by its interval."""
    if width.items < MIN_ITEMS:
        return "too few"
    if width.high < STRAIGHT_WIDTH / 2:
        return "switch"
    if width.low >= STRAIGHT_WIDTH - STRAIGHT_MARGIN and width.high <= STRAIGHT_WIDTH + STRAIGHT_MARGIN:
        return "path"
    if width.high < STRAIGHT_WIDTH:
        return "neither"
    return "slower" if width.low > STRAIGHT_WIDTH else "not told"


def finding(walks: Walks) -> str:
    """Whether it is a path or a switch, and where, in words."""
    way = walks.ways[0]
    width, begin, middle, end, slope = (
        walks.transitions.mean((quantity, way)) for quantity in ("width", "begin", "middle", "end", "slope")
    )
    if not (width and begin and middle and end and slope):
        return (
            "Too little was recorded to follow a path between prompts: a transition needs answers to both ends at "
            f"{MIN_STEPS} steps or more."
        )
    pairs, course = counted(width.items, "pair"), _course(width)
    said = f"{pairs} cannot tell a path from a switch" if course == "too few" else _NAMES[course]
    measure = "likelihood" if walks.likelihood else "similarity of the answers given"
    text = (
        f"{said}: between two prompts ({pairs}, {way}) the {measure} changes from the first's answer to "
        f"the second's between t {begin.estimate:.2f} and {end.estimate:.2f}, half of it by t {middle:.2f}. That is a "
        f"width of {width:.2f}, where a straight line has {STRAIGHT_WIDTH:g}, and {slope:.1f} times its slope"
    )
    away, own = walks.leaving.mean(("width", RANDOM)), walks.leaving.mean(("width", way))
    if away and own:
        text += (
            f". The first answer is lost within {own:.2f} on the path to the other prompt and within {away:.2f} on the "
            "path to random rows, at the same positions"
        )
    copied, nearer = (walks.transitions.mean(("nearer answer", path)) for path in (COPIED, way))
    if copied and nearer:
        text += (
            f". Half-way, the likelier of the two answers has {unsigned(nearer.estimate)}"
            f"{' nats per token' if walks.likelihood else ''}, and {unsigned(copied.estimate)} with whole prompts "
            "padded with zeros"
        )
    return f"{text}."


def ways_table(walks: Walks) -> Table:
    """Each method: its transition, and its middle."""
    quantities = ("begin", "middle", "end", "width", "slope", "nearer answer", "distance")
    rows: list[list[Cell]] = []
    for path in walks.paths:
        means = [walks.transitions.mean((quantity, path)) for quantity in quantities]
        if any(means):
            rows.append([path, *means])
    unit = "nats per token" if walks.likelihood else "similarity"
    return Table(
        ("Method", "10% at t", "50% at t", "90% at t", "Width", "Slope",
         f"Nearer answer at the middle, {unit}", "Distance to the vocabulary at the middle"),
        rows,
        "The transition from the first answer to the second, pair by pair; a straight line has a width of 0.8 and a "
        "slope of 1. Means over pairs; 95% bootstrap intervals in small print.",
    )  # fmt: skip


def effects_table(walks: Walks) -> Table:
    """The first method against a straight line, and every other method against the first."""
    way = walks.ways[0]
    compared = [
        ("width", STRAIGHT, way),
        ("slope", STRAIGHT, way),
        *(
            (quantity, way, path)
            for path in walks.paths[1:]
            for quantity in ("width", "middle", "nearer answer", "distance")
        ),
    ]
    effects = {
        each: effect
        for each in compared
        if (effect := walks.transitions.effect((each[0], each[1]), (each[0], each[2]))) is not None
    }
    rows: list[list[Cell]] = [
        [
            f"{after} against {before}",
            quantity,
            *effect_cells(walks.transitions, (quantity, before), (quantity, after)),
        ]
        for quantity, before, after in effects
    ]
    adjusted = holm([effect.p_value for effect in effects.values()])
    return Table(
        ("Compared", "In", "Difference", "Effect size", "p", "p, Holm"),
        [[*row, f"{p_value:.2g}"] for row, p_value in zip(rows, adjusted, strict=True)],
        "Methods compared pair by pair. Mean difference with its 95% interval, effect size (mean over standard "
        "deviation of the differences) and p-value (Wilcoxon's signed-rank test), alone and corrected for all "
        "comparisons of this table (Holm).",
    )


def leaving_table(walks: Walks) -> Table:
    """How the first prompt's answer is lost on the path to another prompt and to random rows."""
    rows: list[list[Cell]] = []
    for path in (walks.ways[0], RANDOM):
        means = [walks.leaving.mean((quantity, path)) for quantity in ("begin", "middle", "end", "width")]
        if any(means):
            rows.append([path, *means])
    return Table(
        ("Path", "10% lost at t", "50% lost at t", "90% lost at t", "Width"),
        rows,
        "How the first prompt's answer is lost. Its likelihood, from its value at t 0 to that at t 1, read at the "
        "same positions of both paths. Does the transition come from arriving at another prompt, or from leaving the "
        "first?",
    )


def kinds_table(walks: Walks, kinds: Sequence[str]) -> Table:
    """The first method's transition by kind of pair."""
    rows: list[list[Cell]] = []
    for kind in dict.fromkeys(kinds):
        own = Measure(
            {
                place: kept
                for place, items in walks.transitions.values.items()
                if (kept := {pair: value for pair, value in items.items() if kinds[pair] == kind})
            }
        )
        means = [own.mean((quantity, walks.ways[0])) for quantity in ("middle", "width", "slope")]
        if (width := means[1]) is not None:
            rows.append([kind, width.items, *means])
    return Table(
        ("Kind of pair", "Pairs", "50% at t", "Width", "Slope"),
        rows,
        f"The transition by kind of pair ({walks.ways[0]}).",
    )


def places_table(walks: Walks) -> Table:
    """The measures at every position of the first method and of the controls."""
    rows: list[list[Cell]] = []
    for path in (walks.ways[0], COPIED, RANDOM):
        for side in (FIRST, SECOND):
            for t, place in sorted(walks.places(path, side).items()):
                means = (walks.likelihood.mean(place), walks.similarity.mean(place))
                rows.append([path, side, f"{t:g}", *means])
    return Table(
        ("Path", "Whose answer", "t", "Log-likelihood, nats per token", "Similarity of the answer given"),
        rows,
        "Every position of the first method and of the controls. Means over pairs; 95% bootstrap intervals in small "
        "print.",
    )


def figures(walks: Walks) -> list[Figure]:
    """Likelihoods, progress of the transition, similarity and distance to the vocabulary, along the paths."""
    way = walks.ways[0]
    ends = {
        "first prompt's answer": (way, FIRST),
        "second prompt's answer": (way, SECOND),
        "first, on the path to random rows": (RANDOM, FIRST),
        "second, on the path to random rows": (RANDOM, SECOND),
    }
    paths = {path: (path,) for path in (*walks.ways, COPIED, RANDOM)}
    shown = (
        (walks.likelihood, ends, "log-likelihood, nats per token",
         f"Log-likelihood of each end's own greedy answer along the path ({way})."),
        (walks.progress, paths, "share of the transition",
         "The difference of the two answers' likelihoods, second less first, from 0 at the first prompt to 1 at the "
         "second, mean over pairs. On a straight line from corner to corner, likelihood would be linear in t."),
        (walks.similarity, ends, "similarity in meaning",
         f"Cosine similarity (of sentence vectors) of the answer given on the path ({way}) to each end's own."),
        (walks.distance, paths, "distance to the vocabulary",
         "Euclidean distance of the content rows to the nearest row of the vocabulary; zero-padded prompts: of "
         "all rows."),
    )  # fmt: skip
    greys = {RANDOM: "the path to random rows", COPIED: "whole prompts padded with zeros"}
    drawn = []
    for measure, names, label, caption in shown:
        curves = {name: measure.curve(walks.places(*place)) for name, place in names.items()}
        controls = [name for name, place in names.items() if place[0] in (COPIED, RANDOM)]
        if lines := lines_of(curves, controls, bands=names is ends):
            grey = [what for path, what in greys.items()
                    if any(line.control and names[line.label][0] == path for line in lines)]  # fmt: skip
            said = f"{caption} Grey: {' and '.join(grey)}." if grey else caption
            drawn.append(
                line_figure(
                    lines, x_label="position t on the path", y_label=label, caption=said, over="pairs"
                )
            )
    return drawn
