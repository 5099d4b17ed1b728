"""The evidence page of the shipped filter, and the model card beside its weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from embedspace._util.markdown import markdown_table
from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval, recall_difference
from experiments.safety.acceptance import LENGTHS, POSITIONS
from experiments.safety.data import sources
from experiments.safety.goals import goals_table
from experiments.safety.metrics import SHIPPED, TFIDF, Measured, Selection
from experiments.safety.obfuscations import OBFUSCATIONS
from experiments.safety.packages import PINS
from experiments.safety.selections import (
    attacks,
    benign,
    diluted,
    diluted_where_allowed,
    kinds_of,
    other_languages,
    undisguised,
    written,
)
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
as text. Layers: {layers}. Made by `make guard`; calibrated for a false-positive rate of at most {rate:g} in each class
of lengths.

## Metrics

{split}

{figures}
All figures, by kind, language, length and disguise, and compared with simpler methods: `{page}`.

## Data

The texts are read from packages and from this project's patterns; only weights are stored.

{sources}
## Limits

{limits}
"""


def evidence(
    guard: SafetyFilter, measured: Mapping[str, Measured], beside: Mapping[str, Measured], speed: str
) -> str:
    """All figures, in Markdown.

    Args:
        guard: the shipped filter.
        measured: by method; the filter first.
        beside: the same on a part of the texts, with a published guard network; may be empty.
        speed: a sentence on the time of a text.
    """
    own = measured[SHIPPED]
    assert guard.calibration is not None
    return "\n".join(
        [
            "## What was to be reached\n",
            goals_table(own),
            "AUROC of all attacks, diluted and disguised ones included, against all benign texts: "
            f"{own.auroc(attacks, benign):.3f} (to reach: 0.92).\n",
            "## Benign texts by kind\n",
            _kinds_table(own, "benign", own.allowed, "allowed"),
            "*encoded* texts have codes, keys, emoji and odd writing in them for honest reasons.\n",
            "## Attacks by kind\n",
            _kinds_table(own, "attack", own.refused, "refused"),
            "## By language\n",
            _languages_table(own),
            "## Attacks inside documents\n",
            _diluted_table(own),
            "Each document is one unit, and so is each attack over its places. A document that is refused without an "
            "attack says nothing of the attack in it.\n",
            "## Disguised attacks\n",
            _disguises_table(own),
            "## Texts of sealed packages\n",
            _sources_table(own),
            "## Compared with simpler methods\n",
            _methods_table(measured),
            "Written texts and those of sealed packages. Every method has thresholds for each class of lengths, "
            "calibrated on the same benign texts. *Difference*: recall of the filter less the method's, both at a "
            "false-positive rate of 1% over the kinds and sources, which are the units.\n",
            *_beside(beside),
            "## Calibration\n",
            _classes_table(guard),
            "The bounds hold for texts that are exchangeable with those; the tables above are of other kinds and "
            "sources. "
            f"Of {len(own.fresh)} other texts of the calibration's kinds it allows {own.allowed_fresh:.3f}. {speed}\n",
        ]
    )


def _beside(measured: Mapping[str, Measured]) -> list[str]:
    if not measured:
        return []
    return [
        "## With a guard network\n",
        _methods_table(measured),
        f"On {len(measured[SHIPPED].texts)} of these texts. The network is NanoGuard (package "
        "`metatronnanoguard`, MIT, 16.8 million parameters), trained by others on public collections, of which texts "
        "like those of sealed packages may be a part.\n",
    ]


def _kinds_table(own: Measured, side: str, share: Callable[[Selection], Interval], verb: str) -> str:
    rows = []
    for kind in sorted(kinds_of(own, side)):
        everywhere = share(written(side, kind))
        rows.append([kind, everywhere.items, f"{everywhere:.2f}"])
    return markdown_table(["kind", "texts", verb], rows)


def _languages_table(own: Measured) -> str:
    languages = dict.fromkeys(each.language for each in own.texts if each.part == "written")
    rows = []
    for language in languages:
        benign = own.allowed(written("benign", language=language))
        attacks = own.refused(written("attack", language=language)) if language != "encoded" else None
        rows.append(
            [
                language,
                benign.items,
                f"{benign:.2f}",
                attacks.items if attacks else "",
                f"{attacks:.2f}" if attacks else "",
            ]
        )
    return markdown_table(["language", "benign texts", "allowed", "attacks", "refused"], rows)


def _diluted_table(own: Measured) -> str:
    rows = []
    for length in LENGTHS:
        found = [own.refused(diluted(f"{length:,} tokens, {position}")) for position in POSITIONS]
        form = f"{length:,} tokens"
        controls = own.allowed(diluted(form, "benign"))
        where = diluted_where_allowed(own, form)
        clean = f"{own.refused(where):.2f}" if any(map(where, own.texts)) else ""
        rows.append([f"{length:,}", *(f"{each:.2f}" for each in found), clean, f"{controls:.2f}"])
    return markdown_table(
        [
            "tokens",
            *(f"refused, attack at the {position}" for position in POSITIONS),
            "refused, in documents that are allowed without it",
            "the same documents without an attack, allowed",
        ],
        rows,
    )


