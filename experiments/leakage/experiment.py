"""Leakage: what somebody who sees prompt embeddings, and has the model's public table, reads from them."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypedDict

import torch

from embedspace import EmbeddingSpace, PromptEmbeds, StyleVector, compress, interpolate
from embedspace._util.progress import progress
from embedspace._util.provenance import describe_origin, provenance
from embedspace.compression import Method, averaged, token_texts
from embedspace.metrics import Interval, mean_interval
from embedspace.projector import INSTRUCTION, Projector
from embedspace.space import token_ids
from experiments.attacks.optimise import unit
from experiments.leakage.readers import Reader, Reading, asked, likeliest, nearest, unmixed, unshifted

PAGE = """# What prompt embeddings give away

**Embeddings are not encryption.** The input embedding table of an open model is public, and a prompt embedding is, row
for row, an entry of that table: whoever sees the vectors can read the prompt with one matrix product. Treat a payload
of prompt embeddings, a cache of them, or a log line that contains one like the text itself: encrypt it in transit and
at rest, restrict who may read it, and delete it when the text would have to be deleted.

The transforms of this toolkit do not protect the text either; none was designed to. The table shows the share of a
text's distinct tokens (ignoring letter case and spaces) that an attacker with the model's table recovers after each
transform, over {texts} questions and `{model}`, with 95% bootstrap intervals. *Another text's* is the share of a
different text's tokens that are among those recovered: the chance level. *Tokens in place* is the share of rows that
are read as their original token.

- *nearest* is `space.read`: the row of highest cosine, after the vocabulary's mean is removed.
- *takes off the common shift* knows that all rows were moved by one unknown vector, and estimates the vector and the
  tokens alternately.
- *likeliest token* takes the nearest row by Euclidean distance, which is the best estimate under such noise if
  nothing is assumed about the language.
- *takes mixed rows apart* knows how many rows were averaged and with which weights, but not which rows, and searches
  for rows of the table whose weighted sum is the row that it sees.
- *asks the model* gives the soft tokens to the model itself, with "{instruction}" before them, and reads the greedy
  answer.

