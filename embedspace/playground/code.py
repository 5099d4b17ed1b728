"""A view as Python: a program that makes the same prompt, with the digest of its recipe, and asks a model."""

from __future__ import annotations

import json
from pprint import pformat
from typing import TYPE_CHECKING

from embedspace.playground.applied import Workbench, text_conversation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from embedspace.playground.engines import EngineChoice
    from embedspace.playground.view import View
    from embedspace.prompt import Recipe

_WIDTH = 100


def python_code(bench: Workbench, view: View, engine: EngineChoice) -> str:
    """The program of a view.

    Its ``assert`` compares the digest of the prompt's recipe; equal recipes make bit-identical prompts.

    Raises:
        ValueError: as :meth:`Workbench.apply`.
    """
    moved = bench.apply(view).moved
    lines = [
        f"space = EmbeddingSpace.from_pretrained({bench.materials.space.name!r})",
        *_prompt_lines(bench, view, _recorded_template(moved.recipe)),
        f'assert prompt.recipe.digest == "{moved.recipe.digest}", prompt.recipe',
        "",
        *engine.code(view),
    ]
    return "\n".join([*_imports(view, engine), "", *lines]) + "\n"


def _imports(view: View, engine: EngineChoice) -> list[str]:
    moves = set(view.moves)
    names = ["EmbeddingSpace"]
    names += ["SoftPrompt"] * ("soft prompt" in moves) + ["StyleVector"] * ("style" in moves)
    names += ["compress"] * ("compression" in moves) + ["interpolate"] * ("interpolation" in moves)
    return [
        f"from embedspace import {', '.join(names)}",
        engine.imports,
        *["from embedspace.metrics import noisy_rows"] * ("noise" in moves),
    ]


def _prompt_lines(bench: Workbench, view: View, template: Mapping[str, object]) -> list[str]:
    lines = []
    if view.soft:
        lines.append(f"soft = SoftPrompt.load({view.soft!r}, space)")
    lines.append(f"prompt = {_embedded(view, view.user, template)}")
    moves = view.moves
    if "compression" in moves:
        options = [f"ratio={view.ratio!r}", "only=-1"]
        options += [f"query={view.question.strip()!r}"] if view.question.strip() else []
        options += [f"keep={view.kept_texts!r}"] if view.kept_texts else []
        lines.append(f"prompt = compress(prompt, {', '.join(options)})")
    if "interpolation" in moves:
        lines.append(f"second = {_embedded(view, view.second, template)}")
        lines.append(f"prompt = interpolate(prompt, second, t={view.t!r})")
    if "style" in moves:
        lines.append(f"style = StyleVector.from_pretrained({view.style!r}, space)")
        lines.append(f"prompt = style.apply(prompt, alpha={view.alpha!r})")
    if "noise" in moves:
        lines.append(f"prompt = noisy_rows(space, prompt, scale={view.noise!r}, seed={view.seed})")
    return lines


def _embedded(view: View, user: str, template: Mapping[str, object]) -> str:
    variables = f", template={dict(template)!r}" if template else ""
    if view.soft:
        return f"space.embed_chat(soft.conversation({user!r}){variables})"
    messages = pformat([dict(turn) for turn in text_conversation(view, user)], width=_WIDTH, sort_dicts=False)
    return f"space.embed_chat({messages}{variables})"


def _recorded_template(recipe: Recipe) -> Mapping[str, object]:
    """Variables of the chat template, and the time that it read, as the conversation's recipe has them."""
    while recipe.operation != "embed_chat":
        recipe = recipe.inputs[0]
    recorded = dict(recipe.parameters).get("template")
    found: Mapping[str, object] = json.loads(recorded) if isinstance(recorded, str) else {}
    return found
