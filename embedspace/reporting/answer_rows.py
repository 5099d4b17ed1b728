"""The rows of compressed prompts beside their answers, with what was left out struck through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice

from embedspace.prompt import Recipe
from embedspace.reporting.listed_records import Place
from embedspace.runs import Record, Replayer, prompt_sha256
from embedspace.space import EmbeddingSpace, find_space, token_strip

MAX_STRIPS = 24
"""Prompts of a page whose rows are shown."""


def strips_of(records: Iterable[Record]) -> dict[Place, str]:
    """HTML of the rows of each compressed prompt that can be made again, bit for bit, without a model.

    Args:
        records: whose answers a page shows; the first ``MAX_STRIPS`` that have such a prompt get theirs.
    """
    return dict(islice(_strips(records), MAX_STRIPS))


def _strips(records: Iterable[Record]) -> Iterator[tuple[Place, str]]:
    for record in records:
        space = find_space(record.space)
        if space is not None and _is_cheap(record.recipe) and (strip := _strip(record, space)):
            yield (record.key, record.choice), strip


def _is_cheap(recipe: Recipe) -> bool:
    return recipe.operation == "compress" and not {"engine", "encoder"} & dict(recipe.parameters).keys()


def _strip(record: Record, space: EmbeddingSpace) -> str:
    try:
        prompt = Replayer(space, {}).prompt(record.recipe)
    except ValueError:  # a step of another version, or of a soft prompt that is not at hand
        return ""
    strip = token_strip(prompt, space)
    known = prompt_sha256(prompt) == record.prompt_sha256
    return strip.html() if known and any(row.dropped for row in strip.rows) else ""
