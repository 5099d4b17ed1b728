"""Answers labelled by hand, blind to their condition, and how well a judge agrees with the labels.

``python -m experiments.style.labels draw RUN SHEET`` writes the answers of a run in an order drawn at random, without
their conditions; ``... enter RUN SHEET STYLE`` adds the labels that were written in front of them (+, 0 or -) to the
committed file; ``... table`` prints how the judges agree with it. Use runs on development questions.
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from embedspace.metrics import Interval, auroc, ratio_interval

FILE = Path(__file__).with_name("labelled_answers.jsonl")
SEED = 0
"""Of the order of the sheet."""

Label = Literal[-1, 0, 1]
SIGNS: Mapping[str, Label] = {"+": 1, "0": 0, "-": -1}


@dataclass(frozen=True)
class Labelled:
    """One answer with its label."""

    style: str
    """Name of the file in ``configs/data/style``."""
    question: int
    """Number of the development question."""
    conditions: Sequence[str]
    """Those that gave this answer."""
    text: str
    label: Label
    """1 for the style, -1 for its opposite, 0 for neither."""


def answers(run: Path) -> list[tuple[int, str, list[str]]]:
    """Question, answer and conditions of a run's different answers, in the order of the sheet."""
    found: dict[tuple[int, str], list[str]] = {}
    for line in (run / "records.jsonl").read_text().splitlines():
        record = json.loads(line)
        if record["finish_reason"] != "scored" and record["text"].strip():
            tags = record["tags"]
            place = f"{tags['condition']}/{tags['alpha']:+g}"
            found.setdefault((int(tags["question"]), record["text"]), []).append(place)
    listed = [(question, text, places) for (question, text), places in sorted(found.items())]
    random.Random(SEED).shuffle(listed)
    return listed


def as_sheet(run: Path) -> str:
    """A line for each answer, to write a label in front of."""
    return "\n".join(f"\t{' '.join(text.split())}" for _, text, _ in answers(run)) + "\n"


def entered(run: Path, sheet: str, style: str) -> list[Labelled]:
    """The answers with the labels of a sheet.

    Raises:
        ValueError: a line without a label, or not as many lines as answers.
    """
    lines, listed = sheet.splitlines(), answers(run)
    if len(lines) != len(listed):
        raise ValueError(
            f"the sheet has {len(lines)} lines and the run {len(listed)} answers; draw the sheet anew"
        )
    labelled = []
    for number, (line, (question, text, places)) in enumerate(zip(lines, listed, strict=True), start=1):
        sign = line.partition("\t")[0].strip()
        if sign not in SIGNS:
            raise ValueError(f"line {number} has the label {sign!r}; write one of {', '.join(SIGNS)}")
        labelled.append(Labelled(style, question, places, text, SIGNS[sign]))
    return labelled


def read(path: Path = FILE) -> list[Labelled]:
    """All labelled answers."""
    return [Labelled(**json.loads(line)) for line in path.read_text().splitlines()]


@dataclass(frozen=True)
class Agreement:
    """How a judge's log-odds agree with labels; the units are questions."""

    items: int
    positive: int
    """Answers that are labelled as in the style."""
    accuracy: Interval
    """Share of the answers whose log-odds are above 0 where, and only where, the label is the style."""
    auroc: float
    """Probability that an answer in the style has higher log-odds than one that is not."""

    @classmethod
    def of(cls, labelled: Sequence[Labelled], log_odds: Sequence[float]) -> Agreement:
        """Of labelled answers and the judge's log-odds of each."""
        wanted = [each.label == 1 for each in labelled]
        hits = [float((value > 0) == own) for value, own in zip(log_odds, wanted, strict=True)]
        sides = [
            [v for v, own in zip(log_odds, wanted, strict=True) if own == side] for side in (True, False)
        ]
        return cls(
            len(labelled),
            sum(wanted),
            ratio_interval(hits, None, [each.question for each in labelled]),
            auroc(*sides),
        )


def table() -> str:
    """Both judges and the number of tokens against the labels, as Markdown."""
    from hydra import compose, initialize_config_dir

    from embedspace import EmbeddingSpace
    from embedspace._util.markdown import markdown_table
    from embedspace.metrics import SentenceSimilarity, StyleJudge
    from experiments.style.judges import InstructedJudge

    rows, space = [], EmbeddingSpace.from_pretrained("smollm2-135m-instruct")
    everything = read()
    for style in dict.fromkeys(each.style for each in everything):
        labelled = [each for each in everything if each.style == style]
        with initialize_config_dir(str(FILE.parents[2] / "configs"), version_base=None):
            chosen = compose("run", ["experiment=style_sealed", f"data/style={style}", "out=unused"])
        data: Any = chosen.data.style
        texts = [each.text for each in labelled]
        judges = {
            "classifier of sentence vectors": StyleJudge.trained(SentenceSimilarity(), data.judge).log_odds(
                texts
            ),
            chosen.experiment.second_judge: InstructedJudge(
                chosen.experiment.second_judge, data.positive_name, data.negative_name
            ).log_odds(texts),
        }
        if style == "terse":
            judges["fewer than 20 tokens"] = [19.5 - len(space.tokenize(text)) for text in texts]
        for name, log_odds in judges.items():
            own = Agreement.of(labelled, log_odds)
            rows.append(
                [style, name, f"{own.positive} of {own.items}", f"{own.accuracy:.0%}", f"{own.auroc:.2f}"]
            )
    return markdown_table(["style", "judge", "labelled as the style", "accuracy", "AUROC"], rows)


def main() -> None:
    """Draw a sheet, enter one, or print the table."""
    parser = argparse.ArgumentParser(description="Answers labelled by hand.")
    parser.add_argument("action", choices=["draw", "enter", "table"])
    parser.add_argument("paths", nargs="*", help="run and sheet, and for enter the name of the style")
    given = parser.parse_args()
    if given.action == "table":
        print(table())
        return
    run, sheet = map(Path, given.paths[:2])
    if given.action == "draw":
        sheet.write_text(as_sheet(run))
        return
    style = given.paths[2]
    kept = [each for each in (read() if FILE.exists() else []) if each.style != style]
    labelled = [*kept, *entered(run, sheet.read_text(), style)]
    FILE.write_text("".join(json.dumps(asdict(each), ensure_ascii=False) + "\n" for each in labelled))


if __name__ == "__main__":
    main()
