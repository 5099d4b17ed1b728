"""Section of the report that compares several projectors: over soft tokens, training sentences and heads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from embedspace.metrics import Interval, Measure
from embedspace.reporting import Cell, Figure, Section, Table, dot_figure, line_figure, lines_of
from embedspace.runs import Record
from experiments.projector.metrics import Trained, scores_of
from experiments.projector.report import percent


def curve_figures(
    kind: str, trained: Mapping[str, Trained], shares: Mapping[tuple[str, str], Interval]
) -> list[Figure]:
    """Over soft tokens at the most sentences, over sentences at one number of tokens, and over heads."""
    lines: dict[str, dict[str, Trained]] = {}
    for name, each in trained.items():
        if (kind, name) in shares:
            lines.setdefault(name.split("/")[0], {})[name] = each
    over_tokens: dict[str, dict[float, Interval]] = {}
    over_examples: dict[str, dict[float, Interval]] = {}
    heads: dict[str, Interval] = {}
    for line, members in lines.items():
        most = max(each.examples for each in members.values())
        points: dict[float, Interval] = {
            each.tokens: shares[kind, name] for name, each in members.items() if each.examples == most
        }
        over_tokens[line] = points
        heads[line] = max(points.values(), key=lambda share: share.estimate)
        sizes: dict[int, dict[float, Interval]] = {}
        for name, each in members.items():
            sizes.setdefault(each.tokens, {})[each.examples] = shares[kind, name]
        tokens, by_size = max(sizes.items(), key=lambda item: len(item[1]))
        over_examples[f"{line}, {tokens} tokens"] = by_size
    label = "share of the likelihood gain"
    figures = [
        line_figure(
            shown,
            x_label=axis,
            y_label=label,
            caption=f"{kind.capitalize()}: share of the text's likelihood gain that is recovered, over {axis}.",
            over="sentences",
            log_x=True,
        )
        for drawn, axis in ((over_tokens, "soft tokens"), (over_examples, "training sentences"))
        if (shown := lines_of(drawn))
    ]
    if len(heads) > 1:
        figures.append(
            dot_figure(
                heads,
                x_label=label,
                caption=f"{kind.capitalize()}: the best of each head at its most sentences.",
                over="sentences",
            )
        )
    return figures


def curves(kinds: Sequence[str], compared: int, nll: Measure, records: Sequence[Record]) -> Iterator[Section]:
    """Share recovered against soft tokens, training sentences and heads, where several projectors were measured.

    Args:
        kinds: of sentences.
        compared: sentences of each kind that every projector was measured on, the first.
        nll: of each sentence, by condition.
        records: all of the run.
    """
    trained = {
        str(record.tags["projector"]): Trained.of(record) for record in records if "tokens" in record.tags
    }
    if len(trained) < 2:
        return
    shares = {
        (kind, name): scores.gap_closed()
        for kind in kinds
        for name in trained
        if (scores := scores_of(nll, kind, name, most=compared)) is not None
    }
    rows: list[list[Cell]] = [
        [name, each.head, each.tokens, each.examples or "", *(shares.get((kind, name)) for kind in kinds)]
        for name, each in trained.items()
    ]
    best = max(shares, key=lambda place: shares[place].estimate, default=None)
    finding = "" if best is None else (
        f"Of {len(trained)} projectors, {best[1]} recovers most: {percent(shares[best])} of the text's likelihood gain "
        f"on {best[0]}."
    )  # fmt: skip
    yield Section(
        "Number of soft tokens, training sentences and head",
        finding,
        f"For every projector, on the first {compared} sentences of each kind: the share that its soft tokens recover "
        "of the likelihood gain that the text itself gives over the better control.",
        figures=[figure for kind in kinds for figure in curve_figures(kind, trained, shares)],
        tables=[
            Table(
                ("Projector", "Head", "Soft tokens", "Training sentences", *kinds),
                rows,
                "Share of the likelihood gain recovered; 95% bootstrap intervals over sentences in small print.",
            ).filled()
        ],
    )
