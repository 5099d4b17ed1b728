"""Passages of the packaged knowledge base, exact search among them, and questions that they answer."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

from experiments.compression.items import Split
from experiments.compression.knowledge_base import Document, documents, order_of, split_of, values_in

if TYPE_CHECKING:
    from jaxtyping import Float, Int
    from torch import Tensor

FACTS, EXPLANATIONS = "facts", "explanations"
_MIN_WORDS = 4
"""Of a statement: shorter lines mean nothing by themselves."""


class Question(TypedDict):
    """A question, its answer, and the passages that hold it."""

    question: str
    answer: str
    task: str
    passages: Sequence[int]
    """Numbers of the passages in which the answer stands."""
    beginning: str
    """How the model's answer is made to begin; may be empty."""


@dataclass(frozen=True)
class Knowledge:
    """Passages, and questions about them."""

    passages: Sequence[str]
    questions: Sequence[Question]


def knowledge(
    split: Split, facts: int, explanations: int, *, characters: int = 200, pages: int | None = None
) -> Knowledge:
    """The knowledge base in passages, and questions about the pages of one split.

    A question of fact has the model complete a line of a page up to a number, which it has to give. A question
    of explanation is the title of a page that asks one; its answer is the first whole sentence of that page.

    Args:
        split: ``development`` was used for choosing settings, ``test`` for nothing but reports; whole products
            belong to one. Passages of both are searched.
        facts: how many questions of fact, one a page.
        explanations: how many of explanation.
        characters: a passage's length at most, without the page's title, which stands before each; a longer
            statement is a passage of its own.
        pages: pages that the knowledge base has; by default all 698.

    Raises:
        ValueError: inspect-evals is not installed, a number below 1, or fewer questions than asked for.
    """
    if characters < 1 or (pages is not None and pages < 1):
        raise ValueError(f"characters and pages must be at least 1, got {characters} and {pages}")
    texts: list[str] = []
    asked: dict[str, list[Question]] = {FACTS: [], EXPLANATIONS: []}
    for page in sorted(documents(), key=order_of)[:pages]:
        first = len(texts)
        texts += [f"{page['title']}: {piece}" for piece in _pieces(page, characters)]
        if split_of(page) == split:
            own = dict(enumerate(texts[first:], start=first))
            for task, question in ((FACTS, _fact(page, own)), (EXPLANATIONS, _explanation(page, own))):
                if question is not None:
                    asked[task].append(question)
    for task, wanted in ((FACTS, facts), (EXPLANATIONS, explanations)):
        if len(asked[task]) < wanted:
            raise ValueError(
                f"the split {split!r} has {len(asked[task])} questions of the kind {task!r}, {wanted} were asked for"
            )
    return Knowledge(texts, [*asked[FACTS][:facts], *asked[EXPLANATIONS][:explanations]])


def search(
    queries: Float[Tensor, "queries features"], passages: Float[Tensor, "passages features"], count: int
) -> Int[Tensor, "queries count"]:
    """The passages of highest inner product with each query, best first: exact, one matrix product.

    A few thousand passages take milliseconds. For millions, ``faiss.IndexFlatIP(features)`` gives the same
    numbers from ``add(passages)`` and ``search(queries, count)``, and its approximate indices nearly the same.

    Raises:
        ValueError: fewer passages than asked for, or none asked for.
    """
    if not 1 <= count <= len(passages):
        raise ValueError(f"{count} passages were asked for; there are {len(passages)}, give 1 to that")
    return (queries @ passages.T).topk(count, dim=1).indices


def _statements(page: Document) -> Iterator[list[str]]:
    """The lines of each section, without the marks of Markdown and lines too short to say anything."""
    section: list[str] = []
    for line in page["content"].splitlines():
        if line.lstrip().startswith("#"):
            yield section
            section = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        plain = ", ".join(cell for cell in cells if cell.strip(":- "))
        plain = re.sub(r"^(?:[-*+]|\d+\.)\s+|\*\*|`", "", plain).strip()
        if len(plain.split()) >= _MIN_WORDS:
            section.append(plain)
    yield section


def _pieces(page: Document, characters: int) -> Iterator[str]:
    """Whole statements of one section, as many as fit."""
    for section in _statements(page):
        piece = ""
        for statement in section:
            if piece and len(piece) + len(statement) >= characters:
                yield piece
                piece = ""
            piece = f"{piece} {statement}".strip()
        if piece:
            yield piece


def _fact(page: Document, passages: Mapping[int, str]) -> Question | None:
    statements = "\n".join(statement for section in _statements(page) for statement in section)
    found = list(values_in(statements))
    if not found:
        return None
    beginning, value = found[order_of(page) % len(found)]
    value = value.rstrip(",")
    holding = [number for number, text in passages.items() if f"{beginning} {value}" in text]
    return _question(
        f'{page["title"]}: complete the line "{beginning} ..."', f" {value}", FACTS, holding, beginning
    )


def _explanation(page: Document, passages: Mapping[int, str]) -> Question | None:
    if not page["title"].endswith("?"):
        return None
    sentences = (
        sentence
        for section in _statements(page)
        for statement in section
        for sentence in re.findall(r"[A-Z][^.!?]{20,}\.(?!\d)", statement)
    )
    answer = next(sentences, None)
    if answer is None:
        return None
    holding = [number for number, text in passages.items() if answer in text]
    return _question(page["title"], answer, EXPLANATIONS, holding)


def _question(
    question: str, answer: str, task: str, passages: Sequence[int], beginning: str = ""
) -> Question | None:
    made = Question(question=question, answer=answer, task=task, passages=passages, beginning=beginning)
    return made if passages else None
