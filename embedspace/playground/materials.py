"""Materials: what views may name: the space, style vectors, soft prompts, and the filter."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from embedspace.distillation import SoftPrompt
from embedspace.safety import SafetyFilter
from embedspace.space import EmbeddingSpace
from embedspace.style import StyleVector, packaged_vectors

if TYPE_CHECKING:
    from embedspace.playground.view import View

T = TypeVar("T")

SHIPPED_FILTER = "smollm2-injection"


@dataclass(frozen=True, eq=False)
class Materials:
    """What a page offers beside its sliders.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> sorted(Materials(space).styles)
    []
    """

    space: EmbeddingSpace
    styles: Mapping[str, StyleVector] = field(default_factory=dict)
    """By name: that of a packaged vector, or the path of a file."""
    softs: Mapping[str, SoftPrompt] = field(default_factory=dict)
    """By the path of their folder."""
    guard: SafetyFilter | None = None
    """None where no filter of this space is at hand."""

    @classmethod
    def load(
        cls,
        model: str,
        *,
        styles: Sequence[Path] = (),
        softs: Sequence[Path] = (),
        guard: str | None = None,
    ) -> Materials:
        """Open a model's space and everything that fits it.

        Args:
            model: packaged name, local folder or hub id.
            styles: files of :meth:`StyleVector.save`, beside the packaged vectors of this space.
            softs: folders of :meth:`SoftPrompt.save`.
            guard: a saved filter; by default the shipped one, where it is of this space.

        Raises:
            ValueError: an unknown model, one without a chat template, or files of another space.
        """
        space = EmbeddingSpace.from_pretrained(model)
        if space.tokenizer.chat_template is None:
            raise ValueError(
                f"{model!r} has no chat template, and the playground shows conversations; choose a model for chats, "
                "such as smollm2-135m-instruct"
            )
        found: dict[str, StyleVector] = {}
        for name in packaged_vectors():
            vector = _if_it_fits(partial(StyleVector.from_pretrained, name, space))
            if vector is not None:
                found[name] = vector
        found |= {str(path): StyleVector.load(path, space) for path in styles}
        fitting = (
            _if_it_fits(lambda: SafetyFilter.from_pretrained(SHIPPED_FILTER, space))
            if guard is None
            else SafetyFilter.from_pretrained(guard, space)
        )
        return cls(space, found, {str(path): SoftPrompt.load(path, space) for path in softs}, fitting)

    def require(self, view: View) -> None:
        """Raise ``ValueError`` where a view names a vector or soft prompt that is not there."""
        for kind, name, known in (
            ("style vector", view.style, self.styles),
            ("soft prompt", view.soft, self.softs),
        ):
            if name and name not in known:
                offered = ", ".join(known) or "none"
                raise ValueError(
                    f"There is no {kind} {name!r} here; there are: {offered}. Start the playground with "
                    f"--{kind.split()[0]} to add a file of your own"
                )


def _if_it_fits(load: Callable[[], T]) -> T | None:
    """What ``load`` gives, or None for a file of another space."""
    try:
        return load()
    except ValueError:
        return None
