"""Report of one kind of sentences: how much of each the model reads from its soft tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

from embedspace.metrics import Interval, Measure, standing
from embedspace.projector import CONDITIONS
from embedspace.reporting import (
    Answer,
    Cell,
    Comparison,
    Figure,
    Section,
    Table,
    compare_answers,
    counted,
    dot_figure,
    unsigned,
)
from embedspace.runs import Record, by_tags
from experiments.projector.metrics import (
    MEAN,
    NOTHING,
    OWN,
    SHUFFLED,
    TEXT,
    answer_similarity,
    place_of,
    retrieval,
    scores_of,
)

if TYPE_CHECKING:
    from embedspace.projector import ConditionScores


@dataclass(frozen=True)
class SoftTokenReport:
    """What is shown of one kind of sentences."""

    kind: str
    sentences: Sequence[str]
    projector: str
    """Name of the projector in question."""
    nll: Measure
    """Of all kinds."""
    records: Sequence[Record]
    """Of this kind and projector, and those that need none."""
    candidates: int
    """Sentences among which one is looked for."""

    def section(self) -> Section:
        """The finding, figure, tables and answers."""
        similarity = answer_similarity(self.sentences, self.records)
        found = retrieval(self.nll, self.kind, self.records)
        means = self._means
        return Section(
            f"Soft tokens of a sentence: {self.kind}",
            self._finding(found) or finding_of_answers(similarity),
            f"The model is asked to repeat a sentence ({len(self.sentences)} of them) and gets its soft tokens in its "
            "place. The sentence's negative log-likelihood then says how much of it the model reads. There are two "
            "controls: the soft tokens of another sentence, and nothing at all. Soft tokens of a wrong sentence "
            "mislead the model and make the own ones look good, so the share of the likelihood gain is computed "
            "against the control with the lower loss, chosen anew in every bootstrap sample.",
            figures=[conditions_figure(means)] if means else [],
            tables=[
                *([conditions_table(self._scores, means)] if means else []),
                *([retrieval_table(found, self.candidates)] if found else []),
                *([answers_table(similarity)] if any(similarity) else []),
            ],
            comparisons=self._comparisons(),
            verdict=self._verdict(),
            pair=("From its own soft tokens", "From another sentence's"),
        )

    def _verdict(self) -> str:
        if self._scores is None:
            return ""
        share = self._scores.gap_closed()
        control = "nothing" if self._scores.better_control == "nothing" else "another sentence's soft tokens"
        count = counted(share.items, "sentence")
        if self._scores.mean("text") >= self._scores.mean(self._scores.better_control):
            return f"The text itself tells the model no more about a sentence than {control} ({count})."
        match standing(share):
            case "above":
                return (
                    f"From a sentence's own soft tokens the model reads {share.estimate:.0%} of what the text itself "
                    f"would tell it, measured from {control}, the better control ({count})."
                )
            case "below":
                return f"A sentence's own soft tokens tell the model less about it than {control} ({count})."
            case "too few":
                return (
                    f"On {count} the model reads {share.estimate:.0%} from soft tokens of what the text itself would "
                    f"tell it, measured from {control}, the better control: too few to say how it is on others."
                )
        return (
            f"On {count} it cannot be told whether a sentence's own soft tokens tell the model more about it than "
            f"{control}."
        )

    @cached_property
    def _scores(self) -> ConditionScores | None:
        return scores_of(self.nll, self.kind, self.projector)

    @cached_property
    def _means(self) -> dict[str, Interval]:
        places = {condition: place_of(self.kind, self.projector, condition) for condition in CONDITIONS}
        return {name: mean for name, place in places.items() if (mean := self.nll.mean(place)) is not None}

    def _finding(self, found: Mapping[str, Interval]) -> str:
        if self._scores is None:
            return ""
        closed = self._scores.gap_closed()
        means = ", ".join(f"{condition} {unsigned(mean.estimate)}" for condition, mean in self._means.items())
        text = (
            f"The sentence's own soft tokens recover {percent(closed)} of the likelihood gain that the text itself "
            f"gives over the better control, {self._scores.better_control} ({closed.items} sentences). Negative "
            f"log-likelihood in nats per token: {means}."
        )
        if found:
            hits = "; ".join(f"{criterion} {percent(share)}" for criterion, share in found.items())
            text += f" Found among {self.candidates} sentences: {hits}."
        return text

    def _comparisons(self) -> list[Comparison]:
        rows = {
            int(record.tags["sentence"]): str(record.tags["read"])
            for record in self.records
            if "read" in record.tags
        }
        return compare_answers(
            self.sentences,
            by_tags(self.records, "sentence", "condition"),
            {
                "From its own soft tokens": (OWN,),
                "From another sentence's": (SHUFFLED,),
                "From nothing": (NOTHING,),
                "From the text": (TEXT,),
            },
            [
                Answer("Rows nearest to the soft tokens", rows.get(number, ""))
                for number in range(len(self.sentences))
            ],
        )


def percent(share: Interval) -> str:
    """A share with its interval, in percent."""
    return f"{share:.0%}".replace("-", "\u2212")


def conditions_figure(means: Mapping[str, Interval]) -> Figure:
    """The sentence's negative log-likelihood under every condition."""
    return dot_figure(
        means,
        x_label="negative log-likelihood of the sentence, nats per token",
        caption="Loss of the sentence under each condition. Grey: the controls.",
        over="sentences",
        controls=[NOTHING, SHUFFLED, MEAN],
    )


