"""Interpolation: on the path between two prompts, whose answer does the model give: is it a path or a switch?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypedDict

from embedspace import EmbeddingSpace, PromptEmbeds, interpolate
from embedspace.engines import Prompt
from embedspace.metrics import random_rows, zero_padded
from embedspace.reporting import Comparison, Report, Section, compare_answers, counted
from embedspace.runs import AnswerOf, Case, Record, Tag, by_tags
from embedspace.space import nearest_distances
from experiments.interpolation.metrics import COPIED, FIRST, RANDOM, SECOND, Walks
from experiments.interpolation.report import (
    effects_table,
    figures,
    finding,
    kinds_table,
    leaving_table,
    places_table,
    verdict,
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
    """Name of a method -> options of ``interpolate`` besides t; None leaves the method out. The first is the one in
    question."""
    zero_padded: bool
    """Whether the method that is often copied, over whole prompts, is measured too."""
    steps: Sequence[float]
    """Positions between the ends, each in (0, 1)."""
    answered_steps: Sequence[float]
    """Positions at which the model answers; at the others and at the ends only likelihoods are computed."""
    random_seeds: Sequence[int]
    """One path to random rows for each pair and seed, by the first method."""
    random_steps: Sequence[float]
    """Positions on the paths to random rows, their end 1 among them."""

    @property
    def item_texts(self) -> list[str]:
        """Both prompts of each pair, for the ledger of sealed sets."""
        return [f"{pair['first']} / {pair['second']}" for pair in self.pairs]

    @property
    def chosen(self) -> dict[str, dict[str, Any]]:
        """The methods that are not left out."""
        return {way: dict(options) for way, options in self.ways.items() if options is not None}

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """The ends' own answers first, then every path, scored for both answers."""
        for number, pair in enumerate(self.pairs):
            for side, text in ((FIRST, pair["first"]), (SECOND, pair["second"])):
                yield Case(_end(number, side), partial(_chat, space, text), {"pair": number, "end": side})
        # What is answered comes first, so that an engine can batch it.
        for path, seed, t in sorted(self._walks(), key=lambda walk: walk[2] not in self.answered_steps):
            for number in range(len(self.pairs)):
                labels: dict[str, Tag] = {"pair": number, "path": path, "t": t}
                yield Case(
                    f"pair{number:02d}/{path}{'' if seed is None else f' {seed}'}/t={t:.2f}",
                    partial(self._at, space, number, path, seed, t),
                    labels if seed is None else {**labels, "seed": seed},
                    {side: AnswerOf(_end(number, side)) for side in (FIRST, SECOND)},
                    answered=t in self.answered_steps,
                    measured=partial(_distance_tag, space),
                )

    def analyse(self, records: Sequence[Record]) -> Report:
        """Where on the path the answer changes, how suddenly, and what else changes with it."""
        walks, title = Walks.of(records, list(self.chosen)), "Interpolation between prompts"
        kinds = [pair["kind"] for pair in self.pairs]
        tables = (
            ways_table(walks),
            effects_table(walks),
            leaving_table(walks),
            kinds_table(walks, kinds),
            places_table(walks),
        )
        section = Section(
            title,
            finding(walks),
            f"{counted(len(self.pairs), 'pair')} of prompts ({', '.join(dict.fromkeys(kinds))}). The content rows of "
            "the first prompt are moved to those of the second (t from 0 to 1), the template's stay. The answers of "
            "both ends become more or less likely along the path. A pair's transition from the first answer to the "
            "second is the stretch of t in which the difference of their likelihoods makes 80% of its change, from 10% "
            "to 90%; were likelihood linear in t, its width would be 0.8. That describes a path and tests nothing: "
            "each end's answer is greedy, so on any smooth path it changes little near its own end, and the width is "
            "smaller.\n\n"
            f"{self._controls()}",
            figures=figures(walks),
            tables=[table for table in tables if table.rows],
            comparisons=self._comparisons(records),
            verdict=verdict(walks),
            pair=("t 0: first prompt", f"t {min(self.answered_steps):g}") if self.answered_steps else None,
        )
        return Report(title, "", [section])

    def _controls(self) -> str:
        """What is measured besides the methods."""
        controls = []
        if self.random_seeds:
            controls.append(
                f"paths to random rows of the vocabulary, {len(self.random_seeds)} for each pair, which end at no "
                "other prompt"
            )
        if self.zero_padded:
            controls.append(
                "what is often copied, whole prompts padded with zeros at the end of the shorter one, the template's "
                "rows blended with the rest"
            )
        return f"Controls: {'; and '.join(controls)}." if controls else ""

    def _walks(self) -> Iterator[tuple[str, int | None, float]]:
        """Path, seed and position; the ends, which all methods share, are measured with the first method."""
        way, *others = self.chosen
        yield from ((way, None, t) for t in (0.0, *self.steps, 1.0))
        if self.zero_padded:
            yield from ((COPIED, None, t) for t in (0.0, *self.steps, 1.0))
        for seed in self.random_seeds:
            yield from ((RANDOM, seed, t) for t in self.random_steps)
        for way in others:
            yield from ((way, None, t) for t in self.steps)

    def _at(self, space: EmbeddingSpace, number: int, path: str, seed: int | None, t: float) -> PromptEmbeds:
        """The prompt at a position of a pair's path."""
        pair = self.pairs[number]
        first, second = _chat(space, pair["first"]), _chat(space, pair["second"])
        if path == COPIED:
            return zero_padded(first, second, t)
        if seed is not None:
            second = random_rows(space, second, seed * len(self.pairs) + number)
            path = next(iter(self.chosen))
        return interpolate(first, second, t, space=space, **self.chosen[path])

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        way = next(iter(self.chosen))
        return compare_answers(
            [f"{pair['first']} \u2192 {pair['second']}" for pair in self.pairs],
            by_tags(records, "pair", "end") | by_tags(records, "pair", "path", "t"),
            {
                "t 0: first prompt": (FIRST,),
                **{f"t {t:g}": (way, t) for t in sorted(self.answered_steps)},
                "t 1: second prompt": (SECOND,),
            },
        )


def _distance_tag(space: EmbeddingSpace, prompt: Prompt) -> dict[str, Tag]:
    """Mean Euclidean distance of the content rows to the vocabulary."""
    assert isinstance(prompt, PromptEmbeds)
    return {"distance": float(nearest_distances(space, prompt.content_vectors).mean())}


def _end(number: int, side: str) -> str:
    return f"pair{number:02d}/{side}"


def _chat(space: EmbeddingSpace, text: str) -> PromptEmbeds:
    return space.embed_chat([{"role": "user", "content": text}])
