"""Applied: the prompts that a view describes."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import torch

from embedspace.compression import compress
from embedspace.distillation import SoftPrompt
from embedspace.interpolation import interpolate
from embedspace.metrics import noisy_rows, random_rows
from embedspace.prompt import PromptEmbeds
from embedspace.style import StyleVector

if TYPE_CHECKING:
    from embedspace.playground.materials import Materials
    from embedspace.playground.view import View
    from embedspace.space import Conversation, EmbeddingSpace

T = TypeVar("T")
_KEPT = 64
"""Embedded conversations and applied views that are kept."""


@dataclass(frozen=True, eq=False)
class Applied:
    """A view's prompts."""

    text_ids: list[int]
    """Token ids of the conversation in words: what is answered as plain text."""
    base: PromptEmbeds
    """The conversation before anything is moved, its soft prompt included."""
    shortened: PromptEmbeds
    """After compression; the base itself where there is none."""
    moved: PromptEmbeds
    """After every manipulation."""


class Workbench:
    """Applies views, and keeps what it embedded: a slider moves rows that are there already.

    >>> from embedspace import EmbeddingSpace
    >>> from embedspace.playground.materials import Materials
    >>> from embedspace.playground.view import View
    >>> bench = Workbench(Materials(EmbeddingSpace.from_pretrained("smollm2-135m-instruct")))
    >>> applied = bench.apply(View(user="Tell me about bread.", noise=0.5))
    >>> len(applied.moved) == len(applied.base), applied.moved.recipe.operation
    (True, 'noisy_rows')
    """

    def __init__(self, materials: Materials) -> None:
        self.materials = materials
        self._kept: OrderedDict[Hashable, object] = OrderedDict()
        self._lock = threading.Lock()

    def apply(self, view: View) -> Applied:
        """The prompts of a view, without a forward pass of the model.

        Raises:
            ValueError: an unknown vector or soft prompt, or settings that the conversation cannot take.
        """
        self.materials.require(view)
        return self.once(view, lambda: self._apply(view))

    def control(self, view: View) -> PromptEmbeds | None:
        """The moved prompt with a control in place of each manipulation; None where nothing is moved.

        A random vector of equal norm for a style, random rows for the second prompt and for a soft prompt, evenly
        dropped rows for compression, another seed for noise.
        """
        if not view.moves:
            return None
        self.materials.require(view)
        return self.once((view, "control"), lambda: self._control(view))

    def conversation(self, view: View, user: str) -> Conversation:
        """Messages as the moved prompt has them: a soft prompt in place of the system message."""
        if view.soft:
            return self.materials.softs[view.soft].conversation(user)
        return text_conversation(view, user)

    def _apply(self, view: View) -> Applied:
        space = self.materials.space
        base = self._embedded(self.conversation(view, view.user))
        ids = space.chat_ids(text_conversation(view, view.user))
        shortened = shorten(base, view, space) if view.ratio > 1 else base
        moved = shortened
        if "interpolation" in view.moves:
            other = self._embedded(self.conversation(view, view.second))
            moved = interpolate(moved, other, view.t, space=space)
        if "style" in view.moves:
            moved = self.materials.styles[view.style].apply(moved, alpha=view.alpha)
        return Applied(ids, base, shortened, noisy_rows(space, moved, view.noise, view.seed))

    def _control(self, view: View) -> PromptEmbeds:
        space = self.materials.space
        messages, second = self.conversation(view, view.user), self.conversation(view, view.second or "-")
        if view.soft:
            soft = _random_soft(self.materials.softs[view.soft], space, view.seed)
            messages, second = soft.conversation(view.user), soft.conversation(view.second or "-")
        prompt = space.embed_chat(messages)
        if view.ratio > 1:
            prompt = compress(prompt, ratio=view.ratio, method="drop", only=-1, space=space)
        if "interpolation" in view.moves:
            prompt = interpolate(
                prompt, random_rows(space, space.embed_chat(second), view.seed), view.t, space=space
            )
        if "style" in view.moves:
            vector = self.materials.styles[view.style]
            random = StyleVector.random(space, norm=vector.norm, seed=view.seed)
            prompt = random.apply(prompt, alpha=view.alpha, rows=vector.rows)
        return noisy_rows(space, prompt, view.noise, view.seed + 1)

    def _embedded(self, messages: Conversation) -> PromptEmbeds:
        key = repr([(turn["role"], turn["content"]) for turn in messages])
        return self.once(key, lambda: self.materials.space.embed_chat(messages))

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """What was made for a key, made now where it was not; the last few are kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]  # type: ignore[return-value]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return made


def text_conversation(view: View, user: str) -> Conversation:
    """Messages in words."""
    system = [{"role": "system", "content": view.system}] if view.system.strip() else []
    return [*system, {"role": "user", "content": user}]


def shorten(prompt: PromptEmbeds, view: View, space: EmbeddingSpace) -> PromptEmbeds:
    """The prompt with its last message compressed."""
    return compress(
        prompt,
        ratio=view.ratio,
        query=view.question.strip() or None,
        keep=view.kept_texts or None,
        only=-1,
        space=space,
    )


def _random_soft(soft: SoftPrompt, space: EmbeddingSpace, seed: int) -> SoftPrompt:
    """As many random rows of the vocabulary."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(space.vocab_size, (len(soft),), generator=generator).tolist()
    return SoftPrompt(space.lookup(ids).float(), space.fingerprint, soft.role)
