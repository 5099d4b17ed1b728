"""No report says more than its records show: each sentence of a verdict, on records for which it must not be said.

Every measure is made here, so that the truth is known: differences of chance, of a few items, of equal values.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from embedspace.engines.base import Sampling
from embedspace.metrics import Interval, Measure
from embedspace.prompt import Recipe
from embedspace.runs import Record
from experiments.attacks.optimise import Attacker
from experiments.attacks.report import AttackReport
from experiments.baseline import Baseline
from experiments.benchmarks.measurement import verdict as benchmark_verdict
from experiments.compression.metrics import Measured as Compressed
from experiments.compression.overview import Goal, Overview
from experiments.compression.report import CompressionReport
from experiments.distillation.metrics import DISTILLED, FULL, NONE
from experiments.distillation.metrics import Measured as Distilled
from experiments.distillation.report import verdict as distillation_verdict
from experiments.interpolation.metrics import Walks
from experiments.interpolation.report import verdict as interpolation_verdict
from experiments.projector.metrics import NOTHING, OWN, SHUFFLED, TEXT, place_of
from experiments.projector.report import SoftTokenReport
from experiments.rag.metrics import Measured as Retrieved
from experiments.rag.report import RagReport
from experiments.style.comparisons import InstructionComparison
from experiments.style.evidence import SideEvidence
from experiments.style.metrics import INSTRUCTION, TEACHER, UNSHIFTED, Limits
from experiments.style.metrics import Measured as Styled
from experiments.style.report import StyleReport
from experiments.style.vectors import SHUFFLED_TARGETS

MANY, FEW = 40, 6
EXPERIMENTS = Path(__file__).parents[3] / "experiments"


def noise(items: int, spread: float, seed: int = 0) -> np.ndarray:
    """Values whose mean is 0 exactly and whose spread is as given."""
    values = np.random.default_rng(seed).normal(0, 1, items)
    return spread * (values - values.mean()) / values.std(ddof=1)


def values(mean: float, spread: float, items: int, seed: int) -> dict[int, float]:
    return dict(enumerate((mean + noise(items, spread, seed)).tolist()))


def style(difference: float, spread: float, items: int = MANY, instruction: float = 2.0) -> str:
    """A vector whose strength differs so much from the instruction's; unshifted answers have 0."""
    asked = values(instruction, 0.3, items, 1)
    moved = {item: asked[item] + d for item, d in values(difference, spread, items, 2).items()}
    place, told = ("v", 1.0), (INSTRUCTION, 1.0)
    odds = Measure({UNSHIFTED: values(0.0, 0.3, items, 3), told: asked, place: moved})
    ones = Measure({where: dict.fromkeys(range(items), 1.0) for where in (UNSHIFTED, told, place)})
    none = Measure({})
    zeros = Measure({where: dict.fromkeys(range(items), 0.0) for where in (UNSHIFTED, told, place)})
    measured = Styled(none, odds, none, ones, none, ones, ones, ones, zeros, zeros, none)
    found = InstructionComparison.family(measured, [(place, 1.0, "formal")], margin=0.5)
    report = StyleReport(measured, measured, {"v": {0.0: UNSHIFTED, 1.0: place}}, "v", ("formal", "casual"), found, [],
                         Limits(2.0, 0.8, 0.8), 1.0, ())  # fmt: skip
    return f"{report.verdict()} {report.finding()}"


def style_evidence(
    gain: float,
    spread: float,
    items: int = MANY,
    teacher: float = 2.0,
    control: float = 0.0,
    second: float = 1.0,
) -> str:
    """Gains over unshifted answers: of a vector, its teacher, a trained control, and by the second judge."""
    plain = values(0.0, 0.3, items, 3)
    place, trained = ("v", 1.0), (SHUFFLED_TARGETS, 1.0)
    gains = {place: (gain, spread, 2), trained: (control, 0.3, 4), (TEACHER, 1.0): (teacher, 0.5, 5)}
    odds = {UNSHIFTED: plain} | {
        where: {n: plain[n] + v for n, v in values(mean, own, items, seed).items()}
        for where, (mean, own, seed) in gains.items()
    }
    again = {UNSHIFTED: plain, place: {n: plain[n] + v for n, v in values(second, 0.5, items, 6).items()}}
    none = Measure({})
    fields = dict.fromkeys(Styled.__dataclass_fields__, none)
    measured = Styled(**{**fields, "judge_log_odds": Measure(odds), "second_log_odds": Measure(again)})
    (side,) = SideEvidence.of(measured, [(place, 1.0, "formal")], {SHUFFLED_TARGETS: None})
    return side.sentences("the vector")