def _disguises_table(own: Measured) -> str:
    found = {
        form: own.refused(lambda each, form=form: each.part == "obfuscated" and each.form == form)
        for form in OBFUSCATIONS
    }
    ordered = sorted(found.items(), key=lambda pair: -pair[1].estimate)
    return markdown_table(
        ["disguise", "attacks", "refused"],
        [[form, share.items, f"{share:.2f}"] for form, share in ordered],
    )


def _sources_table(own: Measured) -> str:
    looks = {source.name: source.looks for source in sources()}
    rows = []
    for name in dict.fromkeys(each.kind for each in own.texts if each.part == "packages"):
        found = own.refused(lambda each, name=name: each.part == "packages" and each.kind == name)
        side = next(each.side for each in own.texts if each.part == "packages" and each.kind == name)
        rows.append([name, side, looks[name], found.items, f"{found:.2f}"])
    return markdown_table(["source", "class", "earlier evaluations", "texts", "refused"], rows)


def _methods_table(measured: Mapping[str, Measured]) -> str:
    attacks, benign = undisguised("attack"), undisguised("benign")
    rows, own = [], measured[SHIPPED].by_source(attacks, benign)
    for name, method in measured.items():
        other = method.by_source(attacks, benign)
        difference = "" if name == SHIPPED else f"{recall_difference(own, other, 0.01):.2f}"
        rows.append(
            [
                name,
                f"{method.auroc(attacks, benign):.3f}",
                f"{method.refused(attacks):.2f}",
                f"{method.allowed(benign):.3f}",
                difference,
            ]
        )
    return markdown_table(["method", "AUROC", "attacks refused", "benign texts allowed", "difference"], rows)


def _classes_table(guard: SafetyFilter) -> str:
    assert guard.calibration is not None
    return markdown_table(
        ["rows of a prompt", "benign texts", "threshold", "refused of new benign texts of these kinds"],
        [
            [
                "more" if each.most_rows is None else f"up to {each.most_rows}",
                each.prompts,
                f"{each.threshold:.3f}",
                f"{each.low:.4f} to {each.high:.4f}",
            ]
            for each in guard.calibration.classes
        ],
    )


def as_page(tables: str, origin: Mapping[str, object]) -> str:
    """The page of evidence."""
    return (
        "# What the shipped filter refuses\n\n"
        f"`smollm2-injection` on texts that it was neither fitted nor calibrated on. {SEALED} Made by "
        f"`python experiments/run.py experiment=safety`: {describe_origin(origin)}. "
        f"Brackets are 95% intervals: Wilson's of shares of texts, a bootstrap over kinds of their mean, and over "
        f"attacks where each is hidden in several places. {LIMITS}\n\n"
        f"{tables}"
    )


def caveats(measured: Mapping[str, Measured]) -> str:
    """What the card says of long documents, of other languages and of the simplest method that learns."""
    own, simple = measured[SHIPPED], measured[TFIDF]
    documents = own.allowed(diluted(f"{LENGTHS[-1]:,} tokens", "benign"))
    sides = undisguised("attack"), undisguised("benign")
    more = recall_difference(own.by_source(*sides), simple.by_source(*sides), 0.01)
    if more.low > 0:
        compared = f"its recall is higher than that of {TFIDF}"
    elif more.high < 0:
        compared = f"its recall is lower than that of {TFIDF}"
    else:
        compared = f"it cannot be told from {TFIDF}"
    return (
        f"It refuses {1 - documents.estimate:.0%} of {documents.items} documents of {LENGTHS[-1]:,} tokens without an "
        f"attack, and {own.refused(other_languages).estimate:.0%} of the attacks in other languages than English. At "
        f"an equal false-positive rate of 1% {compared} on the same training texts (difference {more:.2f})."
    )


def as_card(guard: SafetyFilter, measured: Mapping[str, Measured], page: str) -> str:
    """The model card beside the weights."""
    assert guard.calibration is not None
    return CARD.format(
        layers=", ".join(layer.name for layer in guard.layers),
        rate=guard.calibration.rate,
        split=SEALED,
        figures=goals_table(measured[SHIPPED]),
        page=page,
        sources=_texts_table(),
        limits=f"{LIMITS} {caveats(measured)}",
    )


def _texts_table() -> str:
    """The sources with their licences; this project's own patterns in one row for each kind."""
    rows: dict[tuple[str, ...], list[str]] = {}
    for source in sources():
        own = source.own
        package = "this project" if own else f"{source.package} {PINS[source.package][1]}"
        side = f"{'hard ' if source.hard else ''}{source.side}"
        name = f"own patterns, {source.kind}" if own else source.name
        rows.setdefault((name, package, source.licence, side, source.use), []).append(source.language)
    return markdown_table(
        ["source", "package", "licence", "class", "use", "languages"],
        [[*row, ", ".join(dict.fromkeys(languages))] for row, languages in rows.items()],
    )
