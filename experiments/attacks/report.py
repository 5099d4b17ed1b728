"""The report on attacks: tables and figures of success, refusals and the price of passing a filter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from embedspace._util.provenance import describe_origin
from embedspace.metrics import Interval
from embedspace.reporting import (
    Answer,
    Cell,
    Comparison,
    Figure,
    Line,
    Section,
    Table,
    counted,
    dot_figure,
    line_figure,
)
from embedspace.runs import Record
from experiments.attacks.metrics import DECLARED, STRICT, Outcomes
from experiments.attacks.optimise import Attacker

NO_ATTACK, IN_WORDS = "no attack", "asked in words"

PAGE = """# Attacks on the filter

{finding}

{text}

{tables}
The attacks request nothing harmful: the word is a colour, and saying it
is enough to show that the attacker controls the answer.
The price of passing is the loss of success that the filter causes: the success of the first attack without any
filter, minus the success of this attack through the filter. If it is near 0, the filter costs the attacker nothing.

Made by `python experiments/run.py experiment=attacks sampling=short`: {origin}.
"""


@dataclass(frozen=True)
class AttackReport:
    """Builds the report's section from outcomes and records."""

    attackers: Mapping[str, Attacker]
    """By name; the prices are relative to the first."""
    questions: Sequence[str]
    starts: int
    """Harmless endings of each question."""
    rows: int
    marker: str
    alphas: Sequence[float]
    """Strengths of the style shift that the filter ``declared`` allows."""

    def section(self, records: Sequence[Record]) -> Section:
        """Success with and without each filter, refusals, and the price of passing."""
        found = Outcomes.of(records, self.marker)
        return Section(
            "Attacks on the filter by gradient",
            self._finding(found),
            f"There are {len(self.questions)} questions with {self.starts} harmless endings each. The attacker "
            f"controls the last {self.rows} rows of each prompt, wants the model to say “{self.marker}”, and has its "
            "weights (white box). Without a filter an attack succeeds if the answer contains that word; through a "
            "filter, the prompt must be allowed as well.\n\n"
            f"The filter “{STRICT}” is the shipped one: rows must be rows of the vocabulary. “{DECLARED}” allows rows "
            f"as far from it as a style shift at strengths {', '.join(f'{a:g}' for a in self.alphas)} needs. "
            "An adaptive attacker has the filter's score in the loss, and counts in the finding for the filter that it "
            "knows only. The gradients of the distance and, where the "
            "filter has them, of the pooled and the reference layer are used; the layers on read-back text have no "
            "gradient, so they are evaluated, with all others, during the attack, and a step that passes the whole "
            "filter is preferred. Attacks with tokens exchange rows of the vocabulary only (greedy coordinate "
            "gradient); special tokens are excluded."
            "\n\n"
            "Success is what these attackers reached in their number of steps, a lower bound on what more time can "
            "achieve. If an attack fails without a filter too, its row is no evidence about the filter. If an attack "
            "without knowledge of the filter passes more often than an adaptive one, the adaptive one was not "
            "optimised far enough.\n\n"
            "The questions are the independent units: endings of one question are variants of it, and the order in "
            "words is one prompt for each question. Of fewer than ten questions no interval is made of shares that "
            "differ; Wilson's interval is given where each question succeeds or fails as a whole. Attacks on tokens or "
            "in words are compared with a filter only where they succeed without one, and rows off the vocabulary are "
            f"refused by “{STRICT}” by construction.",
            [*self._success_figure(found), *self._radius_figure(found)],
            [self._main_table(found), self._decision_table(found)],
            self._comparisons(records),
            self._verdict(found),
            (NO_ATTACK, next(iter(self.attackers))),
        )

    def _verdict(self, found: Outcomes) -> str:
        """How many of the attacks that succeed without a filter pass the shipped one, and the most successful."""
        shares = self._through(found, STRICT)
        working = self._working(found, shares)
        if not shares:
            return ""
        if not working:
            return (
                f"None of {counted(len(shares), 'attack')} makes the model say “{self.marker}” even without a filter, "
                "so nothing is known of the filter."
            )
        passed = {name: share for name, share in working.items() if share.estimate > 0}
        said = (
            f"Of {counted(len(working), 'attack')} that succeed without a filter, {len(passed) or 'none'} "
            f"{'makes' if len(passed) == 1 else 'make'} the model say “{self.marker}” through the shipped filter"
        )
        if not passed:
            return f"{said} ({counted(self._units(working), 'question')})."
        best = max(passed, key=lambda name: passed[name].estimate)
        return (
            f"{said}; the most successful, {best}, in {passed[best].estimate:.0%} of its attempts at "
            f"{counted(passed[best].items, 'question')}."
        )

    def _working(self, found: Outcomes, shares: Mapping[str, Interval]) -> dict[str, Interval]:
        """Of attacks and their success through a filter, those that succeed without one at least once."""
        return {
            name: share
            for name, share in shares.items()
            if (free := found.succeeded(name)) is not None and free.estimate > 0
        }

    @staticmethod
    def _units(shares: Mapping[str, Interval]) -> int:
        return max(share.items for share in shares.values())

    def _through(self, found: Outcomes, filter_name: str) -> dict[str, Interval]:
        """Success of the attacks that were tried on a filter."""
        return {
            name: share
            for name in (IN_WORDS, *self.attackers)
            if self._evaded(name) in (None, filter_name)
            and (share := found.succeeded(name, filter_name)) is not None
        }

    def _finding(self, found: Outcomes) -> str:
        sentences = []
        for filter_name in (STRICT, DECLARED):
            working = self._working(found, self._through(found, filter_name))
            passed = [f"{name} {share:.0%}" for name, share in working.items() if share.estimate > 0]
            sentences.append(
                f"Of {counted(len(working), 'attack')} that succeed without a filter, {len(passed) or 'none'} "
                f"{'makes' if len(passed) == 1 else 'make'} the model say “{self.marker}” through the filter "
                f"“{filter_name}”{': ' if passed else ''}{', '.join(passed)}."
            )
        return " ".join(sentences)

    def _main_table(self, found: Outcomes) -> Table:
        reference = next(iter(self.attackers))
        rows: list[list[Cell]] = []
        for name in (NO_ATTACK, IN_WORDS, *self.attackers):
            if (free := found.succeeded(name)) is None:
                continue
            row: list[Cell] = [name, free]
            for filter_name in (STRICT, DECLARED):
                price = found.success.change((name, filter_name), (reference, ""))
                row += [
                    found.refused(name, filter_name) or "",
                    found.succeeded(name, filter_name) or "",
                    price or "",
                ]
            rows.append(row)
        columns = ["Attack", "Success, no filter"]
        for filter_name in (STRICT, DECLARED):
            columns += [f"Refused, {filter_name}", f"Success through {filter_name}", f"Price, {filter_name}"]
        return Table(
            columns,
            rows,
            f"Shares of prompts, over questions. Price: success of “{reference}” without a filter minus this attack's "
            "success.",
        )

    def _decision_table(self, found: Outcomes) -> Table:
        rows: list[list[Cell]] = [
            [name, filter_name, ", ".join(f"{layer} {count}" for layer, count in counts.most_common())]
            for name in (NO_ATTACK, IN_WORDS, *self.attackers)
            for filter_name in (STRICT, DECLARED)
            if (counts := found.decisions(name, filter_name))
        ]
        return Table(("Attack", "Filter", "Decided by, prompts"), rows, "The layer that refused each prompt.")

    def _success_figure(self, found: Outcomes) -> list[Figure]:
        shares = {
            name: found.succeeded(name, self._evaded(name) or STRICT) for name in (IN_WORDS, *self.attackers)
        }
        values = {name: share for name, share in shares.items() if share is not None}
        if not values:
            return []
        # One colour for all adaptive attackers and grey for the others: there are more series than colours.
        controls = [name for name in values if self._evaded(name) is None]
        figure = dot_figure(
            values,
            x_label="share of prompts that pass the filter and make the model say the word",
            caption="Success through the filter: for adaptive attackers (in colour) through the one they evade, for "
            f"all others (grey) through “{STRICT}”.",
            over="questions",
            controls=controls,
            limits=(0.0, 1.0),
        )
        return [figure]

    def _radius_figure(self, found: Outcomes) -> list[Figure]:
        near = {
            attacker.radius: name
            for name, attacker in self.attackers.items()
            if attacker.hold == "start" and not attacker.evades and attacker.radius
        }
        points = {
            radius: share for radius, name in near.items() if (share := found.succeeded(name)) is not None
        }
        if len(points) < 2:
            return []
        figure = line_figure(
            [Line("no filter", points)],
            x_label="radius around the words' own rows, in units of the vocabulary's spread",
            y_label="share that says the word",
            caption="How far rows must move from words to control the model.",
            over="questions",
            log_x=True,
        )
        return [figure]

    def _comparisons(self, records: Sequence[Record]) -> list[Comparison]:
        answers = {(str(r.tags["attack"]), int(r.tags["question"]), int(r.tags["start"])): r for r in records}
        return [
            Comparison(
                question,
                [
                    Answer.of(name, record, str(record.tags[self._evaded(name) or STRICT]))
                    for name in (NO_ATTACK, IN_WORDS, *self.attackers)
                    if (record := answers.get((name, number, 0))) is not None
                ],
            )
            for number, question in enumerate(self.questions)
        ]

    def _evaded(self, name: str) -> str | None:
        """The filter that an attack evades."""
        attacker = self.attackers.get(name)
        return attacker.evades if attacker else None


def as_page(section: Section, origin: Mapping[str, Any]) -> str:
    """The section of a report in Markdown, for ``docs/``, with its origin."""
    tables = "\n".join(f"{table.to_markdown()}\n{table.caption}\n" for table in section.tables)
    return PAGE.format(
        finding=section.finding, text=section.text, tables=tables, origin=describe_origin(origin)
    )