def interpolation(width: float, spread: float, items: int = MANY) -> str:
    widths = values(width, spread, items, 1)
    walks = Walks(["lerp"], Measure({}), Measure({}), Measure({}), Measure({}))
    halves = dict.fromkeys(range(items), 0.5)
    transitions = {
        ("width", "lerp"): widths, ("begin", "lerp"): halves, ("middle", "lerp"): halves, ("end", "lerp"): halves,
        ("slope", "lerp"): halves,
    }  # fmt: skip
    walks.__dict__["transitions"] = Measure(transitions)
    return interpolation_verdict(walks)


def distillation(closed: float, spread: float, items: int = 12, control: float = -9.0) -> str:
    """Rows that close so much of the divergence of 2 nats, prompt by prompt, and a control."""
    places = {
        (FULL, 0.0, 0.0): values(0.0, 0.0, items, 1),
        (NONE, 0.0, 0.0): values(2.0, 0.0, items, 1),
        (DISTILLED, 4.0, 3.0): {n: 2 - 2 * v for n, v in values(closed, spread, items, 2).items()},
    }
    if control > -9:
        places["truncate", 4.0, 0.0] = {n: 2 - 2 * v for n, v in values(control, spread, items, 3).items()}
    divergence = Measure({p: {1000 * n: v for n, v in own.items()} for p, own in places.items()})
    return distillation_verdict(Distilled(divergence, *[Measure({})] * 4), 4, 3)


def projector(gain: float, spread: float, items: int = MANY, text: float = 0.5) -> str:
    """Soft tokens that are so much better, in nats, than nothing, which has 5."""
    nll = {
        NOTHING: values(5.0, 0.1, items, 1),
        SHUFFLED: values(6.0, 0.1, items, 2),
        TEXT: values(text, 0.1, items, 3),
    }
    nll[OWN] = {n: nll[NOTHING][n] - v for n, v in values(gain, spread, items, 4).items()}
    measure = Measure({place_of("kind", "p", name): own for name, own in nll.items()})
    return SoftTokenReport("kind", [], "p", measure, [], 1)._verdict()


def rag(gain: float, spread: float, items: int = MANY, text: float = -0.5) -> str:
    likelihood = {
        ("no context", 0): values(-5.0, 0.1, items, 1),
        ("shuffled soft tokens", 1): values(-6.0, 0.1, items, 2),
        ("text", 1): values(text, 0.1, items, 3),
    }
    likelihood["soft tokens", 1] = {
        n: likelihood["no context", 0][n] + v for n, v in values(gain, spread, items, 4).items()
    }
    empty = Measure({})
    measured = Retrieved(empty, Measure(likelihood), empty, empty, empty)
    return RagReport("facts", measured, [], None, "", "p", [1], [])._verdict()  # type: ignore[arg-type]


def compressed(
    kept: float, spread: float, items: int = MANY, rival: float = 0.5, gain: float = 4.0
) -> Compressed:
    """A method that keeps so much of a gain, and a rival."""
    likelihood = {
        ("none", 0.0): values(-5.0, 0.1, items, 1),
        ("full", 1.0): {n: v + gain for n, v in values(-5.0, 0.1, items, 1).items()},
    }
    for name, share, seed in (("own", kept, 2), ("rival", rival, 3)):
        likelihood[name, 4.0] = {
            n: likelihood["none", 0.0][n] + 4 * v for n, v in values(share, spread, items, seed).items()
        }
    empty = Measure({})
    clusters = {n: str(n) for n in range(items)}
    return Compressed(Measure(likelihood), empty, empty, empty, empty, {}, clusters)


def compression(*args: Any, **named: Any) -> str:
    report = CompressionReport("T", compressed(*args, **named), [], [], MANY, "", ["own", "rival"], ["rival"], [],
                               {"own": ["rival"]}, 0.1, [4.0], [], None)  # fmt: skip
    return report._verdict()


def overview(*args: Any, **named: Any) -> str:
    made = Overview({"gist": compressed(*args, **named)}, ["own", "rival"], [4.0], {"own": ["rival"]},
                    0.1, [Goal("own", {4.0: 0.5})], [])  # fmt: skip
    section = made.section()
    return f"{section.verdict} {section.finding}"


def attack_record(name: str, question: int, start: int, text: str, passed: bool) -> Record:
    verdict = "passed" if passed else "manifold"
    return Record(
        key=f"{name}/{question}/{start}", choice=0, rows=1,
        recipe=Recipe.of("attack", {"n": f"{name}{question}{start}"}),
        tags={"attack": name, "question": question, "start": start, "strict": verdict, "declared": verdict},
        sampling=Sampling(), space="", engine={}, text=text, token_ids=(), finish_reason="stop", seconds=0.0,
    )  # fmt: skip


