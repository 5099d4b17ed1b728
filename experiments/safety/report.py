"""The evidence page of the shipped filter, and the model card beside its weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from embedspace._util.markdown import markdown_table
from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval, share_interval
from experiments.safety.data import sources
from experiments.safety.metrics import SHIPPED, MethodScores
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

{figures}
All figures, by source and compared with simpler methods: `{page}`.

## Data

The texts are read from packages and not copied; only weights and sentence vectors are stored.

{sources}
## Limits

{limits}
"""


def headline(guard: SafetyFilter, own: MethodScores) -> dict[str, Interval]:
    """The main figures of the filter, at its own threshold."""
    assert guard.threshold is not None
    refused = int((own.held_out > guard.threshold).sum())
    return {
        "AUROC, direct attacks against all benign texts": own.auroc(),
        "direct attacks refused": own.refused("attack", guard.threshold),
        "attacks phrased politely in documents and tool results refused": own.refused(
            "attack", guard.threshold, hard=True
        ),
        "benign texts allowed": own.allowed(guard.threshold),
        "hard benign texts allowed": own.allowed(guard.threshold, hard=True),
        "direct attacks of sources evaluated for the first time refused": own.refused(
            "attack", guard.threshold, unseen=True
        ),
        "hard benign texts of sources evaluated for the first time allowed": own.allowed(
            guard.threshold, hard=True, unseen=True
        ),
        "fresh benign texts of the calibration sources refused": share_interval(refused, len(own.held_out)),
    }


def evidence(guard: SafetyFilter, measured: Mapping[str, MethodScores]) -> str:
    """All figures, in Markdown."""
    own, calibration = measured[SHIPPED], guard.calibration
    assert calibration is not None
    assert guard.threshold is not None
    return "\n".join([
        "## The filter at its threshold\n", _headline_table(guard, own),
        "## Compared with simpler methods\n", _methods_table(measured),
        "Direct attacks against all benign texts of sealed sources. The threshold of each method is calibrated on the "
        "same benign texts.\n",
        "## By source\n", _sources_table(guard, own),
        "*Earlier evaluations* is how often the source was evaluated for earlier filters.\n",
        "## Calibration\n",
        f"The threshold {guard.threshold:.3f} was found on {calibration.prompts} benign texts for a rate of at most "
        f"{calibration.rate:g}; its true rate lies between {calibration.low:.4f} and {calibration.high:.4f} with 95% "
        "confidence, for texts that are exchangeable with those; the share of benign texts of sealed sources that it "
        f"refuses is {1 - own.allowed(guard.threshold).estimate:.1%}. The first table gives the share that it refuses "
        "of as many fresh texts of the same sources.\n",
    ])  # fmt: skip


def _headline_table(guard: SafetyFilter, own: MethodScores) -> str:
    rows = [(name, f"{value:.3f}", value.items) for name, value in headline(guard, own).items()]
    return markdown_table(["measure", "figure", "texts"], rows)


def _methods_table(measured: Mapping[str, MethodScores]) -> str:
    rates = ["recall at 1%", "recall at 5%", "benign allowed at 1%", "hard benign allowed at 1%"]
    rows = []
    for name, method in measured.items():
        strict, loose = method.threshold(0.01), method.threshold(0.05)
        rows.append([
            name, f"{method.auroc():.3f}",
            f"{method.refused('attack', strict):.2f}", f"{method.refused('attack', loose):.2f}",
            f"{method.allowed(strict):.3f}", f"{method.allowed(strict, hard=True):.3f}",
        ])  # fmt: skip
    return markdown_table(["method", "AUROC", *rates], rows)


def _sources_table(guard: SafetyFilter, own: MethodScores) -> str:
    assert guard.threshold is not None
    rows = []
    for source in dict.fromkeys(example.source for example in own.examples):
        picked = [example.source == source for example in own.examples]
        rows.append([
            f"{source.name} ({source.package})", ("hard " if source.hard else "") + source.side, source.looks,
            sum(picked), f"{own.share(picked, guard.threshold):.2f}",
            f"{own.share(picked, own.threshold(0.05)):.2f}",
        ])  # fmt: skip
    return markdown_table(
        ["source", "class", "earlier evaluations", "texts", "refused at 1%", "refused at 5%"], rows
    )


def as_page(tables: str, origin: Mapping[str, object]) -> str:
    """The page of evidence."""
    return (
        "# What the shipped filter refuses\n\n"
        f"`smollm2-injection` on texts of sealed sources. {SEALED} Made by "
        f"`python experiments/run.py experiment=safety`: {describe_origin(origin)}. "
        f"Brackets are 95% intervals. {LIMITS}\n\n"
        f"{tables}"
    )


def as_card(guard: SafetyFilter, own: MethodScores, page: str) -> str:
    """The model card beside the weights."""
    assert guard.threshold is not None
    assert guard.calibration is not None
    rows = [
        (
            s.name,
            f"{s.package} {PINS[s.package][1]}" if s.package in PINS else "this project",
            s.licence,
            f"{'hard ' if s.hard else ''}{s.side}",
            s.use,
        )
        for s in sources()
    ]
    return CARD.format(
        layers=", ".join(layer.name for layer in guard.layers),
        threshold=guard.threshold,
        rate=guard.calibration.rate,
        split=SEALED,
        figures=_headline_table(guard, own),
        page=page,
        sources=markdown_table(["source", "package", "licence", "class", "use"], rows),
        limits=LIMITS,
    )
