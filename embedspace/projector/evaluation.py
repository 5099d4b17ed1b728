"""Evaluation: how likely a frozen model finds a sentence after its soft tokens, and after controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, get_args

import torch

from embedspace._util.progress import progress
from embedspace.metrics import MIN_ITEMS, Interval, bootstrap_bounds
from embedspace.projector.reader import INSTRUCTION, SoftTokenReader

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from embedspace.engines import TransformersEngine

Condition = Literal["nothing", "shuffled", "own", "mean row", "text"]
CONDITIONS: tuple[Condition, ...] = get_args(Condition)


@dataclass(frozen=True)
class ConditionScores:
    """How unlikely the model finds each sentence, asked to repeat it, under every condition.

    >>> scores = ConditionScores({"nothing": (5.0, 6.0), "shuffled": (7.0, 7.0), "own": (2.0, 2.5), "text": (1.0, 1.0)})
    >>> scores.better_control, round(scores.gap_closed().estimate, 3)
    ('nothing', 0.722)
    """

    nll: Mapping[Condition, tuple[float, ...]]
    """Condition -> mean negative log-likelihood per token of each sentence, in order, in nats."""

    def mean(self, condition: Condition) -> float:
        """Mean over sentences."""
        values = self.nll[condition]
        return sum(values) / len(values)

    @property
    def better_control(self) -> Condition:
        """Another sentence's soft tokens or nothing at all, whichever makes the sentences likelier."""
        return min(("shuffled", "nothing"), key=self.mean)

    def gap_closed(self, control: Condition | None = None, *, seed: int = 0) -> Interval:
        """Share of the gap between a control and the text itself that the sentence's own soft tokens close.

        The control is by default the better one. It is selected anew in every bootstrap sample of sentences (percentile
        interval), so that the selection is part of the uncertainty.
        """
        import numpy as np

        own, text = np.array(self.nll["own"]), np.array(self.nll["text"])
        names: tuple[Condition, ...] = (control,) if control else ("nothing", "shuffled")
        controls = [np.array(self.nll[name]) for name in names]

        def share(places: np.ndarray) -> float:
            base = min(values[places].mean() for values in controls)
            return float((base - own[places].mean()) / (base - text[places].mean()))

        everything = np.arange(len(own))
        if len(own) < MIN_ITEMS:
            return Interval.unknown(share(everything), len(own))
        draws = np.random.default_rng(seed).integers(len(own), size=(2000, len(own)))
        low, high = bootstrap_bounds(np.array([share(draw) for draw in draws]), len(own))
        if high - low < 1e-12:
            return Interval.unknown(share(everything), len(own))
        return Interval(share(everything), low, high, len(own))


def score_conditions(
    engine: TransformersEngine,
    soft: Float[Tensor, "sentences tokens hidden"],
    sentences: Sequence[str],
    *,
    instruction: str = INSTRUCTION,
    batch_size: int = 32,
    show_progress: bool = False,
) -> ConditionScores:
    """Scores of every sentence under every condition.

    Args:
        engine: the frozen model, which computes in its dtype.
        soft: the sentences' own soft tokens.
        sentences: their texts.
        instruction: the user's words before the soft tokens.
        batch_size: sentences per forward pass.
        show_progress: on stderr.

    Raises:
        ValueError: fewer than two sentences, or soft tokens for another number of them.
    """
    if len(sentences) < 2 or len(soft) != len(sentences):
        raise ValueError(
            f"scoring needs soft tokens for each of at least two sentences, got {len(soft)} for {len(sentences)}"
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
    scored = partial(
        nll_per_token, reader, sentences=sentences, batch_size=batch_size, show_progress=show_progress
    )
    return ConditionScores({condition: tuple(scored(rows[condition])) for condition in CONDITIONS})


@torch.inference_mode()
def nll_per_token(
    reader: SoftTokenReader,
    soft: Sequence[Float[Tensor, "tokens hidden"]],
    sentences: Sequence[str],
    *,
    batch_size: int = 32,
    show_progress: bool = False,
) -> list[float]:
    """Mean negative log-likelihood per token of each sentence after its soft tokens, in nats.

    Args:
        reader: the frozen model behind its instruction.
        soft: soft tokens of each sentence; ``[0, hidden]`` for none.
        sentences: texts.
        batch_size: sentences per forward pass, grouped by length.
        show_progress: on stderr.
    """
    ids = [reader.engine.space.tokenize(sentence) for sentence in sentences]
    order = sorted(range(len(ids)), key=lambda place: len(soft[place]) + len(ids[place]))
    found = [0.0] * len(ids)
    with progress("sentences scored", len(ids), shown=show_progress) as advance:
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            nll = reader.nll([soft[place] for place in places], [ids[place] for place in places])
            for place, value in zip(places, nll.tolist(), strict=True):
                found[place] = value / len(ids[place])
                advance()
    return found
