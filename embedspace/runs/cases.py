"""Cases: what an experiment puts to an engine."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from embedspace.engines import Prompt
from embedspace.prompt import PromptEmbeds, Recipe
from embedspace.runs.records import Tag


@dataclass(frozen=True)
class AnswerOf:
    """Stands for the first answer to an earlier case of the same run.

    >>> Case("moved", [1, 2], continuations={"plain answer": AnswerOf("plain")}).prefixed("style").continuations
    {'plain answer': AnswerOf(key='style/plain')}
    """

    key: str


Continuation = str | AnswerOf


@dataclass(frozen=True)
class Case:
    """One question to an engine: a prompt, and continuations whose likelihood is wanted.

    >>> case = Case("q0", lambda: [1, 2, 3], {"question": 0}, measured=lambda prompt: {"rows": len(prompt)})
    >>> case.prefixed("baseline").key  # made without the prompt
    'baseline/q0'
    >>> case.prompt, case.tags
    ([1, 2, 3], {'question': 0, 'rows': 3})
    """

    key: str
    """Name, unique in the experiment and the same in every run."""
    source: Prompt | Callable[[], Prompt]
    """The prompt, or a function that makes it. All cases of a run are planned before the first is asked, so a large
    experiment gives functions: each is called once, when its prompt is needed, and its prompt is dropped afterwards."""
    labels: Mapping[str, Tag] = field(default_factory=dict)
    """What the case is, for grouping its records."""
    continuations: Mapping[str, Continuation] = field(default_factory=dict)
    """Texts, or answers to earlier cases, to be scored after the prompt; left out with engines that cannot score."""
    answered: bool = True
    """False where only the likelihoods are wanted; an engine that cannot compute them skips the case."""
    timed: bool = False
    """Sent alone and for one token, so that the seconds of its record are the time to the first token."""
    measured: Callable[[Prompt], Mapping[str, Tag]] | None = None
    """Tags that can only be computed from the prompt."""

    @cached_property
    def prompt(self) -> Prompt:
        """The prompt, kept as long as the case is."""
        return self.source() if callable(self.source) else self.source

    @cached_property
    def tags(self) -> Mapping[str, Tag]:
        """The labels and what is measured of the prompt."""
        return {**self.labels, **(self.measured(self.prompt) if self.measured else {})}

    @cached_property
    def recipe(self) -> Recipe:
        """How the prompt was made; token ids are their own recipe."""
        if isinstance(self.prompt, PromptEmbeds):
            return self.prompt.recipe
        return Recipe.of("token_ids", {"ids": " ".join(map(str, self.prompt))})

    def prefixed(self, prefix: str) -> Case:
        """The case as part of a larger experiment: ``prefix/`` before its key and the keys it refers to."""
        continuations = {
            name: AnswerOf(f"{prefix}/{target.key}") if isinstance(target, AnswerOf) else target
            for name, target in self.continuations.items()
        }
        return dataclasses.replace(self, key=f"{prefix}/{self.key}", continuations=continuations)


def prompt_sha256(prompt: Prompt) -> str:
    """Hash of a prompt's dtype, shape and bytes, or of its token ids: equal only for bit-identical prompts."""
    import torch

    if not isinstance(prompt, PromptEmbeds):
        return hashlib.sha256(f"token ids {list(prompt)}".encode()).hexdigest()
    rows = prompt.vectors.detach().cpu().contiguous()
    digest = hashlib.sha256(f"{rows.dtype} {list(rows.shape)} ".encode())
    digest.update(rows.view(torch.uint8).numpy().data)
    return digest.hexdigest()
