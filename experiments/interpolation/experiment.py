"""Interpolation: on the way between two prompts, whose answer does the model give: is it a path or a switch?"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, interpolate
from embedspace.metrics import random_rows, zero_padded
from embedspace.reporting import Answer, Comparison, Figure, Line, Report, Section, line_figure
from embedspace.runs import AnswerOf, Case, Record, Tag, by_tags
from embedspace.space import nearest_distances
from experiments.interpolation.metrics import (
    COPIED,
    FIRST,
    RANDOM,
    SECOND,
    Walks,
    effects_table,
    finding,
    kinds_table,
    leaving_table,
    places_table,
    ways_table,
)


class Pair(TypedDict):
    """Two prompts, and in what they differ."""

    kind: str
    first: str
    second: str


@dataclass(frozen=True)
class Interpolation:
    """Walks from each pair's first prompt to its second, and to random rows of the same number."""

    pairs: Sequence[Pair]
    ways: Mapping[str, Mapping[str, Any] | None]
    """Name of a way to walk -> what ``interpolate`` is told beside t; None leaves the way out. The first is the one
    in question."""
    zero_padded: bool
    """Whether the way that is often copied, over whole prompts, is walked too."""
    steps: Sequence[float]
    """Positions between the ends, each in (0, 1)."""
    answered_steps: Sequence[float]
    """Positions at which the model answers; at the others and at the ends likelihoods alone are wanted."""
    random_seeds: Sequence[int]
    """One path to random rows for each pair and seed, walked in the first way."""
    random_steps: Sequence[float]
    """Positions on the paths to random rows, their end 1 among them."""

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The ways that are not left out."""
        return {way: dict(options) for way, options in self.ways.items() if options is not None}

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The ends' own answers first, then every path, scored for both answers."""
        ends = [(_chat(space, pair["first"]), _chat(space, pair["second"])) for pair in self.pairs]
        for number, pair in enumerate(ends):
            for side, prompt in zip((FIRST, SECOND), pair, strict=True):
                yield Case(_end(number, side), prompt, {"pair": number, "end": side})
        # What is answered comes first, so that an engine can batch it.
        for path, seed, t in sorted(self._walks(), key=lambda walk: walk[2] not in self.answered_steps):
            prompts = [self._at(space, pair, number, path, seed, t) for number, pair in enumerate(ends)]
            for number, (prompt, off) in enumerate(
                zip(prompts, self._distances(space, prompts), strict=True)
            ):
                tags: dict[str, Tag] = {"pair": number, "path": path, "t": t, "distance": off}
                yield Case(
                    f"pair{number:02d}/{path}{'' if seed is None else f' {seed}'}/t={t:.2f}",
                    prompt,
                    tags if seed is None else {**tags, "seed": seed},
                    {side: AnswerOf(_end(number, side)) for side in (FIRST, SECOND)},
                    answered=t in self.answered_steps,
                )

    def analyse(self, records: Sequence[Record]) -> Report:
        """Where on the way the answer changes, how suddenly, and what else changes with it."""
        walks = Walks.of(records, list(self.chosen))
        section = Section(
            "Interpolation between prompts",
            finding(walks),
            f"{len(self.pairs)} pairs of prompts ({', '.join(dict.fromkeys(pair['kind'] for pair in self.pairs))}). "
            "The content rows of the first prompt are moved to those of the second (t from 0 to 1), the template's "
            "stay. The answers of both ends are known; along the way, each becomes more or less likely. A pair's turn "
            "from the first answer to the second is the stretch of t in which the difference of their likelihoods "
            "makes 80% of its way, from 10% to 90%; were likelihood to follow t, it would be 0.8 wide.\n\n"
            "Controls: paths to random rows of the vocabulary, "
            f"{len(self.random_seeds)} for each pair, where no other answer waits; and what is often copied, whole "
            "prompts padded with zeros at the end of the shorter one, the template's rows blended with the rest.",
            figures=self._figures(walks),
            tables=[
                table
                for table in (
                    ways_table(walks),
                    effects_table(walks),
                    leaving_table(walks),
                    kinds_table(walks, [pair["kind"] for pair in self.pairs]),
                    places_table(walks),
                )
                if table.rows
            ],
            comparisons=self._comparisons(records),
        )
        return Report("Interpolation between prompts", "", [section])

    def _walks(self) -> Iterator[tuple[str, int | None, float]]:
        """Path, seed and position; the ends, which all ways share, are asked about on the first way."""
        way, *others = self.chosen
        yield from ((way, None, t) for t in (0.0, *self.steps, 1.0))
        if self.zero_padded:
            yield from ((COPIED, None, t) for t in (0.0, *self.steps, 1.0))
        for seed in self.random_seeds:
            yield from ((RANDOM, seed, t) for t in self.random_steps)
        for way in others:
            yield from ((way, None, t) for t in self.steps)

    def _at(
        self,
        space: EmbeddingSpace,
        ends: tuple[PromptEmbeds, PromptEmbeds],
        number: int,
        path: str,
        seed: int | None,
        t: float,
    ) -> PromptEmbeds:
        first, second = ends
        if path == COPIED:
            return zero_padded(first, second, t)
        if seed is not None:
            second = random_rows(space, second, seed * len(self.pairs) + number)
            path = next(iter(self.chosen))
        return interpolate(first, second, t, space=space, **self.chosen[path])

    @cached_property
    def _known(self) -> dict[str, float]:
        """Distances by recipe: an experiment's cases are made more than once."""
        return {}

    def _distances(self, space: EmbeddingSpace, prompts: Sequence[PromptEmbeds]) -> list[float]:
        """Mean distance of each prompt's content rows to the vocabulary."""
        digests = [prompt.recipe.digest for prompt in prompts]
        new = {
            digest: prompt
            for digest, prompt in zip(digests, prompts, strict=True)
            if digest not in self._known
        }
        if new:
            import torch

            rows = [prompt.content_vectors for prompt in new.values()]
            found = nearest_distances(space, torch.cat(rows)).split([len(piece) for piece in rows])
            self._known.update({digest: float(own.mean()) for digest, own in zip(new, found, strict=True)})
        return [self._known[digest] for digest in digests]

    def _figures(self, walks: Walks) -> list[Figure]:
        way = walks.ways[0]
        own = {FIRST: "first prompt's answer", SECOND: "second prompt's answer"}
        away = {FIRST: "first, on the path to random rows", SECOND: "second, on the path to random rows"}
        both = [(way, side, name) for side, name in own.items()] + [
            (RANDOM, side, name) for side, name in away.items()
        ]
        paths = [(path, path) for path in (*walks.ways, COPIED, RANDOM)]
        drawn = (
            _figure(
                ((name, walks.likelihood.curve(walks.places(path, side))) for path, side, name in both),
                "log-likelihood, nats per token",
                f"How likely each end's own greedy answer is along the path ({way}). Bands are 95% intervals over "
                "pairs; grey is the path to random rows.",
                band=True,
            ),
            _figure(
                ((name, walks.turned.curve(walks.places(path))) for path, name in paths),
                "share of the turn made",
                "The difference of the two answers' likelihoods, second less first, from 0 at the first prompt to 1 "
                "at the second, mean over pairs. From corner to corner in a straight line, likelihood would follow t.",
            ),
            _figure(
                ((name, walks.likeness.curve(walks.places(path, side))) for path, side, name in both),
                "likeness in meaning",
                f"Likeness (cosine of sentence vectors) of the answer given on the way ({way}) to each end's own.",
                band=True,
            ),
            _figure(
                ((name, walks.distance.curve(walks.places(path))) for path, name in paths),
                "distance to the vocabulary",
                "Euclidean distance of the content rows to the nearest row of the vocabulary; of the zero-padded way, "
                "of all rows.",
            ),
        )
        return [figure for figure in drawn if figure is not None]

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        ends = {place: found[0] for place, found in by_tags(records, "pair", "end").items()}
        walks = {place: found[0] for place, found in by_tags(records, "pair", "path", "t").items()}
        way = next(iter(self.chosen))
        comparisons = []
        for number, pair in enumerate(self.pairs):
            shown = [
                Answer.of("t 0: first prompt", ends[number, FIRST]) if (number, FIRST) in ends else None,
                *(
                    Answer.of(f"t {t:g}", walks[number, way, t])
                    for t in sorted(self.answered_steps)
                    if (number, way, t) in walks
                ),
                Answer.of("t 1: second prompt", ends[number, SECOND]) if (number, SECOND) in ends else None,
            ]
            comparisons.append(
                Comparison(f"{pair['first']} → {pair['second']}", [answer for answer in shown if answer])
            )
        return [comparison for comparison in comparisons if comparison.answers]


def _figure(
    curves: Iterable[tuple[str, Mapping[float, Any]]], label: str, caption: str, *, band: bool = False
) -> Figure | None:
    lines = []
    for name, points in curves:
        control = name == COPIED or "random rows" in name
        if len(points) > 1:
            lines.append(Line(name, points, control=control, band=band and not control))
    return (
        line_figure(lines, x_label="position t on the path", y_label=label, caption=caption)
        if lines
        else None
    )


def _end(number: int, side: str) -> str:
    return f"pair{number:02d}/{side}"


def _chat(space: EmbeddingSpace, text: str) -> PromptEmbeds:
    return space.embed_chat([{"role": "user", "content": text}])
