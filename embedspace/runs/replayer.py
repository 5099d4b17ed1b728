"""Replayer: makes prompts and style vectors again, step by step, from their recipes."""

from __future__ import annotations

import ast
import base64
import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from embedspace.compression import SALIENCE_VERSION, compress
from embedspace.distillation import SoftPrompt
from embedspace.encoders import SentenceEncoder
from embedspace.interpolation import blend, interpolate
from embedspace.metrics import mean_rows, noisy_rows, random_rows, shuffle_rows, zero_padded
from embedspace.prompt import PromptEmbeds, Recipe, mask_from_text, tensor_digest
from embedspace.space import EmbeddingSpace, embed_recorded_chat
from embedspace.style import StyleVector, examples, packaged_vectors

Parameters = Mapping[str, Any]
"""Parameters of a step."""


def shipped_vectors(space: EmbeddingSpace) -> list[StyleVector]:
    """The style vectors in this package that are of a space."""
    found = []
    for name in packaged_vectors():
        with contextlib.suppress(ValueError):  # of another model's space
            found.append(StyleVector.from_pretrained(name, space))
    return found


@dataclass(frozen=True)
class Replayer:
    """Makes prompts and style vectors from recipes."""

    space: EmbeddingSpace
    vectors: Mapping[str, StyleVector]
    """Style vectors at hand, by digest."""
    soft_prompts: Mapping[str, SoftPrompt] = field(default_factory=dict)
    """Soft prompts at hand, by digest."""

    def ids(self, recipe: Recipe) -> list[int] | None:
        """The token ids of a recipe that is nothing else; None for any other."""
        if recipe.operation != "token_ids":
            return None
        return [int(token) for token in str(dict(recipe.parameters).get("ids", "")).split()]

    def prompt(self, recipe: Recipe) -> PromptEmbeds:
        """The prompt of a recipe.

        Raises:
            ValueError: a step is unknown or lacks something; the message names it.
        """
        made: PromptEmbeds = _repeat_step(self, recipe, PROMPTS)
        return made

    def vector(self, recipe: Recipe) -> StyleVector:
        """The style vector of a recipe.

        Raises:
            ValueError: as :meth:`prompt`.
        """
        made: StyleVector = _repeat_step(self, recipe, VECTORS)
        return made


Step = Callable[[Replayer, Parameters, Sequence[Recipe]], Any]


def _repeat_step(replayer: Replayer, recipe: Recipe, steps: Mapping[str, Step]) -> Any:
    step = steps.get(recipe.operation)
    if step is None:
        raise ValueError(
            f"the recipe has the step {recipe.operation!r}, which cannot be replayed; known are {', '.join(steps)}. "
            "Rows that were given by hand are in no recipe"
        )
    try:
        return step(replayer, dict(recipe.parameters), recipe.inputs)
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise ValueError(
            f"the step {recipe} lacks what is needed to repeat it ({error}); it was written by another version"
        ) from error


