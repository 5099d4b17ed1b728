"""Attackers of the leakage audit: from the rows of prompts to the tokens that they read."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.engines import Sampling, TransformersEngine
from embedspace.projector import INSTRUCTION, insert

Reading = list[list[int]]
"""Token ids that an attacker reads in each row of one prompt, one or several a row."""
Reader = Callable[[EmbeddingSpace, Sequence[Tensor]], list[Reading]]
"""An attacker: the rows of each prompt -> what it reads."""


def nearest(space: EmbeddingSpace, prompts: Sequence[Tensor]) -> list[Reading]:
    """Highest centred cosine: how the toolkit itself reads rows."""
    return _split(space.nearest(torch.cat(list(prompts)), k=1)[0], prompts)


def maximum_likelihood(space: EmbeddingSpace, prompts: Sequence[Tensor]) -> list[Reading]:
    """Smallest distance: the most likely row under isotropic noise."""
    return _split(_closest(space, torch.cat(list(prompts)).float())[:, None], prompts)


def unshifted(space: EmbeddingSpace, prompts: Sequence[Tensor], rounds: int = 10) -> list[Reading]:
    """Nearest rows after removing a shift that all rows of a prompt share.

    Initial estimates are zero and the rows' mean minus the vocabulary's. Each is updated in turn by the mean residual
    between the rows and their nearest ones. The estimate with the smallest residual is used.
    """
    return [_unshifted(space, rows.float(), rounds)[:, None].tolist() for rows in prompts]


def _unshifted(space: EmbeddingSpace, rows: Float[Tensor, "rows hidden"], rounds: int) -> Tensor:
    best, ids = torch.inf, torch.zeros(len(rows), dtype=torch.long)
    for shift in (torch.zeros(space.hidden_size), rows.mean(dim=0) - space.mean):
        for _ in range(rounds):
            found = _closest(space, rows - shift)
            left = rows - space.lookup(found.tolist()).float()
            if (rest := float((left - shift).norm())) < best:
                best, ids = rest, found
            if torch.allclose(shift, left.mean(dim=0), atol=1e-5):
                break
            shift = left.mean(dim=0)
    return ids


def unmixed(
    space: EmbeddingSpace, mixed: Float[Tensor, " hidden"], weights: Sequence[float], beam: int
) -> list[int]:
    """The tokens whose weighted rows sum to a mixed row, largest weight first.

    A beam search that keeps the candidates with the smallest residual (orthogonal matching pursuit, Pati et al. 1993,
    with known weights).
    """
    table, squares = _centred(space.folder, space.fingerprint)
    residuals = (mixed.float() - sum(weights) * space.mean)[None]
    candidates: list[list[int]] = [[]]
    for weight in sorted(weights, reverse=True):
        left = (
            residuals.square().sum(dim=1)[:, None]
            - 2 * weight * (residuals @ table.T)
            + weight**2 * squares[None]
        )
        flat = left.flatten().topk(min(beam, left.numel()), largest=False).indices
        states, tokens = (flat // len(table)).tolist(), (flat % len(table)).tolist()
        # Equal weights reach the same tokens in several orders.
        kept = {
            tuple(sorted([*candidates[s], t])): (s, t)
            for s, t in zip(reversed(states), reversed(tokens), strict=True)
        }
        chosen = list(reversed(kept.values()))
        candidates = [[*candidates[s], t] for s, t in chosen]
        residuals = torch.stack([residuals[s] - weight * table[t] for s, t in chosen])
    return candidates[int(residuals.norm(dim=1).argmin())]


def answered(space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> list[Reading]:
    """The model's own greedy answer when asked to repeat the text of the rows."""
    requests = [
        insert(space.embed_chat([{"role": "user", "content": INSTRUCTION}]), rows) for rows in prompts
    ]
    answers = TransformersEngine(space).generate(requests, Sampling(max_tokens=32))
    return [[list(answer.token_ids)] for answer in answers]


def _split(ids: Tensor, prompts: Sequence[Tensor]) -> list[Reading]:
    return [each.tolist() for each in ids.split([len(rows) for rows in prompts])]


def _closest(space: EmbeddingSpace, rows: Tensor) -> Tensor:
    table, squares = _centred(space.folder, space.fingerprint)
    return (squares - 2 * (rows - space.mean) @ table.T).argmin(dim=1)


@cache
def _centred(folder: Path, fingerprint: str) -> tuple[Tensor, Tensor]:
    space = EmbeddingSpace.from_pretrained(folder)
    table = torch.cat([chunk.float() - space.mean for chunk in space.table.chunks()])
    return table, table.square().sum(dim=1)
