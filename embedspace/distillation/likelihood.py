"""How unlikely answers are after prompts that a vector has moved, with gradients to the vector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F

from embedspace.prompt import PromptEmbeds, Rows, add_to_rows

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine


def answer_nats(
    engine: TransformersEngine,
    cases: Sequence[tuple[PromptEmbeds, list[int]]],
    vector: Tensor,
    rows: Rows = "content",
) -> Float[Tensor, " cases"]:
    """Mean negative log-probability of each answer's tokens after its prompt, whose rows the vector moves."""
    longest = max(len(prompt) + len(answer) for prompt, answer in cases)
    made, targets = [], torch.full((len(cases), longest), -100)
    for position, (prompt, answer) in enumerate(cases):
        moved = add_to_rows(prompt, vector, rows)
        said = engine.space.lookup(answer).to(vector)
        made.append(F.pad(torch.cat([moved, said]), (0, 0, 0, longest - len(prompt) - len(answer))))
        targets[position, len(prompt) : len(prompt) + len(answer)] = torch.tensor(answer)
    # Padding comes after all that counts, where causal attention does not look.
    embeddings = torch.stack(made).to(engine.dtype)
    first = min(len(prompt) for prompt, _ in cases) - 1
    # As positions, not as a count: a count makes a view, whose product with the vocabulary copies the whole table.
    kept = torch.arange(first, longest, device=engine.device)
    logits = engine.model(inputs_embeds=embeddings, logits_to_keep=kept, use_cache=False).logits
    wanted = targets[:, first + 1 :].to(vector.device)
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), wanted, reduction="none")
    return losses.sum(dim=1) / (wanted >= 0).sum(dim=1)


def end_tokens(engine: TransformersEngine) -> list[int]:
    """Tokens with which the model ends its turn."""
    ends = engine.model.generation_config.eos_token_id
    return list(ends) if isinstance(ends, list | tuple) else [] if ends is None else [ends]