def _embed_chat(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    messages = json.loads(given["messages"])
    rows = iter(inputs)
    for message in messages:
        if isinstance(message.get("content"), str | None):
            continue
        parts = message["content"] if isinstance(message["content"], list) else [message["content"]]
        message["content"] = [
            part if isinstance(part, str) else _recorded_rows(replayer, next(rows), part["rows"])
            for part in parts
        ]
    made = embed_recorded_chat(replayer.space, given, messages)
    # The recipe that is replayed: a content of rows alone is written without a list.
    return replace(made, recipe=Recipe.of("embed_chat", given, *inputs))


def _recorded_rows(replayer: Replayer, recipe: Recipe, digest: str) -> PromptEmbeds:
    rows = replayer.prompt(recipe)
    if tensor_digest(rows.vectors) != digest:
        raise ValueError(f"the rows made from {recipe} are not the ones that stood in the conversation")
    return rows


def _to(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    import torch

    return replayer.prompt(inputs[0]).to(getattr(torch, given["dtype"]))


def _from_peft(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    soft = PromptEmbeds.from_peft(given["folder"], replayer.space, base_model=given["base_model"])
    if tensor_digest(soft.vectors) != given["vectors"]:
        raise ValueError(
            f"the adapter in {given['folder']} is not the one that was used: its rows have changed"
        )
    return soft


def _soft_prompt(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    soft = replayer.soft_prompts.get(given["vectors"])
    if soft is None:
        raise ValueError(
            f"the soft prompt {given['vectors']} is not at hand; give the folder that SoftPrompt.save wrote "
            "(--vector FOLDER)"
        )
    return soft.prompt


def _style(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    vector = replayer.vectors.get(given["vector"])
    if vector is None:
        vector = replayer.vector(inputs[1])
        if vector.digest != given["vector"]:
            raise ValueError(
                f"the style vector made from its recipe is {vector.digest}, {given['vector']} was used; fitted "
                "with other versions of the libraries? Give the file that StyleVector.save wrote (--vector FILE)"
            )
    mask = mask_from_text(given["rows"])
    return vector.apply(
        replayer.prompt(inputs[0]), given["alpha"], rows=given["rows"] if mask is None else mask
    )


def _interpolate(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    first, second = (replayer.prompt(recipe) for recipe in inputs)
    options = _options(given, "method", "align", "template", "match_norm")
    return interpolate(first, second, given["t"], space=replayer.space, **options)


def _blend(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    prompts = [replayer.prompt(recipe) for recipe in inputs]
    weights = [float(weight) for weight in given["weights"].split(",")]
    options = _options(given, "align", "template", "match_norm")
    return blend(prompts, weights, space=replayer.space, **options)


def _compress(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    from embedspace.engines import TransformersEngine

    engine = None
    if "engine" in given:
        described = dict(ast.literal_eval(given["engine"]))
        engine = TransformersEngine(described["model"], dtype=described["dtype"], device=described["device"])
    options = _options(given, "length", "method", "match_norm")
    if given["method"] == "salience":
        if given.get("version") != SALIENCE_VERSION:
            raise ValueError(
                f"the prompt was compressed by version {given.get('version', 1)} of the salience rule, and this is "
                f"version {SALIENCE_VERSION}, which keeps other rows; replay it with the embedspace that made it"
            )
        options |= _options(given, "information", "opening")
        if "ratio" in given:
            options["ratio"] = given["ratio"]
            del options["length"]
        if "matched" in given:
            options["query"] = given["query"] if "query" in given else replayer.prompt(inputs[1])
        if "encoder" in given:
            options["encoder"] = _encoder(given)
    for name in ("only", "keep"):
        if name in given:
            options[name] = mask_from_text(given[name])
    return compress(replayer.prompt(inputs[0]), space=replayer.space, engine=engine, **options)


def _encoder(given: Parameters) -> SentenceEncoder:
    encoder = SentenceEncoder(given["encoder"])
    if encoder.fingerprint != given["encoder_fingerprint"]:
        raise ValueError(
            f"the sentence encoder {encoder.name!r} is {encoder.fingerprint}, {given['encoder_fingerprint']} was used"
        )
    return encoder


def _options(given: Parameters, *names: str) -> dict[str, Any]:
    return {name: given[name] for name in names}


def _project(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    import torch

    from embedspace.projector import Projector

    if given["projector"] is None:
        raise ValueError(
            "the projector was never saved, so its soft tokens cannot be made again; save_pretrained keeps it"
        )
    projector = Projector.from_pretrained(given["projector"], space=replayer.space)
    if projector.digest != given["digest"]:
        raise ValueError(
            f"the projector {given['projector']!r} is {projector.digest}, {given['digest']} was used"
        )
    values = torch.frombuffer(bytearray(base64.b64decode(given["vector"])), dtype=torch.float32)
    return projector.project(given.get("text", values), replayer.space, vector=values)


def _insert(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> PromptEmbeds:
    from embedspace.projector import insert

    return insert(replayer.prompt(inputs[0]), replayer.prompt(inputs[1]), given["at"])


def _fit_style(replayer: Replayer, given: Parameters, inputs: Sequence[Recipe]) -> StyleVector:
    positive, negative = examples(Recipe.of("fit_style", given, *inputs), replayer.prompt)
    return StyleVector.fit(replayer.space, positive, negative, method=given["method"])


PROMPTS: dict[str, Step] = {
    "embed": lambda replayer, given, inputs: replayer.space.embed(
        given["text"], special_tokens=given.get("special_tokens", False)
    ),
    "embed_chat": _embed_chat,
    "to": _to,
    "concat": lambda replayer, given, inputs: PromptEmbeds.concat(
        [replayer.prompt(recipe) for recipe in inputs]
    ),
    "only_run": lambda replayer, given, inputs: replayer.prompt(inputs[0]).only_run(given["number"]),
    "first_rows": lambda replayer, given, inputs: replayer.prompt(inputs[0]).first_rows(given["rows"]),
    "from_peft": _from_peft,
    "soft_prompt": _soft_prompt,
    "style": _style,
    "interpolate": _interpolate,
    "blend": _blend,
    "compress": _compress,
    "project": _project,
    "insert": _insert,
    "shuffle_rows": lambda replayer, given, inputs: shuffle_rows(replayer.prompt(inputs[0]), given["seed"]),
    "mean_rows": lambda replayer, given, inputs: mean_rows(replayer.space, given["rows"]),
    "random_rows": lambda replayer, given, inputs: random_rows(
        replayer.space, replayer.prompt(inputs[0]), given["seed"]
    ),
    "noisy_rows": lambda replayer, given, inputs: noisy_rows(
        replayer.space, replayer.prompt(inputs[0]), given["scale"], given["seed"]
    ),
    "zero_padded": lambda replayer, given, inputs: zero_padded(
        replayer.prompt(inputs[0]), replayer.prompt(inputs[1]), given["t"]
    ),
}
"""How each step of a prompt's recipe is repeated."""

VECTORS: dict[str, Step] = {
    "fit_style": _fit_style,
    "random_style": lambda replayer, given, inputs: StyleVector.random(
        replayer.space, norm=given["norm"], seed=given["seed"]
    ),
    "negate": lambda replayer, given, inputs: -replayer.vector(inputs[0]),
    "add": lambda replayer, given, inputs: replayer.vector(inputs[0]) + replayer.vector(inputs[1]),
    "subtract": lambda replayer, given, inputs: replayer.vector(inputs[0]) - replayer.vector(inputs[1]),
    "scale": lambda replayer, given, inputs: given["factor"] * replayer.vector(inputs[0]),
    "divide": lambda replayer, given, inputs: replayer.vector(inputs[0]) / given["divisor"],
}
"""How each step of a style vector's recipe is repeated."""
