"""What is measured of answers to questions moved along style vectors: style, fluency, topic, variety and length."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Self, get_args

import numpy as np

from embedspace.metrics import (
    Condition,
    Interval,
    Measure,
    SentenceSimilarity,
    StyleJudge,
    log_odds,
    mean_interval,
    share_interval,
)
from embedspace.runs import Record
from experiments.style.judges import InstructedJudge

PLAIN, INSTRUCTION, TEACHER, FLUENCY = "plain", "instruction", "teacher", "fluency"
"""The question as it is; with the instruction before it; with example answers as well, as the optimised vector learnt
from it; and the plain question after which answers are scored."""
UNSHIFTED: Condition = (PLAIN, 0.0)
_WORD = re.compile(r"\w+")
_ROUNDING = 1e-9
"""A share that is exactly at its limit keeps it, whatever rounding makes of it."""


@dataclass(frozen=True)
class Limits:
    """What answers must keep of the unshifted ones in the usable range of strengths; shares and ratios of means."""

    perplexity: float
    """Most times the unshifted answers' perplexity."""
    topic: float
    """Least share of the unshifted answers' share that is nearest to its own question."""
    variety: float
    """Least share of the unshifted answers' share of different word pairs."""


@dataclass(frozen=True)
class Measured:
    """Measures by (condition, alpha) and question."""

    odds: Measure
    """Log-odds of the positive openings over the negative ones, in nats."""
    judge_log_odds: Measure
    """Log-odds, by an independent judge, that an answer is in the positive style, in nats."""
    nll: Measure
    """Negative log-likelihood of the answer after the plain question under the unshifted model, nats per token."""
    topic: Measure
    """1 where the answer is more similar in meaning to its own question than to every other one, else 0; an answer that
    is empty or only repeats the question is not."""
    nearness: Measure
    """Cosine similarity of an answer to its question, less the mean of that to the other questions."""
    variety: Measure
    """Different word bigrams over all: a loop has few."""
    length: Measure
    """Tokens of the answer, at most as many as were allowed."""
    rows: Measure
    """Length of the prompt."""
    unchanged: Measure
    """1 where the answer is that to the unshifted question, word for word, else 0."""
    empty: Measure
    """1 where the answer has no text, else 0; such answers have no style and no likelihood."""
    second_log_odds: Measure
    """As ``judge_log_odds``, by the second judge, of the conditions that it was asked for."""

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        questions: Sequence[str],
        openings: tuple[Sequence[str], Sequence[str]],
        judge: Sequence[Sequence[str]],
        second: InstructedJudge | None = None,
        seconded: Callable[[Condition], bool] = lambda place: True,
    ) -> Self:
        """The measures of an experiment's records; the second judge is asked of conditions that are ``seconded``."""
        asked = [record for record in records if record.tags["condition"] != FLUENCY]
        odds = Measure.of(
            (*_place(record), log_odds(record.scores, *openings)) for record in asked if record.scores
        )
        given = [record for record in asked if record.finish_reason != "scored"]
        answered = [record for record in given if record.text.strip()]
        silent = [record for record in given if not record.text.strip()]
        encoder, texts = SentenceSimilarity(), [record.text for record in answered]
        asked_again = [record for record in answered if second is not None and seconded(_place(record)[0])]
        again = second.log_odds([record.text for record in asked_again]) if second and asked_again else []
        style = StyleJudge.trained(encoder, judge).log_odds(texts) if answered else []
        similarity = encoder.vectors(texts) @ encoder.vectors(questions).T if answered else np.zeros((0, 0))
        own = [row[_place(record)[1]] for record, row in zip(answered, similarity, strict=True)]
        plain = {_place(record)[1]: record.text for record in asked if _place(record)[0] == UNSHIFTED}

        def measured(values: Iterable[float]) -> Measure:
            return Measure.of((*_place(record), float(v)) for record, v in zip(answered, values, strict=True))

        return cls(
            odds,
            measured(style),
            Measure.of(_nll(records)),
            Measure.of(
                [
                    *(
                        (
                            *_place(record),
                            float(value == row.max() and not echoes(record.text, questions[place])),
                        )
                        for record, value, row in zip(answered, own, similarity, strict=True)
                        for place in [_place(record)[1]]
                    ),
                    *((*_place(record), 0.0) for record in silent),
                ]
            ),
            measured(value - _others(value, row) for value, row in zip(own, similarity, strict=True)),
            Measure.of(
                [
                    *((*_place(record), variety(record.text)) for record in answered),
                    *((*_place(record), 0.0) for record in silent),
                ]
            ),
            measured(len(record.token_ids) or len(record.text.split()) for record in answered),
            Measure.of((*_place(record), float(record.rows)) for record in asked),
            measured(record.text == plain.get(_place(record)[1]) for record in answered),
            Measure.of((*_place(record), float(not record.text.strip())) for record in given),
            Measure.of((*_place(record), value) for record, value in zip(asked_again, again, strict=True)),
        )

    @property
    def conditions(self) -> list[Condition]:
        """Every condition and strength that was measured."""
        return list({**dict.fromkeys(self.odds.values), **dict.fromkeys(self.judge_log_odds.values)})

    def perplexity_ratio(self, before: Condition, after: Condition) -> Interval | None:
        """Perplexity of the answers under one condition over that under another."""
        change = self.nll.change(before, after)
        if change is None:
            return None
        return Interval(
            math.exp(change.estimate),
            math.exp(change.low),
            math.exp(change.high),
            change.items,
            tuple(map(math.exp, change.values)),
        )

    def pooled(self, names: Mapping[str, str]) -> Measured:
        """With conditions under the names that are given for them: those of one name become one, their mean."""
        fields = {name: _pooled(measure, names) for name, measure in vars(self).items()}
        return replace(self, **fields)

    def usable(self, place: Condition, limits: Limits) -> Usable:
        """Whether the answers are fluent, about their questions, and no loops."""
        return min(self._within(place, limits), key=_USABLE.index)

    def _within(self, place: Condition, limits: Limits) -> Iterator[Usable]:
        """For each limit, whether the answers keep it, by the intervals or by the estimates alone."""
        ratio = self.perplexity_ratio(UNSHIFTED, place)
        if ratio is not None:
            yield _kept(ratio.high <= limits.perplexity, ratio.estimate <= limits.perplexity)
        for measure, least in ((self.topic, limits.topic), (self.variety, limits.variety)):
            kept, whole = measure.values.get(place, {}), measure.values.get(UNSHIFTED, {})
            shared = sorted(kept.keys() & whole.keys())
            if not shared:
                yield "no"
                continue
            # At least that share of the unshifted answers' share: the paired differences must not be below 0.
            more = mean_interval([kept[item] - least * whole[item] for item in shared])
            equal = {kept[item] == whole[item] for item in shared} == {True}
            certain = equal and share_interval(len(shared), len(shared)).low >= least
            yield _kept(more.low >= -_ROUNDING or certain, more.estimate >= -_ROUNDING)

    def usable_range(
        self, path: Mapping[float, Condition], limits: Limits, least: Usable = "by the intervals"
    ) -> tuple[float, float]:
        """Lowest and highest strength of a path up to which the answers at all weaker ones are usable."""
        ends = []
        for sign in (-1, 1):
            last = 0.0
            for alpha in sorted((alpha for alpha in path if sign * alpha > 0), key=abs):
                if path[alpha] not in self.judge_log_odds.values:
                    continue
                if _USABLE.index(self.usable(path[alpha], limits)) < _USABLE.index(least):
                    break
                last = alpha
            ends.append(last)
        return ends[0], ends[1]