def attacks(said: bool, passed: bool, questions: int = 6) -> str:
    """An attack that makes the model say the word, or not, and passes the filter, or not."""
    records = [
        attack_record("gradient", question, start, "Turquoise." if said else "Blue.", passed)
        for question in range(questions)
        for start in range(2)
    ]
    report = AttackReport(
        {"gradient": Attacker("nothing", steps=1)}, ["Q?"] * questions, 2, 4, "Turquoise", [1.0]
    )
    section = report.section(records)
    return f"{section.verdict} {section.finding}"


def baseline(same: int, items: int) -> str:
    questions = [f"Q{n}?" for n in range(items)]
    records = [
        replace(attack_record("x", n, 0, text, True), tags={"question": n, "condition": condition})
        for n in range(items)
        for condition, text in (("ids", "A"), ("embeddings", "A" if n < same else "B"), ("shuffled", "C"))
    ]
    return Baseline(questions, 0).analyse(records).sections[0].verdict


def benchmark(low: float, high: float, aim: str) -> str:
    return benchmark_verdict(Interval((low + high) / 2, low, high, 12), aim)


@dataclass(frozen=True)
class Case:
    """A sentence, records for which it is said, and records for which it must not be said."""

    sentence: str
    said: tuple[Any, ...]
    never: tuple[tuple[Any, ...], ...]
    made: Any


