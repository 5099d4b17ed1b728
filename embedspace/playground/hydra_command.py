"""A view as a Hydra command, where an experiment asks what the view asks."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.playground.engines import EngineChoice
    from embedspace.playground.view import View
    from embedspace.space import EmbeddingSpace

CONFIGURED = {
    "smollm2-135m-instruct": "model=smollm2",
    "qwen2.5-coder-0.5b-instruct": "model=qwen",
    "gemma-3-270m": "model=gemma",
}
"""Overrides of the packaged models; any other is named by model=llama model.name=..."""


@dataclass(frozen=True)
class HydraCommand:
    """A shell command, or why there is none."""

    command: str | None
    note: str
    """What the command does beside the view, or the reason."""


def hydra_command(view: View, space: EmbeddingSpace, engine: EngineChoice) -> HydraCommand:
    """The command of the experiment that makes this view's prompt.

    ``experiment=baseline`` asks an unmoved question, ``experiment=interpolation`` walks between two questions; both
    without a system message. No other view has an experiment that makes its very prompt.

    >>> from embedspace import EmbeddingSpace
    >>> from embedspace.playground.engines import EngineChoice
    >>> from embedspace.playground.view import View
    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> hydra_command(View(noise=0.1), space, EngineChoice()).note
    'No experiment makes this prompt: none adds noise to a prompt that is answered. Copy it as Python.'
    """
    if reason := _unsupported(view):
        return HydraCommand(None, f"No experiment makes this prompt: {reason}. Copy it as Python.")
    if not view.moves:
        words = ["experiment=baseline", f"data.questions=[{_quoted(view.user)}]"]
        note = "It asks the question as token ids, as embeddings and, as its control, with shuffled rows."
    else:
        pair = f"{{kind: mine, first: {_quoted(view.user)}, second: {_quoted(view.second)}}}"
        steps = f"[{view.t!r}]"
        words = ["experiment=interpolation", f"data.interpolation.pairs=[{pair}]"]
        words += [f"experiment.steps={steps}", f"experiment.answered_steps={steps}"]
        note = (
            "It walks from the first prompt to the second by every method, and to random rows as its control."
        )
    model = CONFIGURED.get(space.name)
    words += [model] if model else ["model=llama", f"model.name={_quoted(space.name)}"]
    words += [
        *engine.override.split(),
        f"sampling.max_tokens={view.max_tokens}",
        "out=runs/playground",
        "fresh=true",
    ]
    return HydraCommand(f"python experiments/run.py {' '.join(map(shlex.quote, words))}", note)


def _unsupported(view: View) -> str | None:
    """What of a view no experiment can express; None where one can."""
    reasons: Mapping[str, str] = {
        "soft prompt": "experiment=distillation learns its own soft prompts and reads none from a folder",
        "compression": "experiment=compression needs the right answer of each question and puts the question in itself",
        "style": "experiment=style learns its own vectors and reads none from a file",
        "noise": "none adds noise to a prompt that is answered",
    }
    for move in view.moves:
        if move in reasons:
            return reasons[move]
    if "${" in view.user + view.second:
        return "Hydra would replace ${...} in the text"
    if view.system.strip():
        return "those that ask single questions have no system message"
    if "interpolation" in view.moves and not 0 < view.t < 1:
        return "experiment=interpolation takes positions between the ends, and t is at an end"
    return None


def _quoted(text: str) -> str:
    """A string in Hydra's grammar: in double quotes, with backslashes before quotes and before what precedes one."""
    escaped = re.sub(r'(\\*)"', lambda found: found[1] * 2 + '\\"', text)
    escaped = re.sub(r"(\\+)$", lambda found: found[1] * 2, escaped)
    return f'"{escaped}"'
