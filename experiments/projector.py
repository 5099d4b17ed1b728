"""The projector: does the model read this very sentence from its soft tokens, and not just any?"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedspace import EmbeddingSpace, PromptEmbeds
from embedspace.cases import Case
from embedspace.controls import mean_rows
from embedspace.metrics import Condition, Interval, Measure, SentenceSimilarity, share_interval
from embedspace.plots import Figure, Line, dot_figure, line_figure
from embedspace.projector.evaluation import CONDITIONS, Ladder
from embedspace.projector.projector import Projector, insert
from embedspace.records import Record, by_tags
from embedspace.report import Answer, Cell, Comparison, Report, Section, Table, unsigned

if TYPE_CHECKING:
    from experiments.quick_projectors import QuickProjectors

NOTHING, SHUFFLED, OWN, MEAN, TEXT = CONDITIONS
SENTENCE = "sentence"
"""Name of the continuation that is the sentence itself."""
ANY = ""
"""Projector of what needs none."""
_WORD = re.compile(r"[a-z]{4,}")


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
        """For each kind of sentences the ladder and what else tells of reading; then the curves."""
        nats = Measure.of(
            (_place(record), int(record.tags["sentence"]), -record.scores[SENTENCE].per_token)
            for record in records
            if SENTENCE in record.scores
        )
        main = next((str(r.tags["projector"]) for r in records if r.tags["projector"] != ANY), ANY)
        sections = [self._section(kind, main, nats, records) for kind in self.kinds]
        return Report(
            "Sentences as soft tokens",
            f"Sentences from {self.source}; the projector in question is {main!r}.",
            [*sections, *self._curves(nats, records)],
        )

    @cached_property
    def _loaded(self) -> dict[str, Projector]:
        return {}

    def _projectors(self, space: EmbeddingSpace) -> dict[str, Projector]:
        """By name, in order; loaded once."""
        if not self._loaded:
            folders = {**self.projectors, **(self.trained.folders(space) if self.trained else {})}
            for name, folder in folders.items():
                self._loaded[name] = Projector.from_pretrained(folder, space=space)
        return self._loaded

    def _prompt(self, space: EmbeddingSpace, rows: PromptEmbeds | None) -> PromptEmbeds:
        prompt = space.embed_chat([{"role": "user", "content": self.instruction}])
        return prompt if rows is None else insert(prompt, rows)

    def _without(self, space: EmbeddingSpace, kind: str) -> Iterator[Case]:
        """Nothing, and the text."""
        for number, sentence in enumerate(self.kinds[kind]):
            tags = {"kind": kind, "projector": ANY, "sentence": number}
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
        ladder = ladder_of(nats, kind, main)
        likeness = self._likeness(kind, own)
        searched = self._found(nats, kind, own)
        places = {condition: _of(kind, main, condition) for condition in CONDITIONS}
        means = {
            condition: mean for condition, place in places.items() if (mean := nats.mean(place)) is not None
        }
        return Section(
            f"Soft tokens of a sentence: {kind}",
            self._finding(ladder, means, searched) or _finding_of_answers(likeness),
            f"The model is asked to repeat a sentence ({len(self.kinds[kind])} of them) and gets its soft tokens in "
            "its place. How much it reads is told by how many nats a token the sentence then costs. Two controls "
            "stand beside it: the soft tokens of another sentence, and nothing at all. Soft tokens of a wrong sentence "
            "mislead the model and make the own ones look good, so the share of the gap that is closed is taken "
            "against whichever control costs less, chosen anew in every bootstrap sample.",
            figures=[_ladder_figure(means)] if means else [],
            tables=[
                *([_ladder_table(ladder, means)] if means else []),
                *([_search_table(searched, self.candidates)] if searched else []),
                *([_answers_table(likeness)] if any(likeness) else []),
            ],
            comparisons=self._comparisons(kind, own),
        )

    def _finding(
        self, ladder: Ladder | None, means: Mapping[str, Interval], searched: Mapping[str, Interval]
    ) -> str:
        if ladder is None:
            return ""
        closed = ladder.closed()
        told = ", ".join(f"{condition} {unsigned(mean.estimate)}" for condition, mean in means.items())
        text = (
            f"Of the gap between the better control ({ladder.better_control}) and the text itself, the sentence's own "
            f"soft tokens close {_percent(closed)} ({closed.items} sentences). Nats a token: {told}."
        )
        if searched:
            hits = "; ".join(f"{way} {_percent(share)}" for way, share in searched.items())
            text += f" Found among {self.candidates} sentences: {hits}."
        return text

    def _found(self, nats: Measure, kind: str, records: Sequence[Record]) -> dict[str, Interval]:
        """How often the sentence is the one that its soft tokens make likeliest, or raise most over nothing."""
        before = nats.values.get(_of(kind, ANY, NOTHING), {})
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

    def _curves(self, nats: Measure, records: Sequence[Record]) -> list[Section]:
        """Share closed against soft tokens, training sentences and heads."""
        trained = {
            str(record.tags["projector"]): Trained.of(record) for record in records if "tokens" in record.tags
        }
        if len(trained) < 2:
            return []
        shares = {
            (kind, name): ladder.closed()
            for kind in self.kinds
            for name in trained
            if (ladder := ladder_of(nats, kind, name, most=self.compared)) is not None
        }
        rows: list[list[Cell]] = [
            [
                name,
                each.head,
                each.tokens,
                each.examples or "",
                *(shares.get((kind, name), "") for kind in self.kinds),
            ]
            for name, each in trained.items()
        ]
        figures = [figure for kind in self.kinds for figure in _curve_figures(kind, trained, shares)]
        best = max(shares, key=lambda place: shares[place].estimate, default=None)
        finding = "" if best is None else (
            f"Of {len(trained)} projectors, {best[1]} closes most: {_percent(shares[best])} of the gap on {best[0]}."
        )  # fmt: skip
        return [
            Section(
                "What the number of soft tokens, the training sentences and the head are worth",
                finding,
                f"The same measure, on the first {self.compared} sentences of each kind, for every projector: the "
                "share of the gap between the better control and the text that is closed.",
                figures=figures,
                tables=[
                    Table(
                        ("Projector", "Head", "Soft tokens", "Training sentences", *self.kinds),
                        rows,
                        "Share of the gap closed; 95% bootstrap intervals over sentences in small print.",
                    ).filled()
                ],
            )
        ]


@dataclass(frozen=True)
class Trained:
    """What a projector is, for the curves."""

    head: str
    tokens: int
    examples: int
    """Sentences that it was trained on; 0 where its card does not say."""

    @classmethod
    def of(cls, record: Record) -> Trained:
        """As a record's tags tell it."""
        return cls(str(record.tags["head"]), int(record.tags["tokens"]), int(record.tags["examples"]))