def conditions_table(scores: ConditionScores | None, means: Mapping[str, Interval]) -> Table:
    """The same with the share of the likelihood gain."""
    closed: dict[str, Cell] = {}
    if scores is not None:
        closed = {
            SHUFFLED: scores.gap_closed(SHUFFLED),
            NOTHING: scores.gap_closed(NOTHING),
            OWN: scores.gap_closed(),
        }
    return Table(
        (
            "Given",
            "Loss, nats per token",
            "Share of the text's likelihood gain that its own soft tokens recover",
        ),
        [[condition, mean, closed.get(condition)] for condition, mean in means.items()],
        "The share beside a control is over that control, beside the own soft tokens over the better one; 95% "
        "bootstrap intervals in small print.",
    )


def retrieval_table(found: Mapping[str, Interval], candidates: int) -> Table:
    """How often the sentence is found among others."""
    return Table(
        ("Sentence chosen", "Share found"),
        [*found.items(), ("by chance", 1 / candidates)],
        f"Which of {candidates} sentences is it? The one with the highest log-likelihood per token after the soft "
        "tokens, or the one whose likelihood gains most over nothing. Wilson's 95% intervals in small print.",
    )


def answers_table(similarity: tuple[Measure, Measure]) -> Table:
    """The answers beside the sentence."""
    rows: list[list[Cell]] = []
    for condition in (NOTHING, SHUFFLED, OWN, TEXT):
        means = [measure.mean((condition,)) for measure in similarity]
        if any(means):
            rows.append([condition, *means])
    return Table(
        ("Given", "Similarity in meaning", "Share of the sentence's words"),
        rows,
        "The model's answer beside the sentence: cosine of sentence vectors (of the projector's own encoder, where "
        "that is MiniLM), and the share of the sentence's words of four or more letters.",
    )


def finding_of_answers(similarity: tuple[Measure, Measure]) -> str:
    """The finding where no likelihoods were recorded."""
    own, other = (similarity[0].mean((condition,)) for condition in (OWN, SHUFFLED))
    if own is None or other is None:
        return "Too little was recorded to say whether the model reads its sentence."
    return (
        f"The answers have a cosine similarity to the sentence of {unsigned(own.estimate)} given its own soft tokens "
        f"and of {unsigned(other.estimate)} given another's ({own.items} sentences)."
    )