Usable = Literal["no", "by the estimates", "by the intervals"]
"""Whether answers keep limits: not, by point estimates alone, or by whole intervals."""
_USABLE: tuple[Usable, ...] = get_args(Usable)


def _kept(by_interval: bool, by_estimate: bool) -> Usable:
    return "by the intervals" if by_interval else "by the estimates" if by_estimate else "no"


def echoes(answer: str, question: str) -> bool:
    """Whether an answer has fewer than three words that its question has not.

    >>> echoes("Why is the sea salty? The sea is salty.", "Why is the sea salty?")
    True
    >>> echoes("Rivers carry salt into it.", "Why is the sea salty?")
    False
    """
    new = {*_WORD.findall(answer.lower())} - {*_WORD.findall(question.lower())}
    return len(new) < 3


def variety(text: str) -> float:
    """Different word bigrams over all; 1 for a text of fewer than two words."""
    words = text.lower().split()
    pairs = list(itertools.pairwise(words))
    return len(set(pairs)) / len(pairs) if pairs else 1.0


def fluency_name(condition: str, alpha: float) -> str:
    """Name under which the answer of a condition is scored after the plain question."""
    return f"{condition}/{alpha:+g}"


def _nll(records: Iterable[Record]) -> Iterable[tuple[Condition, int, float]]:
    for record in records:
        if record.tags["condition"] == FLUENCY:
            for name, score in record.scores.items():
                condition, alpha = name.rsplit("/", 1)
                yield (condition, float(alpha)), int(record.tags["question"]), -score.per_token


def _others(value: float, row: np.ndarray) -> float:
    return float((row.sum() - value) / (len(row) - 1)) if len(row) > 1 else 0.0


def _pooled(measure: Measure, names: Mapping[str, str]) -> Measure:
    return Measure.of(
        ((names.get(str(condition[0]), condition[0]), *condition[1:]), item, value)
        for condition, items in measure.values.items()
        for item, value in items.items()
    )


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["condition"]), float(record.tags["alpha"])), int(record.tags["question"])
