"""How the experiment on soft tokens tells what it found: sentences, figures and tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from embedspace.metrics import Interval, Measure
from embedspace.projector import ConditionScores
from embedspace.reporting import Cell, Figure, Line, Section, Table, dot_figure, line_figure, unsigned
from embedspace.runs import Record
from experiments.projector.metrics import MEAN, NOTHING, OWN, SHUFFLED, TEXT, Trained, scores_of


def percent(share: Interval) -> str:
    return f"{share.estimate:.0%} ({share.low:.0%} to {share.high:.0%})".replace("-", "\u2212")


def conditions_figure(means: Mapping[str, Interval]) -> Figure:
    return dot_figure(
        means,
        x_label="nats a token of the sentence",
        caption="What the sentence costs after each. Grey: the controls. Bars are 95% intervals over sentences.",
        controls=[NOTHING, SHUFFLED, MEAN],
    )


def conditions_table(scores: ConditionScores | None, means: Mapping[str, Interval]) -> Table:
    closed: dict[str, Cell] = {}
    if scores is not None:
        closed = {
            SHUFFLED: scores.gap_closed(SHUFFLED),
            NOTHING: scores.gap_closed(NOTHING),
            OWN: scores.gap_closed(),
        }
    rows: list[list[Cell]] = [
        [condition, mean, closed.get(condition, "")] for condition, mean in means.items()
    ]
    return Table(
        ("Given", "Nats a token", "Share of the gap to the text that its own soft tokens close"),
        rows,
        "The share beside a control is taken against that control, beside the own soft tokens against the better one; "
        "95% bootstrap intervals in small print.",
    )


def search_table(searched: Mapping[str, Interval], candidates: int) -> Table:
    rows: list[list[Cell]] = [[way, share] for way, share in searched.items()]
    rows.append(["by chance", 1 / candidates])
    return Table(
        ("Sentence chosen", "Share found"),
        rows,
        f"Which of {candidates} sentences is it? The one that is likeliest a token after the soft tokens, or the one "
        "whose likelihood they raise most over nothing. Wilson's 95% intervals in small print.",
    )


def answers_table(likeness: tuple[Measure, Measure]) -> Table:
    rows: list[list[Cell]] = []
    for condition in (NOTHING, SHUFFLED, OWN, TEXT):
        means = [measure.mean((condition,)) for measure in likeness]
        if any(means):
            rows.append([condition, *("" if mean is None else mean for mean in means)])
    return Table(
        ("Given", "Likeness in meaning", "Share of the sentence's words"),
        rows,
        "What the model writes beside the sentence: cosine of sentence vectors (of the encoder that the projector "
        "starts from, where it is MiniLM), and the share of the sentence's words of four or more letters.",
    )


def finding_of_answers(likeness: tuple[Measure, Measure]) -> str:
    own, other = (likeness[0].mean((condition,)) for condition in (OWN, SHUFFLED))
    if own is None or other is None:
        return "Too little was recorded to tell whether the model reads its sentence."
    return (
        f"What the model writes is like the sentence to {unsigned(own.estimate)} (cosine) given its own soft tokens "
        f"and to {unsigned(other.estimate)} given another's ({own.items} sentences)."
    )


def curve_figures(
    kind: str, trained: Mapping[str, Trained], shares: Mapping[tuple[str, str], Interval]
) -> list[Figure]:
    """Over soft tokens at the most sentences, over sentences at one number of tokens, and over heads."""
    lines: dict[str, dict[str, Trained]] = {}
    for name, each in trained.items():
        if (kind, name) in shares:
            lines.setdefault(name.split("/")[0], {})[name] = each
    over_tokens, over_examples, heads = [], [], {}
    for line, members in lines.items():
        most = max(each.examples for each in members.values())
        points: dict[float, Interval] = {
            each.tokens: shares[kind, name] for name, each in members.items() if each.examples == most
        }
        over_tokens.append(Line(line, points))
        heads[line] = max(points.values(), key=lambda share: share.estimate)
        sizes: dict[int, dict[float, Interval]] = {}
        for name, each in members.items():
            sizes.setdefault(each.tokens, {})[each.examples] = shares[kind, name]
        tokens, by_size = max(sizes.items(), key=lambda item: len(item[1]))
        over_examples.append(Line(f"{line}, {tokens} tokens", by_size))
    label = "share of the gap closed"
    figures = [
        line_figure(
            [line for line in drawn if len(line.points) > 1],
            x_label=axis,
            y_label=label,
            caption=f"{kind.capitalize()}: share of the gap to the text that is closed, over {axis}. Bands are 95% "
            "intervals over sentences.",
            log_x=True,
        )
        for drawn, axis in ((over_tokens, "soft tokens"), (over_examples, "training sentences"))
        if any(len(line.points) > 1 for line in drawn)
    ]
    if len(heads) > 1:
        figures.append(
            dot_figure(
                heads,
                x_label=label,
                caption=f"{kind.capitalize()}: the best of each head at its most sentences.",
            )
        )
    return figures


def curves(
    kinds: Sequence[str], compared: int, nats: Measure, records: Sequence[Record]
) -> Iterator[Section]:
    """Share closed against soft tokens, training sentences and heads, where several projectors were measured.

    Args:
        kinds: of sentences.
        compared: sentences of each kind that every projector was measured on, the first.
        nats: a token of each sentence, by place.
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
        if (scores := scores_of(nats, kind, name, most=compared)) is not None
    }
    rows: list[list[Cell]] = [
        [name, each.head, each.tokens, each.examples or "", *(shares.get((kind, name), "") for kind in kinds)]
        for name, each in trained.items()
    ]
    best = max(shares, key=lambda place: shares[place].estimate, default=None)
    finding = "" if best is None else (
        f"Of {len(trained)} projectors, {best[1]} closes most: {percent(shares[best])} of the gap on {best[0]}."
    )  # fmt: skip
    yield Section(
        "What the number of soft tokens, the training sentences and the head are worth",
        finding,
        f"The same measure, on the first {compared} sentences of each kind, for every projector: the share of the gap "
        "between the better control and the text that is closed.",
        figures=[figure for kind in kinds for figure in curve_figures(kind, trained, shares)],
        tables=[
            Table(
                ("Projector", "Head", "Soft tokens", "Training sentences", *kinds),
                rows,
                "Share of the gap closed; 95% bootstrap intervals over sentences in small print.",
            ).filled()
        ],
    )
