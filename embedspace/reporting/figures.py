"""Figures for reports: SVG whose colours are the page's CSS variables, so that they follow light and dark."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from embedspace.metrics import MIN_ITEMS, Interval

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK, FAINT, PAPER = "#010101", "#020202", "#030303"
SERIES = ("#040401", "#040402", "#040403", "#040404", "#040405", "#040406")
CONTROL = "#040407"
"""Placeholder colours that no palette uses: each is replaced by a CSS variable of the report's page."""

_VARIABLES = {
    INK: "var(--ink)",
    FAINT: "var(--rule)",
    PAPER: "var(--card)",
    CONTROL: "var(--control)",
    **{colour: f"var(--series-{number})" for number, colour in enumerate(SERIES, start=1)},
}

_MAX_TICKS = 11

MARKERS = ("o", "s", "D", "^", "v", "P")


@dataclass(frozen=True)
class Figure:
    """A drawing with the sentence that says what it shows."""

    svg: str
    """An element of a report's page, whose style sheet gives its colours and font."""
    caption: str

    def stand_alone(self) -> str:
        """The drawing as an SVG file of its own, in the report's colours, light or dark as its reader's page is."""
        from importlib.resources import files

        style = files("embedspace").joinpath("reporting", "templates", "report.css").read_text()
        palette = style[: style.index("* {")]
        own = f"<style>{palette}svg {{ background: var(--card); font-family: var(--sans); }}</style>"
        head, body = self.svg.split(">", 1)
        return f'{head} xmlns="http://www.w3.org/2000/svg">\n{own}{body}\n'


@dataclass(frozen=True)
class Line:
    """A measure along an axis, with intervals."""

    label: str
    """For the legend; empty for one of several lines that share an entry."""
    points: Mapping[float, Interval]
    """Position on the axis -> measure."""
    control: bool = False
    """Drawn in grey and dashed: what the other lines are to be compared with."""
    band: bool = True
    """Whether the intervals are drawn; many bands over each other hide what they show."""


def lines_of(
    curves: Mapping[str, Mapping[float, Interval]], controls: Collection[str] = (), *, bands: bool = True
) -> list[Line]:
    """A line for each curve of at least two points; controls are drawn without a band.

    >>> curve = {1.0: Interval(0.5, 0.4, 0.6, 9), 2.0: Interval(0.7, 0.6, 0.8, 9)}
    >>> [(line.label, line.control) for line in lines_of({"own": curve, "random": curve, "dot": {}}, ["random"])]
    [('own', False), ('random', True)]
    """
    return [
        Line(label, points, label in controls, bands and label not in controls)
        for label, points in curves.items()
        if len(points) > 1
    ]


def line_figure(
    lines: Sequence[Line],
    *,
    x_label: str,
    y_label: str,
    caption: str,
    over: str = "",
    levels: Mapping[str, Interval] | None = None,
    log_x: bool = False,
    log_y: bool = False,
) -> Figure:
    """Measures along an axis, their 95% intervals as bands, and reference levels.

    Args:
        lines: what is drawn.
        x_label: of the axis.
        y_label: of the measure.
        caption: what the figure shows.
        over: what the intervals are over, such as ``questions``; the caption then says which intervals are drawn.
        levels: name of a condition that has no place on the axis -> its measure.
        log_x: whether each step of the axis doubles.
        log_y: whether each step of the measure multiplies by ten.

    >>> line = Line("style", {0.0: Interval(0.1, 0.0, 0.2, 9), 1.0: Interval(0.5, 0.4, 0.6, 9)})
    >>> figure = line_figure([line], x_label="alpha", y_label="nats", caption="Likelihood by strength.")
    >>> figure.svg[:15], figure.caption
    ('<svg role="img"', 'Likelihood by strength.')
    """

    def draw(axes: Axes) -> None:
        colours = iter(SERIES)
        for number, line in enumerate(lines):
            _draw_line(axes, line, CONTROL if line.control else next(colours), MARKERS[number % len(MARKERS)])
        for number, ((name, level), colour) in enumerate(zip((levels or {}).items(), colours, strict=False)):
            _draw_level(axes, name, level, colour, number)
        positions = sorted({x for line in lines for x in line.points})
        if log_x:
            axes.set_xscale("log", base=2)
            axes.minorticks_off()
        if log_y:
            axes.set_yscale("log")
        if len(positions) <= _MAX_TICKS:
            axes.set_xticks(positions, [f"{x:g}".replace("-", "\u2212") for x in positions])
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)

    bands = [interval for line in lines if line.band for interval in line.points.values()]
    return Figure(
        _svg(draw, caption), caption + _interval_note(over, Bands=bands, bars=(levels or {}).values())
    )


def _interval_note(over: str, **kinds: Iterable[Interval]) -> str:
    """Which intervals are drawn; none are where there are too few items.

    >>> _interval_note("questions", Bands=[Interval(0.5, 0.4, 0.6, 12)], bars=[Interval.unknown(0.5, 12)])
    ' Bands are 95% intervals over questions.'
    >>> _interval_note("questions", Bands=[Interval.unknown(0.5, 3)])
    ' Too few questions for intervals.'
    """
    found = {name: list(intervals) for name, intervals in kinds.items()}
    if not over or not any(found.values()):
        return ""
    drawn = [name for name, intervals in found.items() if any(interval.known for interval in intervals)]
    if drawn:
        said = " and ".join(drawn)
        return f" {said[:1].upper()}{said[1:]} are 95% intervals over {over}."
    few = max(interval.items for intervals in found.values() for interval in intervals) < MIN_ITEMS
    return f" Too few {over} for intervals." if few else ""


