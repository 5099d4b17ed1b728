"""The projector: does the model read this very sentence from its soft tokens, and not just any?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.metrics import mean_rows
from embedspace.projector import Projector, insert
from embedspace.reporting import Report
from embedspace.runs import Case, Record, Tag
from experiments.projector.curves import curves
from experiments.projector.metrics import (
    ANY,
    MEAN,
    NOTHING,
    OWN,
    SEARCH,
    SENTENCE,
    SHUFFLED,
    TEXT,
    sentence_nll,
)
from experiments.projector.report import SoftTokenReport

if TYPE_CHECKING:
    from experiments.projector.quick_training import QuickProjectors


@dataclass(frozen=True)
class SoftTokens:
    """Asks the model to repeat a sentence that it is given as soft tokens, as text, or replaced by a control.

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
    """More of them, trained without the language model, for the curves."""
    instruction: str
    """The user's words before the soft tokens."""
    answered: int
    """Sentences of each kind that the model also writes down; at the others only their likelihood is computed."""
    retrieved: int
    """Sentences of each kind that are retrieved among others by likelihood."""
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

    @property
    def item_texts(self) -> list[str]:
        """The sentences of all kinds, for the ledger of sealed sets."""
        return [sentence for sentences in self.kinds.values() for sentence in sentences]

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
        """For each kind of sentences how much of them is read; then the comparison of projectors."""
        nll = sentence_nll(records)
        main = next((str(r.tags["projector"]) for r in records if r.tags["projector"] != ANY), ANY)
        sections = []
        for kind, sentences in self.kinds.items():
            own = [r for r in records if r.tags["kind"] == kind and r.tags["projector"] in (ANY, main)]
            sections.append(SoftTokenReport(kind, sentences, main, nll, own, self.candidates).section())
        return Report(
            "Sentences as soft tokens",
            f"Sentences from {self.source}; the projector in question is {main!r}.",
            [*sections, *curves(list(self.kinds), self.compared, nll, records)],
        )

    def _projectors(self, space: EmbeddingSpace) -> dict[str, Projector]:
        """By name, in order."""
        folders: dict[str, str | Path] = dict(self.projectors)
        if self.trained:
            folders |= self.trained.folders(space)
        return {name: Projector.from_pretrained(folder, space=space) for name, folder in folders.items()}

    def _prompt(self, space: EmbeddingSpace, rows: PromptEmbeds | None) -> PromptEmbeds:
        prompt = space.embed_chat([{"role": "user", "content": self.instruction}])
        return prompt if rows is None else insert(prompt, rows)

    def _without(self, space: EmbeddingSpace, kind: str) -> Iterator[Case]:
        """Nothing, and the text."""
        for number, sentence in enumerate(self.kinds[kind]):
            tags: dict[str, Tag] = {"kind": kind, "projector": ANY, "sentence": number}
            for condition, rows in (
                (NOTHING, None),
                (TEXT, space.embed(f" {sentence}", special_tokens=False)),
            ):
                yield self._case({**tags, "condition": condition}, partial(self._prompt, space, rows), number)

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
        """A sentence's own soft tokens, another's, and the mean row repeated as often."""
        soft = self._soft(space, kind, projector)
        described: dict[str, Tag] = {
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
                tags = {**described, "sentence": number, "condition": condition}
                if mean and condition == OWN and number < self.answered:
                    tags["read"] = space.read(given)
                yield self._case(tags, partial(self._prompt, space, given), number, may_answer=mean)

    def _case(
        self,
        tags: Mapping[str, Tag],
        prompt: Callable[[], PromptEmbeds],
        number: int,
        *,
        may_answer: bool = True,
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
                f"{kind}/{name}/{SEARCH}/s{number:03d}",
                partial(self._prompt, space, soft[number]),
                {"kind": kind, "projector": name, "sentence": number, "condition": SEARCH},
                {str(other): sentences[other] for other in others},
                answered=False,
            )

    def _soft(self, space: EmbeddingSpace, kind: str, projector: Projector) -> list[PromptEmbeds]:
        vectors = projector.encode(self.kinds[kind], cache=True, progress=True)
        return [projector.project(vector, space) for vector in vectors]
