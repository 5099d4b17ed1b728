"""The projector: does the model read this very sentence from its soft tokens, and not just any?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.metrics import Interval, Measure, SentenceSimilarity, mean_rows, share_interval
from embedspace.projector import CONDITIONS, ConditionScores, Projector, insert
from embedspace.reporting import Answer, Comparison, Report, Section, unsigned
from embedspace.runs import Case, Record, by_tags
from experiments.projector.metrics import (
    ANY,
    MEAN,
    NOTHING,
    OWN,
    SHUFFLED,
    TEXT,
    place_of,
    recorded_at,
    scores_of,
    shared_words,
)
from experiments.projector.report import (
    answers_table,
    conditions_figure,
    conditions_table,
    curves,
    finding_of_answers,
    percent,
    search_table,
)

if TYPE_CHECKING:
    from experiments.projector.quick_training import QuickProjectors

SENTENCE = "sentence"
"""Name of the continuation that is the sentence itself."""


@dataclass(frozen=True)
class SoftTokens:
    """Asks the model to repeat a sentence that it is given as soft tokens, or in one of the controls' ways.

    Raises:
        ValueError: more candidates or sentences asked for than there are sentences of a kind, or no projector.
    """

    kinds: Mapping[str, Sequence[str]]
    """Kind of sentences -> sentences that no projector was trained on."""
    source: str
    """Where they come from, for the report."""
    projectors: Mapping[str, str]
    """Name -> a packaged projector's name, a folder or a hub id. What stands before a slash in names is one line of the
    curves. The first is the one in question."""
    trained: QuickProjectors | None
    """More of them, trained in moments, for the curves."""
    instruction: str
    """The user's words before the soft tokens."""
    answered: int
    """Sentences of each kind that the model also writes down; at the others their likelihood alone is wanted."""
    retrieved: int
    """Sentences of each kind that are looked for among others by likelihood."""
    candidates: int
    """Among how many."""
    compared: int
    """Sentences of each kind on which the other projectors are measured."""

    def __post_init__(self) -> None:
        if not self.projectors and self.trained is None:
            raise ValueError("there is no projector to measure: name one in projectors, or have some trained")
        for kind, sentences in self.kinds.items():
            for name in ("answered", "retrieved", "candidates", "compared"):
                if getattr(self, name) > len(sentences):
                    raise ValueError(
                        f"{name} is {getattr(self, name)} and there are {len(sentences)} sentences of the kind {kind!r}"
                    )
            if len(sentences) < 2:
                raise ValueError(f"shuffling takes at least two sentences of the kind {kind!r}")

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """Every condition for every sentence, what is answered first, so that an engine can batch it."""
        main, *others = self._projectors(space).items()
        both = [
            case
            for kind in self.kinds
            for case in (*self._without(space, kind), *self._with(space, kind, *main, mean=True))
        ]
        yield from sorted(both, key=lambda case: not case.answered)
        for kind in self.kinds:
            yield from self._searches(space, kind, *main)
        for kind in self.kinds:
            for name, projector in others:
                yield from self._with(space, kind, name, projector, most=self.compared)

    def analyse(self, records: Sequence[Record]) -> Report:
        """For each kind of sentences the scores and what else tells of reading; then the curves."""
        nats = Measure.of(
            (recorded_at(record), int(record.tags["sentence"]), -record.scores[SENTENCE].per_token)
            for record in records
            if SENTENCE in record.scores
        )
        main = next((str(r.tags["projector"]) for r in records if r.tags["projector"] != ANY), ANY)
        sections = [self._section(kind, main, nats, records) for kind in self.kinds]
        return Report(
            "Sentences as soft tokens",
            f"Sentences from {self.source}; the projector in question is {main!r}.",
            [*sections, *curves(list(self.kinds), self.compared, nats, records)],
        )

    @cached_property
    def _loaded(self) -> dict[str, Projector]:
        return {}

    def _projectors(self, space: EmbeddingSpace) -> dict[str, Projector]:
        """By name, in order; loaded once."""
        if not self._loaded:
            folders: dict[str, str | Path] = {
                **self.projectors,
                **(self.trained.folders(space) if self.trained else {}),
            }
            for name, folder in folders.items():
                self._loaded[name] = Projector.from_pretrained(folder, space=space)
        return self._loaded

    def _prompt(self, space: EmbeddingSpace, rows: PromptEmbeds | None) -> PromptEmbeds:
        prompt = space.embed_chat([{"role": "user", "content": self.instruction}])
        return prompt if rows is None else insert(prompt, rows)

    def _without(self, space: EmbeddingSpace, kind: str) -> Iterator[Case]:
        """Nothing, and the text."""
        for number, sentence in enumerate(self.kinds[kind]):
            tags: dict[str, str | int] = {"kind": kind, "projector": ANY, "sentence": number}
            for condition, rows in ((NOTHING, None), (TEXT, space.embed(f" {sentence}"))):
                yield self._case({**tags, "condition": condition}, self._prompt(space, rows), number)

    def _with(
        self,
        space: EmbeddingSpace,
        kind: str,
        name: str,
        projector: Projector,
        *,
        most: int | None = None,
        mean: bool = False,
    ) -> Iterator[Case]:
        """A sentence's own soft tokens, another's and, as many, the mean row."""
        soft = self._soft(space, kind, projector)
        told = {
            "kind": kind,
            "projector": name,
            "head": projector.config.head,
            "tokens": projector.tokens,
            "examples": sum(projector.config.training.get("sentences", {}).values()),
        }
        for number in range(len(soft) if most is None else most):
            rows = {OWN: soft[number], SHUFFLED: soft[number - 1]}
            if mean:
                rows[MEAN] = mean_rows(space, projector.tokens)
            for condition, given in rows.items():
                tags = {**told, "sentence": number, "condition": condition}
                if mean and condition == OWN and number < self.answered:
                    tags["read"] = space.read(given)
                yield self._case(tags, self._prompt(space, given), number, may_answer=mean)

    def _case(
        self, tags: Mapping[str, str | int], prompt: PromptEmbeds, number: int, *, may_answer: bool = True
    ) -> Case:
        kind, name, condition = (str(tags[tag]) for tag in ("kind", "projector", "condition"))
        return Case(
            f"{kind}/{name or 'none'}/{condition}/s{number:03d}",
            prompt,
            tags,
            {SENTENCE: self.kinds[kind][number]},
            may_answer and condition != MEAN and number < self.answered,
        )

    def _searches(self, space: EmbeddingSpace, kind: str, name: str, projector: Projector) -> Iterator[Case]:
        """Likelihoods of many sentences after the soft tokens of one of them."""
        sentences = self.kinds[kind]
        soft = self._soft(space, kind, projector)
        for number in range(self.retrieved):
            others = [(number + step) % len(sentences) for step in range(self.candidates)]
            yield Case(
                f"{kind}/{name}/search/s{number:03d}",
                self._prompt(space, soft[number]),
                {"kind": kind, "projector": name, "sentence": number, "condition": "search"},
                {str(other): sentences[other] for other in others},
                answered=False,
            )

    def _soft(self, space: EmbeddingSpace, kind: str, projector: Projector) -> list[PromptEmbeds]:
        vectors = projector.encode(self.kinds[kind], cache=True, progress=True)
        return [projector.project(vector, space) for vector in vectors]

    def _section(self, kind: str, main: str, nats: Measure, records: Sequence[Record]) -> Section:
        own = [
            record
            for record in records
            if record.tags["kind"] == kind and record.tags["projector"] in (ANY, main)
        ]
        scores = scores_of(nats, kind, main)
        likeness = self._likeness(kind, own)
        searched = self._found(nats, kind, own)
        places = {condition: place_of(kind, main, condition) for condition in CONDITIONS}
        means: dict[str, Interval] = {
            condition: mean for condition, place in places.items() if (mean := nats.mean(place)) is not None
        }
        return Section(
            f"Soft tokens of a sentence: {kind}",
            self._finding(scores, means, searched) or finding_of_answers(likeness),
            f"The model is asked to repeat a sentence ({len(self.kinds[kind])} of them) and gets its soft tokens in "
            "its place. How much it reads is told by how many nats a token the sentence then costs. Two controls "
            "stand beside it: the soft tokens of another sentence, and nothing at all. Soft tokens of a wrong sentence "
            "mislead the model and make the own ones look good, so the share of the gap that is closed is taken "
            "against whichever control costs less, chosen anew in every bootstrap sample.",
            figures=[conditions_figure(means)] if means else [],
            tables=[
                *([conditions_table(scores, means)] if means else []),
                *([search_table(searched, self.candidates)] if searched else []),
                *([answers_table(likeness)] if any(likeness) else []),
            ],
            comparisons=self._comparisons(kind, own),
        )

    def _finding(
        self, scores: ConditionScores | None, means: Mapping[str, Interval], searched: Mapping[str, Interval]
    ) -> str:
        if scores is None:
            return ""
        closed = scores.gap_closed()
        told = ", ".join(f"{condition} {unsigned(mean.estimate)}" for condition, mean in means.items())
        text = (
            f"Of the gap between the better control ({scores.better_control}) and the text itself, the sentence's own "
            f"soft tokens close {percent(closed)} ({closed.items} sentences). Nats a token: {told}."
        )
        if searched:
            hits = "; ".join(f"{way} {percent(share)}" for way, share in searched.items())
            text += f" Found among {self.candidates} sentences: {hits}."
        return text

    def _found(self, nats: Measure, kind: str, records: Sequence[Record]) -> dict[str, Interval]:
        """How often the sentence is the one that its soft tokens make likeliest, or raise most over nothing."""
        before = nats.values.get(place_of(kind, ANY, NOTHING), {})
        hits: dict[str, list[bool]] = {"by likelihood": [], "by gain over nothing": []}
        for record in records:
            if record.tags["condition"] != "search" or not record.scores:
                continue
            likely = {int(number): score.per_token for number, score in record.scores.items()}
            gains = {number: value + before[number] for number, value in likely.items() if number in before}
            for way, values in zip(hits, (likely, gains), strict=True):
                if len(values) == len(likely):
                    hits[way].append(max(values, key=values.__getitem__) == record.tags["sentence"])
        return {way: share_interval(sum(found), len(found)) for way, found in hits.items() if found}

    def _likeness(self, kind: str, records: Sequence[Record]) -> tuple[Measure, Measure]:
        """Likeness of what the model writes to the sentence: in meaning, and in the share of its words."""
        answered = [record for record in records if record.finish_reason != "scored"]
        right = [self.kinds[kind][int(record.tags["sentence"])] for record in answered]
        cosines = SentenceSimilarity().cosines([record.text or " " for record in answered], right)
        places = [((str(record.tags["condition"]),), int(record.tags["sentence"])) for record in answered]
        shared = [
            shared_words(record.text, sentence) for record, sentence in zip(answered, right, strict=True)
        ]
        return (
            Measure.of((*place, value) for place, value in zip(places, cosines, strict=True)),
            Measure.of(
                (*place, value) for place, value in zip(places, shared, strict=True) if value is not None
            ),
        )

    def _comparisons(self, kind: str, records: Sequence[Record]) -> list[Comparison]:
        found = {place: each[0] for place, each in by_tags(records, "sentence", "condition").items()}
        labels = {
            OWN: "From its own soft tokens",
            SHUFFLED: "From another sentence's",
            NOTHING: "From nothing",
            TEXT: "From the text",
        }
        comparisons = []
        for number in range(self.answered):
            shown = [
                Answer.of(label, found[number, condition])
                for condition, label in labels.items()
                if (number, condition) in found
            ]
            own = found.get((number, OWN))
            read = (
                []
                if own is None
                else [Answer("Rows nearest to the soft tokens", str(own.tags.get("read", "")))]
            )
            comparisons.append(Comparison(self.kinds[kind][number], [*read, *shown]))
        return comparisons
