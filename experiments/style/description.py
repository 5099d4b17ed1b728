"""Sentences of the style experiment's report on how its vectors were made and applied."""

from __future__ import annotations

from embedspace.prompt import Rows
from embedspace.reporting import counted

MOVED: dict[Rows, str] = {
    "content": "the rows of the question; the chat template stays as it is",
    "last": "the last row of the question, its punctuation mark; all others stay as they are",
    "template": "the rows of the chat template; the question stays as it is",
    "all": "all rows",
}
"""Which rows a vector is added to."""


def vector_origin(pretrained: str | None, optimised: bool, questions: int, examples: int) -> str:
    """Where the optimised vectors come from; nothing where there are none."""
    if pretrained is not None:
        return (
            f"The optimised vector is “{pretrained}”, distilled from a model's own answers under an instruction before "
            "this run. Positive strengths apply it. "
        )
    if not optimised:
        return ""
    return (
        f"The optimised vectors, one for each side, were distilled from the model's own answers to {questions} other "
        f"questions with the instruction and {examples} example answers before them: the moved question alone has to "
        "give the same answers. Positive strengths apply the one, negative strengths the other. "
    )


def untrained_controls(seeds: int) -> str:
    """The controls that cost no training."""
    number = counted(seeds, "seed")
    return (
        f"random vectors of that norm ({number}), the mean difference of the same sentences with shuffled labels "
        f"({number}), and "
    )


def trained_controls(seeds: int) -> str:
    """The controls that were trained as the vectors in question were."""
    return (
        f" Trained controls ({counted(seeds, 'seed')}) have the objective, settings, row and norm of the optimised "
        "vectors: on the teacher's answers, each to another question, which keeps its style and loses the answer to "
        "the question; and on the answers after a neutral instruction with neutral examples, which keeps the answer "
        "and has no style. A vector is called stronger than one only after Holm's correction over all controls and "
        "sides; none of them is chosen by its result."
    )