def _draw_line(axes: Axes, line: Line, colour: str, marker: str) -> None:
    xs = sorted(line.points)
    shown = [line.points[x] for x in xs]
    if line.band:  # where there are no bounds (NaN), nothing is drawn
        lows, highs = [i.low for i in shown], [i.high for i in shown]
        axes.fill_between(xs, lows, highs, color=colour, alpha=0.16, linewidth=0)
    axes.plot(
        xs,
        [i.estimate for i in shown],
        color=colour,
        label=line.label or "_unlisted",
        linewidth=2 if line.band else 1.2,
        markersize=5.5 if line.band else 3.5,
        marker=marker,
        linestyle=(0, (4, 2)) if line.control else "-",
    )


def _draw_level(axes: Axes, name: str, level: Interval, colour: str, number: int) -> None:
    axes.axhline(level.estimate, color=colour, linewidth=1.6, linestyle=(0, (1, 1.4)), label=name)
    # Its interval stands at the right edge, beside those of the other levels.
    at = 0.985 - 0.02 * number
    edge = axes.get_yaxis_transform()
    axes.plot([at, at], [level.low, level.high], color=colour, linewidth=3, alpha=0.55, transform=edge)


def dot_figure(
    values: Mapping[str, Interval],
    *,
    x_label: str,
    caption: str,
    over: str = "",
    controls: Sequence[str] = (),
    limits: tuple[float, float] | None = None,
) -> Figure:
    """One row for each named measure: the estimate as a dot, its 95% interval as a bar.

    Args:
        values: name -> measure.
        x_label: of the axis.
        caption: what the figure shows.
        over: what the intervals are over, such as ``questions``; the caption then says whether they are drawn.
        controls: names that are drawn in grey.
        limits: ends of the axis.

    >>> dot_figure({"own": Interval(0.5, 0.4, 0.6, 9)}, x_label="share", caption="Recall.").caption
    'Recall.'
    """

    coloured = sum(name not in controls for name in values)

    def draw(axes: Axes) -> None:
        # More rows than colours have one colour.
        colours = iter(SERIES if coloured <= len(SERIES) else itertools.repeat(SERIES[0]))
        for row, (name, interval) in enumerate(values.items()):
            colour = CONTROL if name in controls else next(colours)
            axes.plot(
                [interval.low, interval.high], [row, row], color=colour, linewidth=3, solid_capstyle="round"
            )
            axes.plot(
                [interval.estimate], [row], color=colour, marker=MARKERS[row % len(MARKERS)], markersize=9,
                markeredgecolor=PAPER, markeredgewidth=1.2,
            )  # fmt: skip
        axes.set_yticks(range(len(values)), list(values))
        axes.set_ylim(len(values) - 0.4, -0.6)
        if limits is not None:
            margin = 0.03 * (limits[1] - limits[0])
            axes.set_xlim(limits[0] - margin, limits[1] + margin)
        axes.set_xlabel(x_label)

    note = _interval_note(over, Bars=values.values())
    return Figure(_svg(draw, caption, height=1.1 + 0.42 * len(values)), caption + note)


def _svg(draw: Callable[[Axes], None], salt: str, *, height: float = 3.5) -> str:
    """SVG that depends on nothing but the drawing: no dates, no random ids."""
    import matplotlib

    style: Any = {
        "svg.fonttype": "none",
        "svg.hashsalt": salt,
        "font.family": "sans-serif",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": FAINT,
        "axes.labelcolor": INK,
        "xtick.color": INK,
        "ytick.color": INK,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": FAINT,
        "grid.linewidth": 0.7,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "legend.frameon": False,
    }
    # The object interface needs no backend and keeps no global state.
    from matplotlib.figure import Figure as Canvas

    with matplotlib.rc_context(style):
        canvas = Canvas(figsize=(5.6, height), layout="constrained")
        axes = canvas.add_subplot()
        draw(axes)
        axes.tick_params(length=0)
        handles, labels = axes.get_legend_handles_labels()
        if labels:
            columns = 1 if max(map(len, labels)) > 26 else 2
            lines = -(-len(labels) // columns)
            canvas.set_figheight(height + 0.2 * max(0, lines - 2))  # the axes keep their room
            canvas.legend(handles, labels, loc="outside upper left", ncols=columns)
        drawn = io.StringIO()
        canvas.savefig(drawn, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _inlined(drawn.getvalue(), salt)


def _inlined(svg: str, label: str) -> str:
    """A stand-alone SVG file as an element of a page: no header, no unused ids, the page's colours and font."""
    import html

    body = svg[svg.index("<svg") :]
    body = re.sub(r"<(metadata|style)\b.*?</\1>\s*", "", body, flags=re.DOTALL)
    body = re.sub(r'\s+xmlns(:\w+)?="[^"]*"', "", body).replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="#|url\(#)([^")]+)', body))
    body = re.sub(r'\s+id="([^"]*)"', lambda match: match[0] if match[1] in used else "", body)
    body = re.sub(r'font-family: [^;"]*;? ?', "", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    body = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", body, count=1)
    return body.replace("<svg ", f'<svg role="img" aria-label="{html.escape(label)}" ', 1).strip()