def ladder_of(nats: Measure, kind: str, projector: str, *, most: int | None = None) -> Ladder | None:
    """One projector's ladder over the sentences measured under all its conditions; None where there are none."""
    return ladder(
        nats,
        {condition: _of(kind, projector, condition) for condition in (NOTHING, SHUFFLED, OWN, TEXT)},
        most=most,
    )


def ladder(nats: Measure, places: Mapping[str, Condition], *, most: int | None = None) -> Ladder | None:
    """A ladder from a measure of nats a token.

    Args:
        nats: by condition and item.
        places: the ladder's name of a condition -> the measure's.
        most: only items below this number count.
    """
    found = {condition: nats.values.get(place, {}) for condition, place in places.items()}
    shared = sorted(set.intersection(*(set(values) for values in found.values())))
    shared = [item for item in shared if most is None or item < most]
    if len(shared) < 2:
        return None
    return Ladder({condition: tuple(values[item] for item in shared) for condition, values in found.items()})  # type: ignore[misc]


def shared_words(written: str, sentence: str) -> float | None:
    """Share of a sentence's words of four or more letters that stand in a text; None where it has none."""
    wanted = set(_WORD.findall(sentence.lower()))
    return len(wanted & set(_WORD.findall(written.lower()))) / len(wanted) if wanted else None


def _of(kind: str, projector: str, condition: str) -> Condition:
    return kind, ANY if condition in (NOTHING, TEXT) else projector, condition


def _place(record: Record) -> Condition:
    return str(record.tags["kind"]), str(record.tags["projector"]), str(record.tags["condition"])


def _percent(share: Interval) -> str:
    return f"{share.estimate:.0%} ({share.low:.0%} to {share.high:.0%})".replace("-", "\u2212")


