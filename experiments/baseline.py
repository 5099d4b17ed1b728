"""Baseline: the same prompts as token ids and as embeddings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from embedspace import EmbeddingSpace
from embedspace.engines import Prompt
from embedspace.metrics import Interval, common_prefix, mean_interval, share_interval, shuffle_rows
from embedspace.reporting import (
    Answer,
    Comparison,
    Figure,
    Line,
    Report,
    Section,
    Table,
    counted,
    dot_figure,
    line_figure,
)
from embedspace.runs import Case, Record, by_tags

CONDITIONS = {"ids": "Token ids", "embeddings": "Embeddings", "shuffled": "Shuffled rows"}

Answers = dict[str, Record]
"""The answers to one question, by condition."""


@dataclass(frozen=True)
class Baseline:
    """Asks every question three times: as token ids, as embeddings, and, for control, with its rows shuffled."""

    questions: Sequence[str]
    seed: int
    """Of the shuffling."""

    def cases(self, space: EmbeddingSpace) -> Iterator[Case]:
        """All questions in one condition after another, so that an engine can batch what is alike."""
        for condition in CONDITIONS:
            for number in range(len(self.questions)):
                yield Case(
                    f"{condition}/q{number:02d}",
                    partial(self._prompt, space, condition, number),
                    {"condition": condition, "question": number},
                )

    def _prompt(self, space: EmbeddingSpace, condition: str, number: int) -> Prompt:
        messages = [{"role": "user", "content": self.questions[number]}]
        if condition == "ids":
            return space.chat_ids(messages)
        prompt = space.embed_chat(messages)
        return shuffle_rows(prompt, self.seed + number) if condition == "shuffled" else prompt

    def analyse(self, records: Sequence[Record]) -> Report:
        """How often the answers agree, as a whole and token by token."""
        asked: dict[int, Answers] = {}
        for (number, condition), (record, *_) in by_tags(records, "question", "condition").items():
            asked.setdefault(int(number), {})[str(condition)] = record
        whole = {number: answers for number, answers in asked.items() if len(answers) == len(CONDITIONS)}
        if not whole:
            return Report("Text against embeddings", "No question was answered in all conditions.", [])
        shares = {
            CONDITIONS[condition]: share_interval(
                sum(same(answers["ids"], answers[condition]) for answers in whole.values()), len(whole)
            )
            for condition in ("embeddings", "shuffled")
        }
        section = Section(
            "Text against embeddings",
            _finding(whole, shares),
            "A prompt can be given to a model as token ids, or as the rows that the model would look up for them. "
            "If the toolkit does it right, the answers are the same. The control has the same rows in another order: "
            "it shows that the measure can tell a difference.",
            figures=_figures(whole, shares),
            tables=[_table(whole, shares)],
            verdict=_verdict(shares),
            comparisons=[
                Comparison(
                    self.questions[number],
                    [_answer(condition, answers) for condition in CONDITIONS],
                )
                for number, answers in sorted(whole.items())
            ],
        )
        return Report("Text against embeddings", "", [section])


def same(a: Record, b: Record) -> bool:
    """Whether two answers are equal: token by token where the engine returns token ids, else by their text."""
    return a.token_ids == b.token_ids if a.token_ids and b.token_ids else a.text == b.text


def _verdict(shares: dict[str, Interval]) -> str:
    equal, shuffled = (
        (round(share.estimate * share.items), share.items)
        for share in (shares[CONDITIONS["embeddings"]], shares[CONDITIONS["shuffled"]])
    )
    return (
        f"Token ids and their embeddings give the same answer to {equal[0]} of {counted(equal[1], 'question')}; with "
        f"the rows in another order, to {shuffled[0]} of {shuffled[1]}."
    )


def _finding(whole: dict[int, Answers], shares: dict[str, Interval]) -> str:
    records = [record for answers in whole.values() for record in answers.values()]
    greedy = all(record.sampling.temperature == 0 for record in records)
    embeddings, shuffled = shares[CONDITIONS["embeddings"]], shares[CONDITIONS["shuffled"]]
    count = round(embeddings.estimate * embeddings.items)
    text = (
        f"Asked by embeddings instead of token ids, the model gave the same {'greedy' if greedy else 'sampled'} answer "
        f"to {count} of {embeddings.items} questions ({embeddings.estimate:.0%}; 95% interval {embeddings.low:.0%} to "
        f"{embeddings.high:.0%}). With the same rows in shuffled order it was "
        f"{round(shuffled.estimate * shuffled.items)} of {shuffled.items}."
    )
    if not greedy:
        text += (
            " The answers were sampled with random numbers of their own for every prompt, so they differ by chance; "
            "sampling.temperature=0 gives the real comparison."
        )
    return text


def _figures(whole: dict[int, Answers], shares: dict[str, Interval]) -> list[Figure]:
    figures = [
        dot_figure(
            shares,
            x_label="share of questions with the same answer as token ids",
            caption="Share of whole answers that are the same as with token ids.",
            over="questions",
            controls=[CONDITIONS["shuffled"]],
            limits=(0, 1),
        )
    ]
    if not all(record.token_ids for answers in whole.values() for record in answers.values()):
        return figures
    longest = max(len(answers["ids"].token_ids) for answers in whole.values())
    lengths = [length for length in (1, 2, 4, 8, 16, 32, 64, 128, 256) if length <= longest]
    lines = [
        Line(
            CONDITIONS[condition],
            {length: _agreement(whole, condition, length) for length in lengths},
            control=condition == "shuffled",
        )
        for condition in ("embeddings", "shuffled")
    ]
    caption = "Share of answers whose first tokens are the same as with token ids."
    figures.append(
        line_figure(
            lines,
            x_label="first tokens",
            y_label="share of questions",
            caption=caption,
            over="questions",
            log_x=True,
        )
    )
    return figures


def _agreement(whole: dict[int, Answers], condition: str, length: int) -> Interval:
    hits = 0
    for answers in whole.values():
        a, b = answers["ids"], answers[condition]
        hits += same(a, b) or common_prefix(a.token_ids, b.token_ids) >= length
    return share_interval(hits, len(whole))


def _table(whole: dict[int, Answers], shares: dict[str, Interval]) -> Table:
    rows = []
    for condition in ("embeddings", "shuffled"):
        prefixes = [
            float(common_prefix(answers["ids"].token_ids, answers[condition].token_ids))
            for answers in whole.values()
        ]
        rows.append((CONDITIONS[condition], shares[CONDITIONS[condition]], mean_interval(prefixes)))
    return Table(
        ("Prompt as", "Same answer (share)", "Equal leading tokens (mean)"),
        rows,
        f"Agreement with token ids over {counted(len(whole), 'question')}; 95% intervals in small print.",
    )


def _answer(condition: str, answers: Answers) -> Answer:
    reference, record = answers["ids"], answers[condition]
    note = "reference" if condition == "ids" else "same" if same(reference, record) else "differs"
    return Answer.of(CONDITIONS[condition], record, note)
