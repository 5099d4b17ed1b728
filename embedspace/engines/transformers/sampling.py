"""Token choice of the in-process engine: greedy or sampled, reproducible for each prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from embedspace.engines.base import Sampling

if TYPE_CHECKING:
    from torch import Tensor

    from embedspace.space import Tokenizer


class Sampler:
    """A logits processor after which the highest score is the token to take.

    Adding independent Gumbel noise to log-probabilities and taking the highest is drawing from the
    distribution (Gumbel 1954; Maddison et al. 2014, arXiv:1411.0030). Each sequence has a generator of
    its own, seeded by the seed, the prompt and the completion's index, so that what else is in the
    batch changes nothing. Log-probabilities are those of the model, before temperature and nucleus.
    """

    def __init__(self, sampling: Sampling, identities: Sequence[str], tokenizer: Tokenizer) -> None:
        self._sampling = sampling
        self._tokenizer = tokenizer
        self._generators = [
            _generator(f"{sampling.seed} {position % sampling.n} {identity}")
            for position, identity in enumerate(identities)
        ]
        self._chosen: list[list[float]] = [[] for _ in identities]
        self._top: list[list[dict[str, float]]] = [[] for _ in identities]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        from transformers import TemperatureLogitsWarper, TopPLogitsWarper

        noisy = scores = scores.float()
        if self._sampling.temperature > 0:
            noisy = TemperatureLogitsWarper(self._sampling.temperature)(input_ids, noisy)
            if self._sampling.top_p < 1:
                noisy = TopPLogitsWarper(self._sampling.top_p)(input_ids, noisy)
            noise = [torch.rand(scores.shape[1], generator=generator) for generator in self._generators]
            noisy = noisy - (-torch.stack(noise).clamp_min(1e-20).log()).log().to(noisy.device)
        if self._sampling.logprobs is not None:
            self._record(scores.log_softmax(dim=-1), noisy.argmax(dim=-1))
        return noisy

    def _record(self, logprobs: Tensor, tokens: Tensor) -> None:
        chosen = logprobs.gather(1, tokens[:, None])[:, 0].tolist()
        values, ids = logprobs.topk(self._sampling.logprobs or 1, dim=1)
        for row, value in enumerate(chosen):
            self._chosen[row].append(value)
            if self._sampling.logprobs:
                names = [self._tokenizer.decode([token]) for token in ids[row].tolist()]
                self._top[row].append(dict(zip(names, values[row].tolist(), strict=True)))

    def logprobs(self, row: int, count: int) -> tuple[tuple[float, ...], tuple[dict[str, float], ...]]:
        """Log-probabilities of the first new tokens of one sequence, and those of the likeliest tokens there."""
        return tuple(self._chosen[row][:count]), tuple(self._top[row][:count])

    def cut(self, tokens: list[int], ends: set[int]) -> tuple[list[int], str, str]:
        """Tokens, text and finish reason of one sequence, cut at its end."""
        end = next((position for position, token in enumerate(tokens) if token in ends), None)
        body = tokens[:end]
        text = self._tokenizer.decode(body, skip_special_tokens=True)
        stops = [text.index(stop) for stop in self._sampling.stop if stop in text]
        if stops:
            while len(body) > 1 and any(
                stop in self._tokenizer.decode(body[:-1], skip_special_tokens=True)
                for stop in self._sampling.stop
            ):
                body.pop()
            return body, text[: min(stops)], "stop"
        if end is None:
            return body, text, "length"
        return tokens[: end + 1], text, "stop"


class StopStrings:
    """A stopping criterion: sequences whose new text holds a stop string are done."""

    def __init__(self, stop: Sequence[str], tokenizer: Tokenizer, skipped: int) -> None:
        self._stop = stop
        self._tokenizer = tokenizer
        self._skipped = skipped

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        # Every token adds at least one byte, so only the last few can be part of a stop string.
        tail = max((len(stop.encode()) for stop in self._stop), default=0) + 1
        done = [
            any(stop in self._tokenizer.decode(row[-tail:], skip_special_tokens=True) for stop in self._stop)
            for row in input_ids[:, self._skipped :].tolist()
        ]
        return torch.tensor(done, device=input_ids.device)


def _generator(identity: str) -> torch.Generator:
    seed = int.from_bytes(hashlib.blake2b(identity.encode(), digest_size=8).digest(), "big") % 2**63
    return torch.Generator().manual_seed(seed)
