"""What is measured of compressed passages: likelihood of the right answer, right answers, words that nobody wrote."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Self

from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, ratio_interval
from embedspace.runs import Record
from experiments.compression.items import Item, cluster_of

if TYPE_CHECKING:
    import regex

FULL, NONE = "full", "none"
"""The whole passage, and the question without any."""
WHOLE, WITHOUT = (FULL, 1.0), (NONE, 0.0)
"""Their conditions."""
RIGHT = "right answer"
LLMLINGUA = "llmlingua package"
SAME_LENGTH = "at the length of the " + LLMLINGUA

_WORD = r"[\p{L}\p{M}\p{N}]+"
_NUMBER = r"\p{Nd}+(?:[.,:/\u066b\u066c\-]\p{Nd}+)*"
_UNSPACED = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Bopomofo}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}]"
"""Scripts that part no words by spaces."""
_SPACED_WORD = rf"[[\p{{L}}\p{{M}}\p{{N}}]--{_UNSPACED}]+"
"""What stands between characters of such scripts is a word of its own."""
_BROKEN = "\ufffd"


def inventions(output: str, passage: str) -> list[str]:
    """Words and numbers of a shortened text that its passage does not have, in order.

    A word is a longest run of letters, marks and digits. In scripts without spaces between words, a run has to be a
    part of the passage. A number is a longest run of digits with single signs inside (1,250.50; 10:30; 2024-05-01). A
    broken character is an invention as well. Texts are compared in Unicode's normal form C.

    >>> inventions("Bus lines 5 1723", "Bus lines 5, 17, 23 and 101 stop here.")
    ['1723']
    >>> inventions("50.50", "It costs 1,250.50 today.")
    ['50.50']
    """
    output, passage = (unicodedata.normalize("NFC", text) for text in (output, passage))
    words = {word for kind in (_WORD, _SPACED_WORD) for word in _pattern(kind).findall(passage)}
    numbers = {*_pattern(_NUMBER).findall(passage)}
    found = [
        (match.start(), match[0])
        for match in _pattern(_WORD).finditer(output)
        if match[0] not in words and not (_pattern(_UNSPACED).search(match[0]) and match[0] in passage)
    ]
    found += [
        (match.start(), match[0])
        for match in _pattern(_NUMBER).finditer(output)
        if match[0] not in numbers and (match.start(), match[0]) not in found
    ]
    broken = output.count(_BROKEN) - passage.count(_BROKEN)
    return [text for _, text in sorted(found)] + [_BROKEN] * max(0, broken)


def contains(answer: str, strings: Sequence[str]) -> bool:
    """Whether an answer has every string, not as a part of a longer word or number; in any case and spacing.

    >>> contains("It opens at 8:30.", ["8:30"]), contains("It opens at 18:30.", ["8:30"])
    (True, False)
    """
    plain = _plain(answer)
    return all(_stands_in(_plain(string), plain) for string in strings)


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().split())


def _stands_in(string: str, text: str) -> bool:
    start = text.find(string)
    while start >= 0:
        before, after = text[:start][-1:], text[start + len(string) :][:1]
        if not (_runs_on(before, string[:1]) or _runs_on(string[-1:], after)):
            return True
        start = text.find(string, start + 1)
    return False


def _runs_on(left: str, right: str) -> bool:
    """Whether two neighbours belong to one word or number."""
    both = left + right
    return len(both) == 2 and both.isalnum() and not _pattern(_UNSPACED).search(both)


@cache
def _pattern(pattern: str) -> regex.Pattern[str]:
    import regex

    return regex.compile(pattern, regex.VERSION1)


@dataclass(frozen=True)
class Measured:
    """Measures of one task's questions, by (method, ratio) and passage."""

    likelihood: Measure
    """Log-likelihood of the right answer, nats per token."""
    right: Measure
    """1 where the answer given has the right strings, else 0; of items that have such strings."""
    similarity: Measure
    """Cosine similarity of the answers given to the right ones; of the other items."""
    invented: Measure
    """1 where the shortened passage has a word or number that the passage does not have, else 0."""
    rows: Measure
    """Rows that are left of the passage."""
    reached: Mapping[Condition, float]
    """Compression ratios that the LLMLingua package reached, and the first method at its lengths."""
    clusters: Mapping[int, str]
    """For each passage, what it was made from."""

    @classmethod
    def of(cls, records: Sequence[Record], items: Sequence[Item], same_length: str | None) -> Self:
        """The measures of one task's records.

        Args:
            records: of one task.
            items: of all tasks.
            same_length: name of the first method at the package's lengths; None where the package was not run.
        """
        answered = [(record, items[_place(record)[1]]) for record in records if record.text.strip()]
        checked = [(record, item["strings"]) for record, item in answered if item.get("strings")]
        others = [(record, item["answer"]) for record, item in answered if not item.get("strings")]
        cosines = SentenceSimilarity().cosines(
            [record.text for record, _ in others], [right for _, right in others]
        )
        own = {_place(record)[1] for record in records}
        return cls(
            Measure.of(
                (*_place(record), record.scores[RIGHT].per_token) for record in records if record.scores
            ),
            Measure.of(
                (*_place(record), float(contains(record.text, strings))) for record, strings in checked
            ),
            Measure.of(
                (*_place(record), cosine) for (record, _), cosine in zip(others, cosines, strict=True)
            ),
            Measure.of(
                (*_place(record), float(bool(record.tags["invented"])))
                for record in records
                if "invented" in record.tags
            ),
            Measure.of(
                (*_place(record), float(record.tags["rows"])) for record in records if "rows" in record.tags
            ),
            _reached(records, (LLMLINGUA, same_length)) if same_length else {},
            {number: cluster_of(items[number]) for number in own},
        )

    def kept(self, place: Condition) -> Interval | None:
        """Share of the passage's likelihood gain that is left."""
        kept, none, full = (self.likelihood.values.get(each, {}) for each in (place, WITHOUT, WHOLE))
        shared = sorted(kept.keys() & none.keys() & full.keys())
        gains = [full[item] - none[item] for item in shared]
        return (
            self._interval(shared, [kept[item] - none[item] for item in shared], gains)
            if sum(gains)
            else None
        )

    def mean(self, measure: Measure, place: Condition) -> Interval | None:
        """Mean of a measure over the items, or a share of them."""
        values = measure.values.get(place, {})
        return self._interval(list(values), list(values.values()))

    def change(self, before: Condition, after: Condition) -> Interval | None:
        """Mean difference of the right answer's likelihood, item by item, in nats per token."""
        low, high = self.likelihood.values.get(before, {}), self.likelihood.values.get(after, {})
        shared = sorted(low.keys() & high.keys())
        return self._interval(shared, [high[item] - low[item] for item in shared])

    def best(self, places: Sequence[Condition]) -> Condition | None:
        """The condition of the highest mean likelihood."""
        means = {place: mean.estimate for place in places if (mean := self.likelihood.mean(place))}
        return max(means, key=means.__getitem__, default=None)

    def _interval(
        self, items: Sequence[int], values: Sequence[float], weights: Sequence[float] | None = None
    ) -> Interval | None:
        return ratio_interval(values, weights, [self.clusters[item] for item in items]) if items else None


def _reached(records: Sequence[Record], methods: Sequence[str]) -> dict[Condition, float]:
    rows: dict[Condition, dict[int, int]] = {}
    for record in records:
        place, passage = _place(record)
        if place == WHOLE or place[0] in methods:
            rows.setdefault(place, {})[passage] = int(record.tags["rows"])
    whole = rows.pop(WHOLE, {})
    return {
        place: sum(whole[passage] for passage in own) / sum(own.values())
        for place, own in rows.items()
        if own.keys() <= whole.keys()
    }


def _place(record: Record) -> tuple[Condition, int]:
    return (str(record.tags["method"]), float(record.tags["ratio"])), int(record.tags["passage"])
