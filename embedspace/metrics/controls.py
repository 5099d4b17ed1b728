"""Control prompts: copies of a prompt without the property that a claim is about."""

from __future__ import annotations

import math

import torch

from embedspace.prompt import PromptEmbeds, Recipe, require_content, require_same_space
from embedspace.space import EmbeddingSpace


def shuffle_rows(prompt: PromptEmbeds, seed: int) -> PromptEmbeds:
    """The prompt with its content rows in a random order.

    >>> import torch
    >>> rows = torch.arange(3.0)[:, None]
    >>> prompt = PromptEmbeds(rows, torch.ones(3, dtype=torch.bool), "space", Recipe.of("example", {}))
    >>> sorted(shuffle_rows(prompt, seed=0).vectors.flatten().tolist())
    [0.0, 1.0, 2.0]
    """
    rows = prompt.content_vectors
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(seed))
    return prompt.with_content(rows[order], Recipe.of("shuffle_rows", {"seed": seed}, prompt.recipe))


def random_rows(space: EmbeddingSpace, prompt: PromptEmbeds, seed: int) -> PromptEmbeds:
    """The prompt with its content replaced by an equal number of random rows of the vocabulary.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompt = space.embed("A short text.")
    >>> random = random_rows(space, prompt, seed=0)
    >>> len(random) == len(prompt), space.read(random) == space.read(prompt)
    (True, False)
    """
    count = int(prompt.content.sum())
    ids = torch.randint(space.vocab_size, (count,), generator=torch.Generator().manual_seed(seed))
    recipe = Recipe.of("random_rows", {"seed": seed}, prompt.recipe)
    return prompt.with_content(space.lookup(ids.tolist()), recipe)


def noisy_rows(space: EmbeddingSpace, prompt: PromptEmbeds, scale: float, seed: int) -> PromptEmbeds:
    """The prompt with Gaussian noise on its content rows; template rows stay bit-identical.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> prompt = space.embed("A short text.")
    >>> moved = (noisy_rows(space, prompt, 0.5, seed=0).vectors.float() - prompt.vectors.float()).norm(dim=1).mean()
    >>> round(float(moved / vocabulary_radius(space)), 1)
    0.5

    Args:
        space: of the prompt.
        prompt: whose rows.
        scale: norm of the noise in a row, in units of :func:`vocabulary_radius`; 0 gives the prompt itself.
        seed: of the noise.

    Raises:
        ValueError: a prompt of another space or without content, or a scale that is negative or not finite.
    """
    space.require(prompt)
    require_content(prompt, "noise")
    if not (math.isfinite(scale) and scale >= 0):
        raise ValueError(f"scale is {scale!r}; it must be a finite number, 0 or more")
    if scale == 0:
        return prompt
    rows = prompt.content_vectors.cpu().float()
    drawn = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
    noise = scale * vocabulary_radius(space) * torch.nn.functional.normalize(drawn, dim=1)
    recipe = Recipe.of("noisy_rows", {"scale": float(scale), "seed": seed}, prompt.recipe)
    return prompt.with_content(rows + noise, recipe)


def vocabulary_radius(space: EmbeddingSpace) -> float:
    """Root mean square distance of the vocabulary's rows from their mean.

    >>> round(vocabulary_radius(EmbeddingSpace.from_pretrained("smollm2-135m-instruct")), 1)
    2.4
    """
    return math.sqrt(float(space.norms.double().square().mean() - space.mean.double().square().sum()))


def zero_padded(a: PromptEmbeds, b: PromptEmbeds, t: float) -> PromptEmbeds:
    """Naive blending: whole prompts, zero-padded to one length and interpolated linearly; all rows count as content.

    Where the lengths differ, template rows are mixed with content rows, and both ends keep their zeros.

    >>> import torch
    >>> rows, content, recipe = torch.ones(2, 1), torch.ones(2, dtype=torch.bool), Recipe.of("example", {})
    >>> long = PromptEmbeds(rows, content, "space", recipe)
    >>> zero_padded(long.first_rows(1), long, t=0.5).vectors.flatten().tolist()
    [1.0, 0.5]

    Raises:
        ValueError: prompts of different spaces.
    """
    require_same_space(a, b)
    length = max(len(a), len(b))
    x, y = (torch.nn.functional.pad(prompt.vectors, (0, 0, 0, length - len(prompt))) for prompt in (a, b))
    recipe = Recipe.of("zero_padded", {"t": t}, a.recipe, b.recipe)
    return PromptEmbeds((1 - t) * x + t * y, torch.ones(length, dtype=torch.bool), a.space, recipe)


def mean_rows(space: EmbeddingSpace, rows: int) -> PromptEmbeds:
    """``rows`` copies of the vocabulary's mean row, all content: rows without information.

    >>> space = EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    >>> bool((mean_rows(space, 2).vectors == space.mean).all())
    True

    Raises:
        ValueError: fewer than one row.
    """
    if rows < 1:
        raise ValueError(f"rows is {rows}; give 1 or more")
    vectors = space.mean.repeat(rows, 1)
    content = torch.ones(rows, dtype=torch.bool)
    return PromptEmbeds(vectors, content, space.fingerprint, Recipe.of("mean_rows", {"rows": rows}))
