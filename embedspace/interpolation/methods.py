"""interpolate, path and blend: prompts between prompts."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch

from embedspace.interpolation.alignment import ALIGNMENTS, Align
from embedspace.prompt import (
    PromptEmbeds,
    Recipe,
    Value,
    in_blocks,
    require_content,
    require_finite,
    require_same_space,
)
from embedspace.space import resolve_space

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.space import EmbeddingSpace

Method = Literal["lerp", "slerp"]
Template = Literal["same", "first", "last"]


def interpolate(
    a: PromptEmbeds,
    b: PromptEmbeds,
    t: float,
    *,
    method: Method = "lerp",
    align: Align = "resample",
    template: Template = "same",
    space: EmbeddingSpace | None = None,
    match_norm: bool = False,
) -> PromptEmbeds:
    """The prompt at fraction ``t`` of the way from a to b: content rows are blended, template rows kept.

    ``t=0`` is a and ``t=1`` is b, bit for bit and with their lengths; ``interpolate(a, b, t)`` equals
    ``interpolate(b, a, 1 - t)``. Each message (run of content rows) is blended with the one at the same position.

    >>> import torch
    >>> from embedspace import PromptEmbeds, Recipe
    >>> content, recipe = torch.tensor([False, True]), Recipe.of("example", {})
    >>> a = PromptEmbeds(torch.tensor([[9.0], [0.0]]), content, "space", recipe)
    >>> b = PromptEmbeds(torch.tensor([[9.0], [4.0]]), content, "space", recipe)
    >>> interpolate(a, b, 0.25).vectors.tolist()
    [[9.0], [1.0]]

    Args:
        a: prompt at ``t=0``.
        b: prompt at ``t=1``, of the same space, dtype and number of messages.
        t: interpolation parameter, 0 to 1.
        method: ``lerp``, linear; ``slerp`` (Shoemake 1985), spherical about the vocabulary's mean row, which
            interpolates the rows' distances from that mean.
        align: how rows of unequal lengths are paired. ``resample``: the length is interpolated, rows are repeated or
            dropped evenly. ``pad``: the shorter gets rows of zeros at its end. ``dtw``: the shorter is stretched by
            dynamic time warping.
        template: whose template rows are kept; ``same`` requires that both have equal ones.
        space: the prompts' space, whose mean row ``slerp``, ``dtw`` and ``match_norm`` need; by default the one
            loaded in this process that the prompts name.
        match_norm: let ``lerp`` interpolate the distances from the mean too, as ``slerp`` does.

    Raises:
        ValueError: t outside [0, 1], an unknown option, prompts that do not fit together, without
            content or not finite, or a ``space`` that is needed and not loaded.
    """
    if not 0 <= t <= 1:
        raise ValueError(f"t is {t!r}; it must be in [0, 1], where 0 is the first prompt and 1 the second")
    _check_options(method, align, template)
    mean = _needed_mean((a, b), space, needed=method == "slerp" or align == "dtw" or match_norm)
    _check_fit((a, b), template)
    options = {"method": method, "align": align, "template": template, "match_norm": match_norm}
    recipe = Recipe.of("interpolate", {"t": float(t), **options}, a.recipe, b.recipe)
    # (a, b, t) and (b, a, 1 - t) must give the same bits: the nearer prompt comes last, so that its weight w is at
    # least 1/2 and 1 - w is exact.
    far, near, weight = (a, b, float(t)) if t >= 0.5 else (b, a, 1 - float(t))
    kept = {"same": near, "first": a, "last": b}[template]
    if weight == 1:
        return kept.with_runs(_runs(near), recipe)
    weights = (1 - weight, weight)

    def blended_rows(x: Tensor, y: Tensor) -> Tensor:
        piece = METHODS[method](x, y, weight, mean)
        return _distance_matched(piece, (x, y), weights, mean) if match_norm else piece

    # torch.lerp itself computes in float32 and rounds once.
    plain = method == "lerp" and not match_norm and weight != 0.5
    blended = []
    for rows in zip(_runs(far), _runs(near), strict=True):
        x, y = ALIGNMENTS[align](rows, weights, mean)
        blended.append(torch.lerp(x, y, weight) if plain else in_blocks(blended_rows, x, y))
    return kept.with_runs(blended, recipe)


def path(
    a: PromptEmbeds,
    b: PromptEmbeds,
    steps: int,
    *,
    method: Method = "lerp",
    align: Align = "resample",
    template: Template = "same",
    space: EmbeddingSpace | None = None,
    match_norm: bool = False,
) -> list[PromptEmbeds]:
    """Prompts at ``steps`` evenly spaced points from a to b, both ends included; options of :func:`interpolate`.

    >>> import torch
    >>> from embedspace import PromptEmbeds, Recipe
    >>> content, recipe = torch.tensor([True]), Recipe.of("example", {})
    >>> ends = [PromptEmbeds(torch.tensor([[x]]), content, "space", recipe) for x in (0.0, 8.0)]
    >>> [step.vectors.item() for step in path(*ends, steps=3)]
    [0.0, 4.0, 8.0]

    Raises:
        ValueError: fewer than two steps, or as :func:`interpolate`.
    """
    if steps < 2:
        raise ValueError(f"steps is {steps}; a path has at least 2, its two ends")
    at = partial(
        interpolate, a, b, method=method, align=align, template=template, space=space, match_norm=match_norm
    )
    return [at(step / (steps - 1)) for step in range(steps)]


def blend(
    prompts: Sequence[PromptEmbeds],
    weights: Sequence[float],
    *,
    align: Align = "resample",
    template: Template = "same",
    space: EmbeddingSpace | None = None,
    match_norm: bool = False,
) -> PromptEmbeds:
    """The weighted mean of several prompts' content rows; for two prompts the same as ``lerp``.

    A weight of 1 gives that prompt bit for bit. The other options are those of :func:`interpolate`.

    >>> import torch
    >>> from embedspace import PromptEmbeds, Recipe
    >>> content, recipe = torch.tensor([True]), Recipe.of("example", {})
    >>> prompts = [PromptEmbeds(torch.tensor([[x]]), content, "space", recipe) for x in (0.0, 4.0, 8.0)]
    >>> blend(prompts, [0.5, 0.25, 0.25]).vectors.item()
    3.0

    Args:
        prompts: of the same space, dtype and number of messages.
        weights: one for each prompt, none negative, with a sum of 1.

    Raises:
        ValueError: no prompts, weights that do not fit, or as :func:`interpolate`.
    """
    _check_weights(prompts, weights)
    _check_options("lerp", align, template)
    mean = _needed_mean(prompts, space, needed=align == "dtw" or match_norm)
    _check_fit(prompts, template)
    written = ",".join(repr(float(weight)) for weight in weights)
    options: dict[str, Value] = {
        "weights": written,
        "align": align,
        "template": template,
        "match_norm": match_norm,
    }
    recipe = Recipe.of("blend", options, *(prompt.recipe for prompt in prompts))
    kept = prompts[-1] if template == "last" else prompts[0]
    counted = [(prompt, float(weight)) for prompt, weight in zip(prompts, weights, strict=True) if weight]
    shares = [weight for _, weight in counted]
    if len(counted) == 1:
        return kept.with_runs(_runs(counted[0][0]), recipe)
    blended = []
    for rows in zip(*(_runs(prompt) for prompt, _ in counted), strict=True):
        aligned = ALIGNMENTS[align]([row.float() for row in rows], shares, mean)
        total = sum(weight * row.double() for row, weight in zip(aligned, shares, strict=True))
        piece = torch.as_tensor(total).float()
        blended.append(_distance_matched(piece, aligned, shares, mean) if match_norm else piece)
    return kept.with_runs(blended, recipe)


def _lerp(x: Tensor, y: Tensor, weight: float, mean: Tensor | None) -> Tensor:
    # torch.lerp rounds towards y; halfway both orders must give the same bits.
    return (x + y) * 0.5 if weight == 0.5 else torch.lerp(x, y, weight)


def _slerp(x: Tensor, y: Tensor, weight: float, mean: Tensor | None) -> Tensor:
    assert mean is not None
    x, y = x - mean, y - mean
    # Scalars of each row are float64; the rows stay float32, since passes over them take the time.
    lengths = [rows.norm(dim=1, keepdim=True).double() for rows in (x, y)]
    scales = [1 / length.clamp_min(1e-12) for length in lengths]
    angle = _angle(x, y, scales)
    sine = angle.sin()
    # Parallel rows need no arc; for opposite ones it is not defined.
    straight = sine.abs() < 1e-6
    wanted = lengths[0] * (1 - weight) + lengths[1] * weight
    first, second = (
        (torch.where(straight, share, (share * angle).sin() / sine) * wanted * scale).to(x)
        for share, scale in zip((1 - weight, weight), scales, strict=True)
    )
    moved: Tensor = (x * first).add_(y * second).add_(mean)
    return moved


def _angle(x: Tensor, y: Tensor, scales: Sequence[Tensor]) -> Float[Tensor, "rows 1"]:
    """Angle between the rows, whose lengths are the inverses of the scales."""
    cosine = (x * y).sum(dim=1, keepdim=True).double() * (scales[0] * scales[1])
    angle = cosine.clamp(-1, 1).acos()
    ill = (cosine.abs() > 0.99).flatten()
    if bool(ill.any()):
        # The arc cosine is ill-conditioned near 1 and -1; chords to the other end and to its opposite are not.
        ends = [rows[ill].double() * scale[ill] for rows, scale in zip((x, y), scales, strict=True)]
        chords = [chord.norm(dim=1, keepdim=True) for chord in (ends[0] - ends[1], ends[0] + ends[1])]
        angle[ill] = 2 * torch.atan2(*chords)
    return angle


METHODS: dict[Method, Callable[[Tensor, Tensor, float, Tensor | None], Tensor]] = {
    "lerp": _lerp,
    "slerp": _slerp,
}


def _distance_matched(
    rows: Tensor, sources: Sequence[Tensor], weights: Sequence[float], mean: Tensor | None
) -> Tensor:
    """Rows rescaled about the mean to the weighted mean distance of their sources from it."""
    assert mean is not None
    distances = [(source - mean).norm(dim=1, keepdim=True) for source in sources]
    wanted = torch.as_tensor(sum(weight * length for weight, length in zip(weights, distances, strict=True)))
    centred = rows - mean
    matched: Tensor = centred * (wanted / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)) + mean
    return matched


def _runs(prompt: PromptEmbeds) -> list[Float[Tensor, "rows hidden"]]:
    return [prompt.vectors[run] for run in prompt.content_runs]


def _gaps(prompt: PromptEmbeds) -> list[Float[Tensor, "rows hidden"]]:
    edges = [0, *(edge for run in prompt.content_runs for edge in (run.start, run.stop)), len(prompt)]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return [prompt.vectors[start:stop] for start, stop in gaps if start < stop]


def _check_options(method: str, align: str, template: str) -> None:
    for name, value, allowed in (
        ("method", method, tuple(METHODS)),
        ("align", align, tuple(ALIGNMENTS)),
        ("template", template, get_args(Template)),
    ):
        if value not in allowed:
            raise ValueError(f"unknown {name} {value!r}; allowed are {', '.join(allowed)}")


def _check_weights(prompts: Sequence[PromptEmbeds], weights: Sequence[float]) -> None:
    if not prompts or len(prompts) != len(weights):
        raise ValueError(
            f"blend needs one weight for each prompt, got {len(weights)} for {len(prompts)} prompts"
        )
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise ValueError(f"weights must be finite and not negative, got {list(weights)}")
    if abs(math.fsum(weights) - 1) > 1e-6:
        raise ValueError(
            f"weights must sum to 1, {list(weights)} sum to {math.fsum(weights)}; divide by the sum"
        )


def _needed_mean(
    prompts: Sequence[PromptEmbeds], space: EmbeddingSpace | None, *, needed: bool
) -> Float[Tensor, " hidden"] | None:
    if not needed:
        return None
    spaces = [
        resolve_space(prompt, space, "slerp, dtw and match_norm need the vocabulary's mean row")
        for prompt in prompts
    ]
    return spaces[0].mean.to(prompts[0].vectors.device)


def _check_fit(prompts: Sequence[PromptEmbeds], template: Template) -> None:
    first = prompts[0]
    for prompt in prompts:
        require_same_space(first, prompt)
        require_content(prompt, "a blend")
        require_finite(prompt, "a blend")
        if prompt.vectors.dtype != first.vectors.dtype:
            raise ValueError(
                f"prompts have different dtypes {first.vectors.dtype} and {prompt.vectors.dtype}; "
                "cast them with .to(dtype)"
            )
        if len(prompt.content_runs) != len(first.content_runs):
            raise ValueError(
                f"prompts have {len(first.content_runs)} and {len(prompt.content_runs)} runs of content rows; "
                "each message is blended with its counterpart, so give conversations with equal numbers of messages"
            )
        if template == "same" and prompt is not first and not _same_template(first, prompt):
            raise ValueError(
                "the prompts' template rows differ; say whose to keep with template='first' or template='last'"
            )


def _same_template(a: PromptEmbeds, b: PromptEmbeds) -> bool:
    ours, theirs = _gaps(a), _gaps(b)
    return (
        (a.content_runs[0].start == 0) == (b.content_runs[0].start == 0)
        and len(ours) == len(theirs)
        and all(torch.equal(x, y) for x, y in zip(ours, theirs, strict=True))
    )
