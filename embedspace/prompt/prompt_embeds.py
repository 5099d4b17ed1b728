"""PromptEmbeds: one prompt as rows of the model's input embedding space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch

from embedspace._util.notebook import block, facts
from embedspace.prompt.recipe import Recipe
from embedspace.prompt.rows import describe_nonfinite_rows, tensor_digest
from embedspace.prompt.token_strip import read_strip, strip_style

if TYPE_CHECKING:
    from pathlib import Path

    from jaxtyping import Bool, Float
    from torch import Tensor

    from embedspace.prompt.peft import ModelSpace


@dataclass(frozen=True, eq=False)
class PromptEmbeds:
    """A prompt as vectors, with a mask of the rows that come from the messages' own text.

    Raises:
        TypeError: ``vectors`` is not a floating-point tensor or ``content`` not a boolean one.
        ValueError: the shapes do not fit ``[tokens, hidden]`` and ``[tokens]``, or there are no rows.

    >>> prompt = PromptEmbeds(torch.zeros(4, 2), torch.tensor([False, True, True, False]), "a space", Recipe("example"))
    >>> prompt
    PromptEmbeds(4 rows, 2 of content, hidden 2, float32, example())
    >>> prompt.with_content(torch.ones(3, 2)).content
    tensor([False,  True,  True,  True, False])
    """

    vectors: Float[Tensor, "tokens hidden"]
    """Input embeddings, one row a token."""
    content: Bool[Tensor, " tokens"]
    """True on rows whose tokens come from the messages' own text, False on rows of the chat template."""
    space: str
    """Fingerprint of the :class:`~embedspace.EmbeddingSpace` that the rows live in."""
    recipe: Recipe
    """How the prompt was made."""

    def __post_init__(self) -> None:
        vectors, content = (
            getattr(each, "dtype", type(each).__name__) for each in (self.vectors, self.content)
        )
        if not isinstance(self.vectors, torch.Tensor) or not self.vectors.is_floating_point():
            raise TypeError(f"vectors must be a floating-point tensor [tokens, hidden], got {vectors}")
        if content != torch.bool:
            raise TypeError(f"content must be a boolean tensor [tokens], got {content}")
        if self.vectors.ndim != 2 or 0 in self.vectors.shape:
            raise ValueError(
                f"vectors must have shape [tokens, hidden] with at least one row, got {list(self.vectors.shape)}"
            )
        if self.content.shape != self.vectors.shape[:1]:
            raise ValueError(
                f"content must have one entry for each of the {len(self.vectors)} rows, "
                f"got shape {list(self.content.shape)}"
            )

    def __len__(self) -> int:
        """Number of rows (tokens)."""
        return len(self.vectors)

    def __repr__(self) -> str:
        return (
            f"PromptEmbeds({len(self)} rows, {int(self.content.sum())} of content, "
            f"hidden {self.hidden_size}, {str(self.vectors.dtype).removeprefix('torch.')}, {self.recipe})"
        )

    def _repr_html_(self) -> str:
        """For notebooks: the rows as coloured tokens."""
        shape = {"rows": len(self), "of content": int(self.content.sum()), "hidden": self.hidden_size}
        strip = read_strip(self.vectors, self.content, self.space, self.recipe)
        return block(
            facts("PromptEmbeds", shape | {"made by": self.recipe}) + strip.html(), style=strip_style()
        )

    @property
    def hidden_size(self) -> int:
        """Length of one row."""
        return self.vectors.shape[1]

    @property
    def content_vectors(self) -> Float[Tensor, "content hidden"]:
        """The content rows, in order."""
        return self.vectors[self.content]

    @property
    def content_runs(self) -> list[slice]:
        """The stretches of adjacent content rows, in order: in a chat, one for each message."""
        return list(self._content_runs)

    @cached_property
    def _content_runs(self) -> tuple[slice, ...]:
        import numpy as np

        marked = self.content.numpy(force=True)
        edges = (np.flatnonzero(marked[1:] != marked[:-1]) + 1).tolist()
        edges = [0] * bool(marked[0]) + edges + [len(marked)] * bool(marked[-1])
        return tuple(slice(start, stop) for start, stop in zip(edges[::2], edges[1::2], strict=True))

    def to(self, dtype: torch.dtype) -> PromptEmbeds:
        """The same prompt in another floating dtype; the prompt itself where nothing changes."""
        if dtype == self.vectors.dtype:
            return self
        recipe = Recipe.of("to", {"dtype": str(dtype).removeprefix("torch.")}, self.recipe)
        return replace(self, vectors=self.vectors.to(dtype), recipe=recipe)

    def with_content(
        self, vectors: Float[Tensor, "content hidden"], recipe: Recipe | None = None
    ) -> PromptEmbeds:
        """The prompt with its content rows replaced; template rows stay bit-identical.

        As many vectors as there are content rows replace them one by one. Another number is allowed
        where the content is a single run of rows, which is then replaced as a whole.

        Args:
            vectors: the new content rows, cast to the prompt's dtype.
            recipe: how the new prompt was made; by default a digest of the vectors stands for it.

        Raises:
            ValueError: no content rows, another hidden size, or another number of rows over several runs.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.hidden_size:
            raise ValueError(f"vectors must have shape [rows, {self.hidden_size}], got {list(vectors.shape)}")
        runs = self.content_runs
        rows = int(self.content.sum())
        if not runs:
            raise ValueError("the prompt has no content rows to replace; mark some in `content`")
        if len(vectors) == rows:
            pieces = list(vectors.split([run.stop - run.start for run in runs]))
        elif len(runs) == 1:
            pieces = [vectors]
        else:
            raise ValueError(
                f"got {len(vectors)} vectors for {rows} content rows in {len(runs)} runs; "
                "use with_runs to say how many rows each run gets"
            )
        return self.with_runs(pieces, recipe)

    def with_runs(
        self,
        pieces: Sequence[Float[Tensor, "rows hidden"]],
        recipe: Recipe | None = None,
        runs: Sequence[slice] | None = None,
    ) -> PromptEmbeds:
        """The prompt with stretches of its content rows replaced, each by a piece of any number of rows.

        Args:
            pieces: the new rows of each stretch, cast to the prompt's dtype.
            recipe: how the new prompt was made; by default a digest of the vectors stands for it.
            runs: the stretches, in order; by default all content, run by run.

        Raises:
            ValueError: the number of pieces is not the number of runs, or no row would be left.
        """
        runs = self._content_runs if runs is None else runs
        if len(pieces) != len(runs):
            raise ValueError(f"the prompt has {len(runs)} runs of content rows, got {len(pieces)} pieces")
        parts, position = [], 0
        for run, piece in zip(runs, pieces, strict=True):
            parts += [self.vectors[position : run.start], piece.to(self.vectors)]
            position = run.stop
        filled = [part for part in (*parts, self.vectors[position:]) if part.shape[0]]
        new = filled[0] if len(filled) == 1 else torch.cat(filled or parts)
        if recipe is None:
            recipe = Recipe.of("with_content", {"vectors": tensor_digest(new)}, self.recipe)
        return PromptEmbeds(new, self._content_of(runs, [len(piece) for piece in pieces]), self.space, recipe)

    def _content_of(self, runs: Sequence[slice], lengths: Sequence[int]) -> Bool[Tensor, " tokens"]:
        """The content mask once each run has so many rows."""
        if all(run.stop - run.start == length for run, length in zip(runs, lengths, strict=True)):
            return self.content
        parts, position = [], 0
        for run, length in zip(runs, lengths, strict=True):
            parts += [self.content[position : run.start], self.content.new_ones(length)]
            position = run.stop
        return torch.cat([*parts, self.content[position:]])

    def only_run(self, number: int) -> PromptEmbeds:
        """The same rows, with one run of content rows as the only content.

        Raises:
            ValueError: the prompt has no such run.
        """
        runs = self.content_runs
        if not 0 <= number < len(runs):
            raise ValueError(f"the prompt has {len(runs)} runs of content rows; there is no run {number}")
        content = torch.zeros_like(self.content)
        content[runs[number]] = True
        return replace(self, content=content, recipe=Recipe.of("only_run", {"number": number}, self.recipe))

    def first_rows(self, rows: int) -> PromptEmbeds:
        """The prompt's beginning.

        Raises:
            ValueError: fewer than one row, or more than there are.
        """
        if not 1 <= rows <= len(self):
            raise ValueError(f"rows is {rows}; the prompt has {len(self)} rows, give a number from 1 to that")
        recipe = Recipe.of("first_rows", {"rows": rows}, self.recipe)
        return replace(self, vectors=self.vectors[:rows], content=self.content[:rows], recipe=recipe)

    @staticmethod
    def concat(prompts: Sequence[PromptEmbeds]) -> PromptEmbeds:
        """One prompt out of several of the same space and dtype, one after another.

        Raises:
            ValueError: no prompts, or prompts of different spaces or dtypes.
        """
        if not prompts:
            raise ValueError("concat needs at least one prompt, got an empty list")
        for prompt in prompts[1:]:
            require_same_space(prompts[0], prompt)
        dtypes = {prompt.vectors.dtype for prompt in prompts}
        if len(dtypes) > 1:
            raise ValueError(
                f"prompts have different dtypes {sorted(map(str, dtypes))}; cast them with .to(dtype)"
            )
        return PromptEmbeds(
            torch.cat([prompt.vectors for prompt in prompts]),
            torch.cat([prompt.content for prompt in prompts]),
            prompts[0].space,
            Recipe.of("concat", {}, *(prompt.recipe for prompt in prompts)),
        )

    @staticmethod
    def from_peft(
        folder: str | Path,
        space: ModelSpace,
        *,
        before: PromptEmbeds | None = None,
        base_model: str | None = None,
    ) -> PromptEmbeds:
        """The soft prompt of a PEFT adapter, alone or before a prompt: prompt tuning (Lester et al. 2021) or P-tuning.

        The rows count as template rows: style, blends and compression leave them as they were trained.

        Args:
            folder: what ``PeftModel.save_pretrained`` wrote.
            space: the space of the model that the adapter was trained for.
            before: a prompt that the soft prompt is put before, as PEFT does; in the wider dtype of the two.
            base_model: the base model's name in the adapter, to confirm that it is this space's model under another
                name.

        Raises:
            ValueError: no such adapter, a damaged one, one of another kind (LoRA, prefix tuning, ...), or one
                for another base model.
        """
        from embedspace.prompt.peft import read_peft

        vectors, recipe = read_peft(folder, space, base_model=base_model)
        soft = PromptEmbeds(vectors, torch.zeros(len(vectors), dtype=torch.bool), space.fingerprint, recipe)
        if before is None:
            return soft
        space.require(before)
        wider = torch.promote_types(vectors.dtype, before.vectors.dtype)
        return PromptEmbeds.concat([soft.to(wider), before.to(wider)])


def require_same_space(a: PromptEmbeds, b: PromptEmbeds) -> None:
    """Raise ``ValueError`` unless both prompts live in one embedding space."""
    if a.space != b.space:
        raise ValueError(
            f"prompts of different embedding spaces cannot be mixed: {a.space} and {b.space}; "
            "embed both with the same EmbeddingSpace"
        )


def require_content(prompt: PromptEmbeds, operation: str) -> None:
    """Raise ``ValueError`` where a prompt has no content rows for an operation to act on, and ``TypeError`` for what is
    no prompt."""
    if not isinstance(prompt, PromptEmbeds):
        raise TypeError(
            f"{operation} acts on PromptEmbeds, got a {type(prompt).__name__}; make them of text with space.embed_chat "
            "or space.embed"
        )
    if not prompt.content_runs:
        raise ValueError(
            f"{operation} acts on content rows and this prompt of {len(prompt)} rows has none; "
            "embed it with embed or embed_chat from text that is not empty"
        )


def require_finite(prompt: PromptEmbeds, operation: str) -> None:
    """Raise ``ValueError``, naming the rows, where a prompt holds NaN or infinity."""
    if fault := describe_nonfinite_rows(prompt.vectors):
        raise ValueError(f"{operation} needs finite rows; {fault}")