def _ladder_figure(means: Mapping[str, Interval]) -> Figure:
    return dot_figure(
        means,
        x_label="nats a token of the sentence",
        caption="What the sentence costs after each. Grey: the controls. Bars are 95% intervals over sentences.",
        controls=[NOTHING, SHUFFLED, MEAN],
    )


def _ladder_table(ladder: Ladder | None, means: Mapping[str, Interval]) -> Table:
    closed: dict[str, Cell] = {}
    if ladder is not None:
        closed = {SHUFFLED: ladder.closed(SHUFFLED), NOTHING: ladder.closed(NOTHING), OWN: ladder.closed()}
    rows: list[list[Cell]] = [
        [condition, mean, closed.get(condition, "")] for condition, mean in means.items()
    ]
    return Table(
        ("Given", "Nats a token", "Share of the gap to the text that its own soft tokens close"),
        rows,
        "The share beside a control is taken against that control, beside the own soft tokens against the better one; "
        "95% bootstrap intervals in small print.",
    )


def _search_table(searched: Mapping[str, Interval], candidates: int) -> Table:
    rows: list[list[Cell]] = [[way, share] for way, share in searched.items()]
    rows.append(["by chance", 1 / candidates])
    return Table(
        ("Sentence chosen", "Share found"),
        rows,
        f"Which of {candidates} sentences is it? The one that is likeliest a token after the soft tokens, or the one "
        "whose likelihood they raise most over nothing. Wilson's 95% intervals in small print.",
    )


def _answers_table(likeness: tuple[Measure, Measure]) -> Table:
    rows: list[list[Cell]] = []
    for condition in (NOTHING, SHUFFLED, OWN, TEXT):
        means = [measure.mean((condition,)) for measure in likeness]
        if any(means):
            rows.append([condition, *("" if mean is None else mean for mean in means)])
    return Table(
        ("Given", "Likeness in meaning", "Share of the sentence's words"),
        rows,
        "What the model writes beside the sentence: cosine of sentence vectors (of the encoder that the projector "
        "starts from, where it is MiniLM), and the share of the sentence's words of four or more letters.",
    )


def _finding_of_answers(likeness: tuple[Measure, Measure]) -> str:
    own, other = (likeness[0].mean((condition,)) for condition in (OWN, SHUFFLED))
    if own is None or other is None:
        return "Too little was recorded to tell whether the model reads its sentence."
    return (
        f"What the model writes is like the sentence to {unsigned(own.estimate)} (cosine) given its own soft tokens "
        f"and to {unsigned(other.estimate)} given another's ({own.items} sentences)."
    )


def _curve_figures(
    kind: str, trained: Mapping[str, Trained], shares: Mapping[tuple[str, str], Interval]
) -> list[Figure]:
    """Over soft tokens at the most sentences, over sentences at one number of tokens, and over heads."""
    lines: dict[str, dict[str, Trained]] = {}
    for name, each in trained.items():
        if (kind, name) in shares:
            lines.setdefault(name.split("/")[0], {})[name] = each
    over_tokens, over_examples, heads = [], [], {}
    for line, members in lines.items():
        most = max(each.examples for each in members.values())
        points = {each.tokens: shares[kind, name] for name, each in members.items() if each.examples == most}
        over_tokens.append(Line(line, points))
        heads[line] = max(points.values(), key=lambda share: share.estimate)
        sizes: dict[int, dict[float, Interval]] = {}
        for name, each in members.items():
            sizes.setdefault(each.tokens, {})[each.examples] = shares[kind, name]
        tokens, by_size = max(sizes.items(), key=lambda item: len(item[1]))
        over_examples.append(Line(f"{line}, {tokens} tokens", by_size))
    label = "share of the gap closed"
    figures = [
        line_figure(
            [line for line in drawn if len(line.points) > 1],
            x_label=axis,
            y_label=label,
            caption=f"{kind.capitalize()}: share of the gap to the text that is closed, over {axis}. Bands are 95% "
            "intervals over sentences.",
            log_x=True,
        )
        for drawn, axis in ((over_tokens, "soft tokens"), (over_examples, "training sentences"))
        if any(len(line.points) > 1 for line in drawn)
    ]
    if len(heads) > 1:
        figures.append(
            dot_figure(
                heads,
                x_label=label,
                caption=f"{kind.capitalize()}: the best of each head at its most sentences.",
            )
        )
    return figures