CASES = {
    "style: stronger": Case(
        "is stronger than", (1.0, 0.5), ((0.05, 0.5), (1.0, 0.5, FEW), (-1.0, 0.5)), style
    ),
    "style: as strong": Case(
        "formal, the v vector is as strong as the instruction in words",
        (0.0, 0.5),
        ((0.0, 3.0), (-0.6, 0.5), (0.0, 0.5, FEW), (0.0, 0.1, MANY, 0.3)),
        style,
    ),
    "style: not weaker": Case("at most a little weaker", (0.2, 1.2), ((-0.6, 0.5), (0.0, 4.0)), style),
    "style: weaker": Case("is weaker than", (-0.9, 0.5), ((-0.1, 1.0), (-0.9, 0.5, FEW)), style),
    "style: no effect": Case("no effect that", (-2.0, 0.5), ((0.0, 0.5), (-4.0, 0.5)), style),
    "style: the other way": Case("has the opposite effect", (-4.0, 0.5), ((-2.0, 0.5), (0.0, 0.5)), style),
    "style: usable": Case("on topic for alpha in [+0.0, +1.0].", (0.0, 0.5), ((0.0, 0.5, FEW),), style),
    "style: above a trained control": Case(
        "the vector is stronger than vectors trained on shuffled targets",
        (1.0, 0.5),
        ((1.0, 0.5, FEW), (0.05, 0.5), (1.0, 0.5, MANY, 2.0, 0.95), (1.0, 0.5, MANY, 2.0, 2.0)),
        style_evidence,
    ),
    "style: below a trained control": Case(
        "the vector is weaker than vectors trained on shuffled targets",
        (1.0, 0.5, MANY, 2.0, 2.0),
        ((1.0, 0.5), (1.0, 0.5, MANY, 2.0, 1.05), (1.0, 0.5, FEW, 2.0, 2.0)),
        style_evidence,
    ),
    "style: not told from a trained control": Case(
        "the vector is not told from vectors trained on shuffled targets",
        (1.0, 0.5, MANY, 2.0, 0.95),
        ((1.0, 0.5), (1.0, 0.5, MANY, 2.0, 2.0), (1.0, 0.5, FEW)),
        style_evidence,
    ),
    "style: share of the teacher": Case(
        "reaches 50% (",
        (1.0, 0.5),
        ((1.0, 0.5, MANY, 0.05), (1.0, 0.5, MANY, -2.0), (1.0, 0.5, FEW), (0.2, 0.5)),
        style_evidence,
    ),
    "style: no effect of the teacher": Case(
        "has itself no effect that", (1.0, 0.5, MANY, 0.05), ((1.0, 0.5), (0.0, 0.5)), style_evidence
    ),
    "style: second judge": Case(
        "the second judge also finds",
        (1.0, 0.5),
        ((1.0, 0.5, MANY, 2.0, 0.0, 0.05), (1.0, 0.5, FEW), (1.0, 0.5, MANY, 2.0, 0.0, -1.0)),
        style_evidence,
    ),
    "style: second judge, the other way": Case(
        "the second judge sees the opposite",
        (1.0, 0.5, MANY, 2.0, 0.0, -1.0),
        ((1.0, 0.5), (1.0, 0.5, MANY, 2.0, 0.0, -0.05)),
        style_evidence,
    ),
    "interpolation: switch": Case(
        "the answer switches", (0.2, 0.1), ((0.38, 0.3), (0.2, 0.1, FEW)), interpolation
    ),
    "interpolation: path": Case(
        "as gradually as a straight line:",
        (0.8, 0.1),
        ((0.8, 0.6), (0.8, 0.1, FEW), (0.65, 0.1)),
        interpolation,
    ),
    "interpolation: faster": Case(
        "changes faster than", (0.6, 0.1), ((0.78, 0.3), (0.2, 0.1)), interpolation
    ),
    "interpolation: slower": Case("changes more slowly", (0.95, 0.1), ((0.82, 0.3),), interpolation),
    "distillation: closes": Case(
        "% of the way from those under no system prompt to those under the whole one (12",
        (0.5, 0.2),
        ((0.1, 0.5), (0.5, 0.2, FEW), (-0.5, 0.2)),
        distillation,
    ),
    "distillation: no nearer": Case("no nearer", (-0.5, 0.2), ((-0.05, 0.5), (0.5, 0.2)), distillation),
    "distillation: best": Case(
        "more than the best control", (0.7, 0.2, 12, 0.2), ((0.5, 0.2, 12, 0.45), (0.5, 0.2)), distillation
    ),
    "distillation: worse than a control": Case(
        "less than the best control", (0.3, 0.1, 12, 0.7), ((0.3, 0.4, 12, 0.35),), distillation
    ),
    "projector: reads": Case(
        "From a sentence's own soft tokens the model reads",
        (2.0, 0.5),
        ((0.1, 2.0), (2.0, 0.5, FEW), (-1.0, 0.5), (2.0, 0.5, MANY, 5.5)),
        projector,
    ),
    "projector: less": Case("less about it", (-1.0, 0.5), ((-0.1, 2.0), (1.0, 0.5)), projector),
    "rag: gives": Case(
        "As soft tokens, passages give",
        (2.0, 0.5),
        ((0.1, 2.0), (2.0, 0.5, FEW), (-1.0, 0.5), (2.0, 0.5, MANY, -5.5)),
        rag,
    ),
    "rag: less": Case("less likely than", (-1.0, 0.5), ((-0.1, 2.0), (1.0, 0.5)), rag),
    "compression: worse than nothing": Case(
        "is worse than no passage", (-0.5, 0.3), ((-0.02, 0.5), (0.5, 0.3)), compression
    ),
    "compression: keeps": Case(
        "keeps 50% of what it adds to the right answer's likelihood (40",
        (0.5, 0.3),
        ((0.1, 2.0), (-0.5, 0.3)),
        compression,
    ),
    "compression: nothing to keep": Case(
        "nothing that could be kept", (0.5, 0.3, MANY, 0.5, -1.0), ((0.5, 0.3),), compression
    ),
    "overview: below": Case("own on 1 of 1", (0.1, 0.2, MANY, 0.8), ((0.45, 0.5), (0.8, 0.2)), overview),
    "overview: reached": Case("1 of 1 goal", (0.7, 0.2), ((0.3, 0.2),), overview),
    "attacks: through the filter": Case(
        "1 makes the model say “Turquoise” through the shipped filter",
        (True, True),
        ((True, False), (False, True)),
        attacks,
    ),
    "attacks: none": Case(
        "none make the model say “Turquoise” through the shipped filter",
        (True, False),
        ((True, True), (False, False)),
        attacks,
    ),
    "baseline: all": Case("to 12 of 12 questions", (12, 12), ((11, 12),), baseline),
    "benchmarks: met": Case(
        "met",
        (0.2, 0.4, "at most 0.5"),
        ((0.4, 0.6, "at most 0.5"), (0.6, 0.7, "under 0.5"), (0.1, 0.2, "reported")),
        benchmark,
    ),
    "benchmarks: missed": Case(
        "missed", (0.6, 0.7, "at most 0.5"), ((0.4, 0.6, "at most 0.5"), (0.2, 0.4, "under 0.5")), benchmark
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_verdict_is_said_of_records_that_show_it_and_of_no_others(name: str) -> None:
    case = CASES[name]
    assert case.sentence in case.made(*case.said)
    for records in case.never:
        assert case.sentence not in case.made(*records), records


def test_every_report_with_a_verdict_is_in_the_table() -> None:
    with_verdicts = {
        path.parent.name if path.parent != EXPERIMENTS else path.stem
        for path in EXPERIMENTS.rglob("*.py")
        if any(word in path.read_text() for word in ("verdict=", "def verdict", "def _verdict"))
    }
    covered = {name.partition(":")[0] for name in CASES} - {"overview"}
    assert with_verdicts - {"experiment"} <= covered
