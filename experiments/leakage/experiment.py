"""Leakage: what an attacker with the model's public table recovers from prompt embeddings."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypedDict

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector, compress, interpolate
from embedspace._util.files import atomic_write
from embedspace._util.progress import progress
from embedspace._util.provenance import provenance
from embedspace.compression import Method, averaged
from embedspace.projector import Projector
from embedspace.safety import vocabulary_spread
from experiments.leakage.metrics import Leak
from experiments.leakage.readers import (
    Reader,
    Reading,
    answered,
    maximum_likelihood,
    nearest,
    unmixed,
    unshifted,
)
from experiments.leakage.report import as_page, leak_table


class Style(TypedDict):
    """A style vector's examples, and the norms that it is scaled to."""

    positive: Sequence[str]
    negative: Sequence[str]
    norms: Sequence[float]


@dataclass(frozen=True)
class Leakage:
    """Recovers texts from their rows after each transform.

    ``nearest`` is ``EmbeddingSpace.nearest``, as used by ``EmbeddingSpace.read``. The other attackers know the kind of
    transform, but neither the text nor any secret of the sender.
    """

    model: str
    texts: Sequence[str]
    style: Style
    steps: Sequence[float]
    """Interpolation parameters t."""
    methods: Sequence[Method]
    ratios: Sequence[float]
    noises: Sequence[float]
    """Norm of the noise in a row, in units of the vocabulary's root mean square distance from its mean row."""
    beam: int
    """Beam width of the attacker that unmixes rows."""
    most_mixed: int
    """Most rows in one mixed row that it tries to unmix; its time grows with them."""
    projector: str | None
    """Projects each text's sentence vector to soft tokens; None if the model has no projector."""
    seed: int
    page: str
    """File for the table."""

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise ValueError(
                f"leakage is compared with another text's words: give 2 texts or more, got {len(self.texts)}"
            )
        if self.beam < 1:
            raise ValueError(f"beam must be at least 1, got {self.beam}")

    def run(self, folder: Path) -> str:
        """Run every attacker, write the records into ``folder`` and the table into ``page``."""
        space = EmbeddingSpace.from_pretrained(self.model)
        folder.mkdir(parents=True, exist_ok=True)
        leaks = []
        with progress("leakage", self.rows_of_table) as advance:
            for leak in self.measured(space):
                leaks.append(leak)
                advance()
        origin = provenance()
        lines = [{"leak": asdict(leak), "seed": self.seed, **origin} for leak in leaks]
        atomic_write(folder / "measurements.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
        atomic_write(Path(self.page), as_page(leaks, len(self.texts), self.model, origin))
        return f"{leak_table(leaks)}\nwritten to {self.page} and {folder / 'measurements.jsonl'}"

    @property
    def rows_of_table(self) -> int:
        """Number of measurements."""
        apart = sum(
            method == "average" and ratio <= self.most_mixed
            for method in self.methods
            for ratio in self.ratios
        )
        single = len(self.style["norms"]) + len(self.noises) + 2 * len(self.steps)
        projected = 2 if self.projector else 0
        return 1 + 2 * single + len(self.methods) * len(self.ratios) + apart + projected

    def measured(self, space: EmbeddingSpace) -> Iterator[Leak]:
        """One row for each transform and attacker."""
        prompts = [space.embed(text, special_tokens=False) for text in self.texts]
        yield from _leaks(space, "none", prompts, prompts)
        yield from self._shifted(space, prompts)
        yield from self._noisy(space, prompts)
        yield from self._blended(space, prompts)
        yield from self._compressed(space, prompts)
        if self.projector:
            projector = Projector.from_pretrained(self.projector, space=space)
            sent = [projector.project(vector, space) for vector in projector.encode(self.texts)]
            transform = f"{projector.tokens} soft tokens of the sentence vector"
            yield from _leaks(space, transform, prompts, sent)
            yield Leak.measure(space, transform, "asks the model", prompts, answered(space, sent))

    def _shifted(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        vector = StyleVector.fit(space, self.style["positive"], self.style["negative"])
        for norm in self.style["norms"]:
            sent = [(norm / vector.norm * vector).apply(prompt) for prompt in prompts]
            transform = f"style shift of norm {norm:g}"
            yield from _leaks(space, transform, prompts, sent, {"estimates the shift": unshifted})

    def _noisy(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        generator = torch.Generator().manual_seed(self.seed)
        scale = vocabulary_spread(space) / space.hidden_size**0.5
        for noise in self.noises:
            sent = [
                p.with_content(
                    p.vectors.float() + noise * scale * torch.randn(p.vectors.shape, generator=generator)
                )
                for p in prompts
            ]
            attackers = {"maximum likelihood": maximum_likelihood}
            yield from _leaks(space, f"noise of {noise:g}", prompts, sent, attackers)

    def _blended(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        pairs = list(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        cut = [[p.first_rows(min(map(len, pair))) for p in pair] for pair in pairs]
        for t in self.steps:
            rows = [interpolate(a, b, t).vectors for a, b in cut]
            readings = {
                "nearest": nearest(space, rows),
                "unmixes rows": [
                    [unmixed(space, row, [1 - t, t], self.beam) for row in each] for each in rows
                ],
            }
            for side, name in enumerate(("first", "second")):
                texts = [pair[side] for pair in cut]
                for attacker, read in readings.items():
                    # A blend holds two neighbouring texts: the chance level is that of a third.
                    transform = f"blend at t = {t:g}, {name} text"
                    yield Leak.measure(space, transform, attacker, texts, read, offset=3)

    def _compressed(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        for method in self.methods:
            for ratio in self.ratios:
                needed = space if method in ("salience", "merge") else None
                sent = [compress(prompt, ratio, method=method, space=needed) for prompt in prompts]
                transform = f"compressed {ratio:g} times, {method}"
                yield from _leaks(space, transform, prompts, sent)
                if method == "average" and ratio <= self.most_mixed:
                    read = [self._unpooled(space, len(p), s) for p, s in zip(prompts, sent, strict=True)]
                    yield Leak.measure(space, transform, "unmixes rows", prompts, read)

    def _unpooled(self, space: EmbeddingSpace, count: int, sent: PromptEmbeds) -> Reading:
        """Unmixes averages over bins of known width."""
        pooling = averaged(count, len(sent))
        bags = pooling.shares.split(pooling.sizes.tolist())
        return [
            unmixed(space, row, bag.tolist(), self.beam) for row, bag in zip(sent.vectors, bags, strict=True)
        ]


def _leaks(
    space: EmbeddingSpace,
    transform: str,
    originals: Sequence[PromptEmbeds],
    sent: Sequence[PromptEmbeds],
    attackers: Mapping[str, Reader] = MappingProxyType({}),
) -> Iterator[Leak]:
    """Of the nearest-row attacker and of others."""
    rows = [prompt.vectors for prompt in sent]
    for name, reader in {"nearest": nearest, **attackers}.items():
        yield Leak.measure(space, transform, name, originals, reader(space, rows))
