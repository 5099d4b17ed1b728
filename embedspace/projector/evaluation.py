"""How much of a sentence soft tokens tell a frozen model, beside the controls that every claim needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch

from embedspace._util.progress import progress
from embedspace.metrics import CONFIDENCE, Interval
from embedspace.projector.reader import INSTRUCTION, SoftTokenReader

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine

Condition = Literal["nothing", "shuffled", "own", "mean row", "text"]
CONDITIONS: tuple[Condition, ...] = ("nothing", "shuffled", "own", "mean row", "text")


@dataclass(frozen=True)
class Ladder:
    """Nats a token of each sentence, asked to repeat it, under every condition."""

    nats: Mapping[Condition, tuple[float, ...]]
    """Condition -> one value for each sentence, in order."""

    def mean(self, condition: Condition) -> float:
        """Mean over sentences."""
        values = self.nats[condition]
        return sum(values) / len(values)

    @property
    def better_control(self) -> Condition:
        """Of another sentence's soft tokens and nothing at all, the one that costs less."""
        return min(("shuffled", "nothing"), key=self.mean)

    def closed(self, control: Condition | None = None, *, seed: int = 0) -> Interval:
        """Share of the gap between a control and the text itself that the sentence's own soft tokens close.

        The control is by default the better one, chosen anew in every bootstrap sample of sentences (percentile
        interval), so that the choice is part of the uncertainty.
        """
        import numpy as np

        own, text = np.array(self.nats["own"]), np.array(self.nats["text"])
        controls = [
            np.array(self.nats[name]) for name in ((control,) if control else ("nothing", "shuffled"))
        ]

        def share(places: np.ndarray) -> float:
            base = min(values[places].mean() for values in controls)
            return float((base - own[places].mean()) / (base - text[places].mean()))

        everything = np.arange(len(own))
        draws = np.random.default_rng(seed).integers(len(own), size=(2000, len(own)))
        low, high = np.quantile([share(draw) for draw in draws], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        return Interval(share(everything), float(low), float(high), len(own))


def climb(
    engine: TransformersEngine,
    soft: Float[Tensor, "sentences tokens hidden"],
    sentences: Sequence[str],
    *,
    instruction: str = INSTRUCTION,
    batch_size: int = 32,
    shown: bool = False,
) -> Ladder:
    """Every condition for every sentence.

    Args:
        engine: the frozen model; its dtype is computed in.
        soft: the sentences' own soft tokens.
        sentences: their texts.
        instruction: the user's words before the soft tokens.
        batch_size: sentences that are scored together.
        shown: show progress.

    Raises:
        ValueError: fewer than two sentences, or soft tokens for another number of them.
    """
    if len(sentences) < 2 or len(soft) != len(sentences):
        raise ValueError(
            f"the ladder needs soft tokens for each of at least two sentences, got {len(soft)} for {len(sentences)}"
        )
    reader = SoftTokenReader(engine, instruction)
    mean = engine.space.mean.expand(soft.shape[1], -1)
    rows: Mapping[Condition, Sequence[Tensor]] = {
        "nothing": [soft[0, :0]] * len(soft),
        "shuffled": list(soft.roll(1, dims=0)),
        "own": list(soft),
        "mean row": [mean] * len(soft),
        "text": [reader.text_rows(sentence) for sentence in sentences],
    }
    return Ladder(
        {
            condition: tuple(
                nats_per_token(reader, rows[condition], sentences, batch_size=batch_size, shown=shown)
            )
            for condition in CONDITIONS
        }
    )


@torch.inference_mode()
def nats_per_token(
    reader: SoftTokenReader,
    soft: Sequence[Float[Tensor, "tokens hidden"]],
    sentences: Sequence[str],
    *,
    batch_size: int = 32,
    shown: bool = False,
) -> list[float]:
    """Mean negative log-likelihood a token of each sentence after its soft tokens.

    Args:
        reader: the frozen model behind its instruction.
        soft: soft tokens of each sentence; ``[0, hidden]`` for none.
        sentences: texts.
        batch_size: sentences that are scored together, those of like length.
        shown: show progress.
    """
    ids = [reader.engine.space.tokenize(sentence) for sentence in sentences]
    order = sorted(range(len(ids)), key=lambda place: len(soft[place]) + len(ids[place]))
    found = [0.0] * len(ids)
    from contextlib import nullcontext

    with progress("sentences scored", len(ids)) if shown else nullcontext(lambda: None) as advance:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            nats = reader.nats([soft[place] for place in places], [ids[place] for place in places])
            for place, value in zip(places, nats.tolist(), strict=True):
                found[place] = value / len(ids[place])
                advance()
    return found
