"""The context of a question about a knowledge base: passages as text, as soft tokens, or as compressed text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from embedspace import EmbeddingSpace, PromptEmbeds, compress
from embedspace.metrics import common_prefix
from embedspace.projector import Projector, insert
from embedspace.runs import Case, Tag
from experiments.compression.passages import Knowledge, Question, search
from experiments.rag.metrics import NONE, RIGHT, SHUFFLED, SOFT

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor


@dataclass(frozen=True)
class PassageContext:
    """Makes the prompts of questions with their context; vectors and search are computed when they are first needed."""

    space: EmbeddingSpace
    knowledge: Knowledge
    projector_name: str
    most_passages: int
    compressed: Mapping[str, Mapping[str, Any] | None]
    """Method name -> options of ``compress``."""
    introduction: str
    """What stands before the passages in the user's message."""

    def case(
        self, way: str, count: int, number: int, *, key: str = "", timed: bool = False, answered: bool = True
    ) -> Case:
        """One question with one form of context."""
        question = self.knowledge.questions[number]
        found = self.found[number][:count]
        tags: dict[str, Tag] = {
            "task": question["task"], "way": way, "passages": count, "question": number, "timed": timed,
            "found": any(passage in question["passages"] for passage in found),
        }  # fmt: skip
        name = key or f"{way}/passages={count}/q{number:03d}"
        return Case(
            f"first token/{name}" if timed else name,
            lambda: self.prompt(question, self.rows(way, count, number)),
            tags,
            {} if timed else {RIGHT: question["answer"]},
            answered,
            timed,
        )

    def prompt(self, question: Question, rows: PromptEmbeds | None) -> PromptEmbeds:
        """The templated question with the passages' rows behind the introduction, and how the answer begins."""
        asked = question["question"]
        said = asked if rows is None else f"{self.introduction}\n\n{asked}"
        prompt = self.space.embed_chat([{"role": "user", "content": said}])
        if rows is not None:
            at = common_prefix(self.space.tokenize(said), self.space.tokenize(self.introduction))
            prompt = insert(prompt, rows, at)
        if question["beginning"]:
            beginning = self.space.embed(question["beginning"], special_tokens=False)
            prompt = PromptEmbeds.concat([prompt, beginning.to(prompt.vectors.dtype)])
        return prompt

    def rows(self, way: str, count: int, number: int) -> PromptEmbeds | None:
        """The rows that stand for the passages."""
        if way == NONE:
            return None
        if way in (SOFT, SHUFFLED):
            passages = self.found[number if way == SOFT else self.unrelated(number)][:count]
            soft = [self.projector.project(self.vectors[passage], self.space) for passage in passages]
            return PromptEmbeds.concat(soft)
        texts = [self.knowledge.passages[passage] for passage in self.found[number][:count]]
        text = self.space.embed(f" {' '.join(texts)}", special_tokens=False)
        options = self.compressed.get(way)
        if options is None:
            return text
        length = min(len(text), count * self.projector.tokens)
        return compress(text, length=length, space=self.space, **options)

    def unrelated(self, number: int) -> int:
        """The next question that none of this one's passages were found for."""
        own, total = set(self.found[number]), len(self.found)
        others = ((number + step) % total for step in range(1, total))
        return next((other for other in others if not own & set(self.found[other])), (number + 1) % total)

    @cached_property
    def projector(self) -> Projector:
        """The projector, of this space."""
        return Projector.from_pretrained(self.projector_name, space=self.space)

    @cached_property
    def vectors(self) -> Float[Tensor, "passages features"]:
        """Sentence vectors of all passages."""
        return self.projector.encode(self.knowledge.passages, progress=True, cache=True)

    @cached_property
    def found(self) -> list[list[int]]:
        """For each question the passages nearest to it, best first."""
        asked = self.projector.encode(
            [question["question"] for question in self.knowledge.questions], cache=True
        )
        return search(asked, self.vectors, self.most_passages).tolist()