{table}
The noise level is the norm of the noise, in units of the root mean square distance of the vocabulary's rows from
their mean. Style shifts have the norm that is given (the vocabulary's rows have a norm of about 3.2). Tokens that are
*not* recovered here are not safe: no attacker of this table sees more than one prompt of a sender, tries likely texts
(the projector is public, so whoever guesses the text obtains exactly its soft tokens), or trains on pairs of texts
and vectors, and each of these recovers more. Compression by leaving rows out hides the rows that it leaves out, and
nothing else.

Made by `python experiments/run.py experiment=leakage`: {origin}.
"""


class Style(TypedDict):
    """A style vector's examples, and lengths that it is scaled to."""

    positive: Sequence[str]
    negative: Sequence[str]
    norms: Sequence[float]


@dataclass(frozen=True)
class Leak:
    """What one attacker reads after one transform."""

    transform: str
    attacker: str
    found: Interval
    """Share of a text's different tokens, letter case and spaces aside, that are among those read."""
    chance: Interval
    """The same share for another text's tokens."""
    in_place: Interval | None
    """Share of rows that are read as the very token they were; None where rows are no single tokens any more."""


@dataclass(frozen=True)
class Leakage:
    """Reads texts back from their rows after each transform.

    ``nearest`` is ``EmbeddingSpace.nearest``, as ``EmbeddingSpace.read`` uses it. The other attackers know what kind
    of transform it was, but neither the text nor any secret of the sender.
    """

    model: str
    texts: Sequence[str]
    style: Style
    steps: Sequence[float]
    """Interpolation parameters t."""
    methods: Sequence[Method]
    ratios: Sequence[float]
    noises: Sequence[float]
    """Length of the noise in a row, in units of the vocabulary's root mean square distance from its mean row."""
    beam: int
    """Guesses that the attacker on mixed rows keeps."""
    most_mixed: int
    """Most rows in one mixed row that it tries to take apart; its time grows with them."""
    projector: str | None
    """Makes soft tokens of each text's sentence vector; None where the model has no projector."""
    seed: int
    page: str
    """File that gets the table."""

    def __post_init__(self) -> None:
        if len(self.texts) < 2:
            raise ValueError(
                f"leakage is measured against another text's words: give 2 texts or more, got {len(self.texts)}"
            )
        if self.beam < 1:
            raise ValueError(f"beam must be at least 1, got {self.beam}")

    def run(self, folder: Path) -> str:
        """Measure everything, write the records into ``folder`` and the table into ``page``."""
        space = EmbeddingSpace.from_pretrained(self.model)
        folder.mkdir(parents=True, exist_ok=True)
        leaks = []
        with progress("leakage", self.rows_of_table) as advance:
            for leak in self.measured(space):
                leaks.append(leak)
                advance()
        origin = provenance()
        lines = [{"leak": asdict(leak), "seed": self.seed, **origin} for leak in leaks]
        (folder / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        table = as_markdown(leaks)
        Path(self.page).write_text(
            PAGE.format(
                texts=len(self.texts),
                model=self.model,
                instruction=INSTRUCTION,
                table=table,
                origin=describe_origin(origin),
            )
        )
        return f"{table}\nwritten to {self.page} and {folder / 'measurements.jsonl'}"

    @property
    def rows_of_table(self) -> int:
        """How many leaks there are to measure."""
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
        prompts = [space.embed(text) for text in self.texts]
        yield self._leak(space, "none", "nearest", prompts, _read(nearest, space, prompts))
        yield from self._shifted(space, prompts)
        yield from self._noisy(space, prompts)
        yield from self._blended(space, prompts)
        yield from self._compressed(space, prompts)
        if self.projector:
            yield from self._projected(space, self.projector, prompts)

    def _shifted(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        vector = StyleVector.fit(space, self.style["positive"], self.style["negative"])
        for norm in self.style["norms"]:
            sent = [(norm / vector.norm * vector).apply(prompt) for prompt in prompts]
            name = f"style shift of norm {norm:g}"
            yield self._leak(space, name, "nearest", prompts, _read(nearest, space, sent))
            yield self._leak(
                space, name, "takes off the common shift", prompts, _read(unshifted, space, sent)
            )

    def _noisy(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        generator = torch.Generator().manual_seed(self.seed)
        scale = unit(space) / space.hidden_size**0.5
        for noise in self.noises:
            sent = [
                p.with_content(
                    p.vectors.float() + noise * scale * torch.randn(p.vectors.shape, generator=generator)
                )
                for p in prompts
            ]
            name = f"noise of {noise:g}"
            yield self._leak(space, name, "nearest", prompts, _read(nearest, space, sent))
            yield self._leak(space, name, "likeliest token", prompts, _read(likeliest, space, sent))

    def _blended(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        pairs = list(zip(prompts, [*prompts[1:], prompts[0]], strict=True))
        cut = [[p.first_rows(min(map(len, pair))) for p in pair] for pair in pairs]
        for t in self.steps:
            sent = [interpolate(a, b, t) for a, b in cut]

            rows = [prompt.vectors for prompt in sent]
            readings = {
                "nearest": nearest(space, rows),
                "takes mixed rows apart": [
                    [unmixed(space, row, [1 - t, t], self.beam) for row in each] for each in rows
                ],
            }
            for side, name in enumerate(("first", "second")):
                texts = [pair[side] for pair in cut]
                for attacker, read in readings.items():
                    # Two neighbouring texts are in a blend: chance is that of a third.
                    yield self._leak(
                        space, f"blend at t = {t:g}, {name} text", attacker, texts, read, other=3
                    )

    def _compressed(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        for method in self.methods:
            for ratio in self.ratios:
                known = space if method in ("salience", "merge") else None
                sent = [compress(prompt, ratio, method=method, space=known) for prompt in prompts]
                name = f"compressed {ratio:g} times, {method}"
                yield self._leak(space, name, "nearest", prompts, _read(nearest, space, sent))
                if method == "average" and ratio <= self.most_mixed:
                    apart = [self._unpooled(space, len(p), s) for p, s in zip(prompts, sent, strict=True)]
                    yield self._leak(space, name, "takes mixed rows apart", prompts, apart)

    def _projected(self, space: EmbeddingSpace, name: str, prompts: Sequence[PromptEmbeds]) -> Iterator[Leak]:
        projector = Projector.from_pretrained(name, space=space)
        sent = [projector.project(vector, space) for vector in projector.encode(self.texts)]
        transform = f"{projector.tokens} soft tokens of the sentence vector"
        yield self._leak(space, transform, "nearest", prompts, _read(nearest, space, sent))
        yield self._leak(space, transform, "asks the model", prompts, asked(space, sent))

    def _unpooled(self, space: EmbeddingSpace, count: int, sent: PromptEmbeds) -> Reading:
        """Bins of a known width, taken apart."""
        pooling = averaged(count, len(sent))
        bags = pooling.shares.split(pooling.sizes.tolist())
        return [
            unmixed(space, row, bag.tolist(), self.beam) for row, bag in zip(sent.vectors, bags, strict=True)
        ]

    def _leak(
        self,
        space: EmbeddingSpace,
        transform: str,
        attacker: str,
        originals: Sequence[PromptEmbeds],
        readings: Sequence[Reading],
        *,
        other: int = 1,
    ) -> Leak:
        """The figures of one attacker; ``other`` is how many texts further the one for chance stands."""
        truths = [_ids(space, prompt) for prompt in originals]
        words = [_spellings(space, ids) for ids in truths]
        seen = [_spellings(space, [token for row in reading for token in row]) for reading in readings]
        shifted = [*words[other:], *words[:other]]
        pairs = list(zip(truths, readings, strict=True))
        single = all(len(t) == len(r) and all(len(row) == 1 for row in r) for t, r in pairs)
        return Leak(
            transform,
            attacker,
            mean_interval([len(own & read) / len(own) for own, read in zip(words, seen, strict=True)]),
            mean_interval([len(own & read) / len(own) for own, read in zip(shifted, seen, strict=True)]),
            mean_interval([sum(token == row[0] for token, row in zip(t, r, strict=True)) / len(t) for t, r in pairs])
            if single else None,
        )  # fmt: skip


def as_markdown(leaks: Sequence[Leak]) -> str:
    """A table, one line for each transform and attacker."""
    lines = [
        "| transform | attacker | tokens read | another text's | tokens in place |",
        "| --- | --- | --- | --- | --- |",
    ]
    for leak in leaks:
        placed = "" if leak.in_place is None else _percent(leak.in_place)
        lines.append(
            f"| {leak.transform} | {leak.attacker} | {_percent(leak.found)} | {_percent(leak.chance)} | {placed} |"
        )
    return "\n".join(lines) + "\n"


def _read(reader: Reader, space: EmbeddingSpace, sent: Sequence[PromptEmbeds]) -> list[Reading]:
    return reader(space, [prompt.vectors for prompt in sent])


def _ids(space: EmbeddingSpace, prompt: PromptEmbeds) -> list[int]:
    ids: list[int] = token_ids(space, prompt.vectors).tolist()
    return ids


def _spellings(space: EmbeddingSpace, ids: Sequence[int]) -> set[str]:
    """Different tokens with a letter or digit in them."""
    spelt = {text.strip().lower() for text in token_texts(space, ids)}
    return {text for text in spelt if any(map(str.isalnum, text))}


def _percent(share: Interval) -> str:
    return f"{share.estimate:.0%} ({share.low:.0%} to {share.high:.0%})"
