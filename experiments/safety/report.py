"""What is written about the shipped filter: the page of evidence, and the card beside its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval, share_interval
from experiments.safety.data import sources
from experiments.safety.metrics import SHIPPED, Measured
from experiments.safety.packages import PINS
from experiments.safety.shipped_filter import LIMITS, SEALED

if TYPE_CHECKING:
    from embedspace import SafetyFilter

CARD = """---
license: apache-2.0
library_name: embedspace
---
# smollm2-injection

Separates prompts that try to take over an assistant (jailbreaks, injections, requests for its instructions and
secrets) from benign ones. A prompt is given as vectors in the input embedding space of `smollm2-135m-instruct` or
as text. Layers: {layers}. Made by `make guard`; the threshold {threshold:.3f} is for a
false-positive rate of at most {rate:g}.

## Metrics

On texts of sealed sources, at that threshold, with 95% intervals. {split}

| measure | figure | texts |
| --- | --- | --- |
{figures}
All figures, by source and compared with simpler methods: `{page}`.

## Data

The texts are read from packages and not copied; only weights and sentence vectors are stored.

| source | package | licence | side | use |
| --- | --- | --- | --- | --- |
{sources}
## Limits

{limits}
"""


def headline(guard: SafetyFilter, own: Measured) -> dict[str, Interval]:
    """The figures that the filter is known by, at its own threshold."""
    assert guard.threshold is not None
    refused = int((own.rest > guard.threshold).sum())
    return {
        "AUROC, direct attacks against all benign texts": own.auroc(),
        "direct attacks refused": own.refused("attack", guard.threshold),
        "attacks phrased politely in documents and tool results refused": own.refused(
            "attack", guard.threshold, hard=True
        ),
        "benign texts allowed": own.allowed(guard.threshold),
        "hard benign texts allowed": own.allowed(guard.threshold, hard=True),
        "direct attacks of sources evaluated for the first time refused": own.refused(
            "attack", guard.threshold, first_look=True
        ),
        "hard benign texts of sources evaluated for the first time allowed": own.allowed(
            guard.threshold, hard=True, first_look=True
        ),
        "fresh benign texts of the calibration sources refused": share_interval(refused, len(own.rest)),
    }


def evidence(guard: SafetyFilter, measured: Mapping[str, Measured]) -> str:
    """All figures, in Markdown."""
    own, calibration = measured[SHIPPED], guard.calibration
    assert calibration is not None
    figures = [["measure", "figure", "texts"]]
    figures += [[name, f"{value:.3f}", str(value.items)] for name, value in headline(guard, own).items()]
    return "\n".join([
        "## The filter at its threshold\n", _markdown(figures),
        "## Compared with simpler methods\n", _markdown(_ways(measured)),
        "Direct attacks against all benign texts of sealed sources. The threshold of each method is calibrated on the "
        "same benign texts.\n",
        "## By source\n", _markdown(_by_source(guard, own)),
        "*Earlier evaluations* is how often the source was evaluated for earlier filters.\n",
        "## Calibration\n",
        f"The threshold {guard.threshold:.3f} was found on {calibration.prompts} benign texts for a rate of at most "
        f"{calibration.rate:g}; its true rate lies between {calibration.low:.4f} and {calibration.high:.4f} with 95% "
        "confidence. The first table gives the share that it refuses of as many fresh texts of the same sources.\n",
    ])  # fmt: skip


def _ways(measured: Mapping[str, Measured]) -> list[list[str]]:
    rates = ["recall at 1%", "recall at 5%", "benign allowed at 1%", "hard benign allowed at 1%"]
    rows = [["method", "AUROC", *rates]]
    for name, way in measured.items():
        strict, loose = way.threshold(0.01), way.threshold(0.05)
        rows.append([
            name, f"{way.auroc():.3f}",
            f"{way.refused('attack', strict):.2f}", f"{way.refused('attack', loose):.2f}",
            f"{way.allowed(strict):.3f}", f"{way.allowed(strict, hard=True):.3f}",
        ])  # fmt: skip
    return rows


def _by_source(guard: SafetyFilter, own: Measured) -> list[list[str]]:
    assert guard.threshold is not None
    rows = [["source", "side", "earlier evaluations", "texts", "refused at 1%", "refused at 5%"]]
    for source in dict.fromkeys(example.source for example in own.examples):
        picked = [example.source == source for example in own.examples]
        rows.append([
            f"{source.name} ({source.package})", ("hard " if source.hard else "") + source.side, str(source.looks),
            str(sum(picked)), f"{own.share(picked, guard.threshold):.2f}",
            f"{own.share(picked, own.threshold(0.05)):.2f}",
        ])  # fmt: skip
    return rows


def as_page(tables: str, origin: Mapping[str, object]) -> str:
    """The page of evidence."""
    return (
        "# What the shipped filter refuses\n\n"
        f"`smollm2-injection` on texts of sealed sources. {SEALED} Made by "
        f"`python experiments/run.py experiment=safety`: {describe_origin(origin)}. "
        f"Brackets are 95% intervals. {LIMITS}\n\n"
        f"{tables}"
    )


def as_card(guard: SafetyFilter, own: Measured, page: str) -> str:
    """The model card beside the weights."""
    assert guard.threshold is not None
    assert guard.calibration is not None
    figures = [f"| {name} | {value:.3f} | {value.items} |\n" for name, value in headline(guard, own).items()]
    rows = [
        f"| {s.name} | {s.package} {PINS.get(s.package, ('', ''))[1]} | {s.licence} | "
        f"{'hard ' if s.hard else ''}{s.side} | {s.use} |\n"
        for s in sources()
    ]
    return CARD.format(
        layers=", ".join(layer.name for layer in guard.layers),
        threshold=guard.threshold,
        rate=guard.calibration.rate,
        split=SEALED,
        figures="".join(figures),
        page=page,
        sources="".join(rows).replace("none  ", "this project "),
        limits=LIMITS,
    )


def _markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *body)]
    return "\n".join(lines) + "\n"
