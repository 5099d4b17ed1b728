"""The style experiment asks what it says, and finds in records what was put there."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from hydra.utils import instantiate

from embedspace import EmbeddingSpace, StyleVector
from embedspace.engines.base import Sampling
from embedspace.metrics import Measure, Score
from embedspace.runs.cases import AnswerOf
from embedspace.runs.records import Record
from experiments.style.experiment import Style
from experiments.style.judges import InstructedJudge
from experiments.style.labels import Agreement, as_sheet, entered
from experiments.style.labels import read as read_labels
from experiments.style.metrics import (
    FLUENCY,
    INSTRUCTION,
    PLAIN,
    TEACHER,
    Limits,
    Measured,
    fluency_name,
    variety,
)
from experiments.style.vectors import (
    NEUTRAL_TARGETS,
    OPTIMISED,
    RANDOM,
    SHUFFLED,
    SHUFFLED_TARGETS,
    DistillationSource,
    chat,
    shuffled,
)
from tests.checkpoints import make_tiny_checkpoint
from tests.unit.test_configs import composed

QUESTIONS = [
    "How do I boil an egg?", "Why is the sea salty?", "What is a mortgage?", "How do magnets work?",
    "How do bees make honey?", "Why do we dream?", "What is a comet?", "How do I iron a shirt?",
    "Why does iron rust?", "How is paper made?", "What is a haiku?", "Who discovered penicillin?",
]  # fmt: skip
FORMAL = "It is recommended that one should kindly consider the matter: {} One is most respectfully advised."
CASUAL = "Hey, yeah, so {} No worries, dude, super easy, lol!"


def experiment(**changes):
    config = composed("experiment=style", "data=everyday", "out=unused").experiment
    values = {
        "questions": QUESTIONS, "optimised": None, "alphas": [-2.0, -1.0, 1.0, 2.0],
        "answered_alphas": [-2.0, -1.0, 1.0, 2.0], "control_seeds": [0, 1], "control_alphas": [-1.0, 1.0],
        "norm": 1.2, "answered_control_alphas": [1.0], "scored_questions": 2, "methods": ["mean_difference", "pca"],
        "answered_methods": ["mean_difference", "pca"], "rows": "content",
    }  # fmt: skip
    for name, value in {**values, **changes}.items():
        config[name] = value
    return instantiate(config)


def recorded(cases, styled, *, nll=lambda place: 0.7, loops=()):
    """Records of a model that is formal (1), casual (-1) or neither at a condition and strength."""
    for case in cases:
        tags, scores, text = case.tags, {}, ""
        place = (tags["condition"], tags["alpha"])
        if place[0] == FLUENCY:
            for name in case.continuations:
                condition, alpha = name.rsplit("/", 1)
                wobble = 0.01 * int(tags["question"])
                scores[name] = Score(-10 * (nll((condition, float(alpha))) + wobble), 10)
        else:
            scores = {
                name: Score(-5.0 + styled(place) * (1 if name.startswith("I") else -1), 3)
                for name in case.continuations
            }
        if case.answered:
            topic = QUESTIONS[tags["question"]]
            text = {1: FORMAL, -1: CASUAL, 0: "{} Most people do it without a second thought."}[
                styled(place)
            ].format(topic)
            text = "so it is and " * 12 if place in loops else text
        yield Record(
            key=case.key, choice=0, tags=tags, recipe=case.recipe, rows=len(case.prompt), sampling=Sampling(),
            space="", engine={}, text=text, token_ids=(1, 2, 3), finish_reason="stop", seconds=0.0, scores=scores,
        )  # fmt: skip


def obeys(place):
    """A model that follows the instruction and the mean difference, and nothing else."""
    return int(place[1] > 0) - int(place[1] < 0) if place[0] in (INSTRUCTION, "mean_difference") else 0


@pytest.fixture(scope="module")
def cases(smollm2):
    return list(experiment().cases(smollm2))


def section(cases, styled=obeys, **options):
    (found,) = experiment().analyse(list(recorded(cases, styled, **options))).sections
    return found


def test_keys_are_unique_and_scored_answers_come_before_their_scores(cases):
    seen = set()
    for case in cases:
        assert case.key not in seen
        needed = {target.key for target in case.continuations.values() if isinstance(target, AnswerOf)}
        assert needed <= seen
        seen.add(case.key)
    assert sum(case.tags["condition"] == FLUENCY for case in cases) == len(QUESTIONS)


def test_every_answer_is_scored_after_the_unshifted_question(cases):
    answered = {fluency_name(c.tags["condition"], c.tags["alpha"]) for c in cases if c.answered}
    for case in cases:
        if case.tags["condition"] == FLUENCY:
            plain = next(c for c in cases if c.key == f"{PLAIN}/alpha=+0/q{case.tags['question']:02d}")
            assert torch.equal(case.prompt.vectors, plain.prompt.vectors)
            assert set(case.continuations) == answered


def test_what_is_answered_comes_first_and_controls_have_the_vectors_norm(cases, smollm2):
    answered = [case.answered for case in cases]
    assert answered == sorted(answered, reverse=True)
    plain = chat(smollm2, QUESTIONS[0])
    for case in cases:
        kind, alpha = case.tags["condition"], case.tags["alpha"]
        if kind.startswith((RANDOM, SHUFFLED, "mean", "pca")) and case.tags["question"] == 0:
            moved = (case.prompt.vectors - plain.vectors)[plain.content].norm(dim=1)
            assert moved.allclose(torch.full_like(moved, 1.2 * abs(alpha)), atol=1e-3)
            assert len(case.prompt) == len(plain)


def test_a_vector_as_strong_as_the_instruction_is_called_so(cases):
    found = section(cases)
    finding = found.finding
    assert found.verdict == (
        "Towards formal and casual, the mean difference vector is as strong as the instruction in words."
    )
    assert [answer.label for answer in found.opening.answers] == [
        "No shift", "Towards formal: mean difference, alpha +1.0",
    ]  # fmt: skip
    assert "Towards formal, the mean difference vector is as strong as the instruction" in finding
    assert "within 0.5 nats" in finding
    assert "paired difference +0.00 (n = 12, all equal)" in finding
    assert "0 additional rows" in finding


def test_a_vector_that_does_nothing_is_said_to_change_nothing(cases):
    found = section(cases, lambda place: obeys(place) if place[0] == INSTRUCTION else 0)
    assert (
        found.verdict == "Towards formal and casual, the mean difference vector changes none of 12 answers."
    )
    assert "as strong" not in found.verdict
    assert found.finding.count("cannot be told from no change at all on 12 items") == 2


def test_captions_name_only_what_is_drawn(smollm2):
    alone = experiment(control_seeds=[], asked_questions=2)
    (found,) = alone.analyse(list(recorded(list(alone.cases(smollm2)), obeys))).sections
    for figure in found.figures:
        assert "Grey" not in figure.caption
        assert "random" not in figure.svg
        assert "Bands" not in figure.caption
    assert "0 seeds" not in found.text


def test_few_questions_cannot_tell_however_strong_the_vector_is(smollm2):
    few = experiment(asked_questions=4)
    (found,) = few.analyse(list(recorded(list(few.cases(smollm2)), obeys))).sections
    assert found.finding.count("4 items cannot tell whether the mean difference vector is as strong as") == 2
    assert "as strong as the instruction, within" not in found.finding
    assert found.verdict.startswith(
        "Towards formal and casual, 4 questions cannot tell whether the mean difference vector is as strong as"
    )


def test_the_first_questions_alone_can_be_asked(smollm2):
    few = experiment(asked_questions=2)
    assert {case.tags["question"] for case in few.cases(smollm2)} == {0, 1}


def test_of_other_methods_and_controls_one_strength_can_answer(smollm2):
    found = experiment(answered_methods=[], methods=["pca", "logistic"], answered_control_alphas=[1.0])
    answered = {
        (case.tags["condition"], case.tags["alpha"]) for case in found.cases(smollm2) if case.answered
    }
    assert {alpha for name, alpha in answered if name == "pca"} == {-2.0, -1.0, 1.0, 2.0}
    assert {alpha for name, alpha in answered if name in ("logistic", f"{RANDOM} 0")} == {1.0}


def test_the_strength_up_to_which_answers_are_usable_is_found(cases):
    def nll(place):
        return 3.0 if place == ("mean_difference", -2.0) else 0.7

    found = section(cases, nll=nll, loops=[("mean_difference", 2.0)])
    assert (
        "on topic for alpha in [+0.0, +0.0] by the intervals, in [\u22121.0, +1.0] by the est"
        in found.finding
    )
    ranges = next(table for table in found.tables if table.columns[0] == "Vector")
    assert {row[0]: row[3:] for row in ranges.rows}["PCA"] == ["\u22122.0", "+2.0"]


def test_a_strength_counts_only_where_all_weaker_ones_are_usable(cases):
    measured = experiment_measures(cases, loops=[("pca", 1.0)])
    path = {alpha: ("pca", alpha) for alpha in (-2.0, -1.0, 1.0, 2.0)}
    assert measured.usable_range(path, Limits(1.5, 0.8, 0.8), "by the estimates") == (-2.0, 0.0)


def test_a_strength_whose_interval_reaches_over_a_limit_is_usable_by_its_estimate_only():
    plain, moved = ("plain", 0.0), ("pca", 1.0)
    rng = np.random.default_rng(0)
    nll = {plain: dict.fromkeys(range(40), 1.0), moved: dict(enumerate(1 + rng.normal(0.35, 0.4, 40)))}
    ones = Measure({plain: dict.fromkeys(range(40), 1.0), moved: dict.fromkeys(range(40), 1.0)})
    fields = dict.fromkeys(Measured.__dataclass_fields__, ones)
    measured = Measured(**{**fields, "nll": Measure(nll)})
    ratio = measured.perplexity_ratio(plain, moved)
    assert measured.usable(moved, Limits(ratio.high + 0.01, 0.8, 0.8)) == "by the intervals"
    assert measured.usable(moved, Limits(ratio.high - 0.01, 0.8, 0.8)) == "by the estimates"
    assert measured.usable(moved, Limits(ratio.estimate - 0.01, 0.8, 0.8)) == "no"


def test_a_share_exactly_at_its_limit_is_usable_by_its_estimate():
    plain, moved = ("plain", 0.0), ("pca", 1.0)
    ones = dict.fromkeys(range(40), 1.0)
    fields = dict.fromkeys(Measured.__dataclass_fields__, Measure({plain: ones, moved: ones}))

    def usable(on_topic):
        topic = {number: float(number < on_topic) for number in range(40)}
        measured = Measured(**{**fields, "topic": Measure({plain: ones, moved: topic})})
        return measured.usable(moved, Limits(2.0, 0.8, 0.8))

    assert (usable(32), usable(31)) == ("by the estimates", "no")  # 32 of 40 is the limit of 80%


def test_an_empty_answer_and_an_echo_of_the_question_are_not_on_topic(cases):
    records = list(recorded(cases, obeys))
    records = [
        replace(record, text=QUESTIONS[record.tags["question"]])
        if record.tags["condition"] == PLAIN and record.tags["question"] < 3
        else replace(record, text=" ")
        if record.tags["condition"] == PLAIN and record.tags["question"] < 5 and record.text
        else record
        for record in records
    ]
    style = experiment()
    measured = Measured.of(
        records, QUESTIONS, (style.positive_openings, style.negative_openings), style.judge
    )
    topic = measured.topic.values[PLAIN, 0.0]
    assert [topic[question] for question in range(12)] == [0.0] * 5 + [1.0] * 7
    assert sum(measured.empty.values[PLAIN, 0.0].values()) == 2


def test_perplexity_is_the_exponential_of_paired_nll(cases):
    measured = experiment_measures(cases, nll=lambda place: 1.2 if place[0] == INSTRUCTION else 0.7)
    ratio = measured.perplexity_ratio((PLAIN, 0.0), (INSTRUCTION, 1.0))
    assert ratio.estimate == pytest.approx(2.718**0.5, abs=1e-3)
    assert ratio.items == len(QUESTIONS)


def experiment_measures(cases, **options):
    style = experiment()
    records = list(recorded(cases, obeys, **options))
    return Measured.of(records, QUESTIONS, (style.positive_openings, style.negative_openings), style.judge)


def test_without_likelihoods_or_answers_the_page_still_says_what_is_known(cases):
    records = [record for record in recorded(cases, obeys) if record.text]
    for record in records:
        record.scores.clear()
    (found,) = experiment().analyse(records).sections
    assert "perplexity" not in found.finding
    assert len(found.figures) == 2
    (found,) = experiment().analyse([]).sections
    assert "Too few answers" in found.finding


def test_four_figures_carry_the_controls(cases):
    figures = section(cases).figures
    assert len(figures) == 4
    for figure in figures:
        assert "random vectors" in figure.svg
        assert "instruction: formal" in figure.svg


def test_a_loop_has_little_variety():
    assert variety("one two three four") == 1.0
    assert variety("no no no no no") == 0.25
    assert variety("alone") == 1.0


def test_labels_dealt_by_chance_give_another_direction_with_each_seed(smollm2):
    style = experiment()
    vectors = [shuffled(smollm2, style.positive, style.negative, norm=2.0, seed=seed) for seed in (0, 0, 1)]
    assert torch.equal(vectors[0].vector, vectors[1].vector)
    assert vectors[0].similarity(vectors[2]) < 0.9
    assert vectors[2].norm == pytest.approx(2.0, abs=1e-5)


def test_an_optimised_vector_is_learnt_once_and_kept(tmp_path, monkeypatch):
    space = EmbeddingSpace.from_pretrained(make_tiny_checkpoint(tmp_path / "tiny"))
    monkeypatch.setenv("EMBEDSPACE_CACHE", str(tmp_path / "cache"))
    style = experiment(
        optimised={"epochs": 9, "norm": 2.0, "answer_tokens": 3, "learning_rate": 0.02, "batch_size": 2},
        learnt_on=["What is rain?", "Who are you?", "Tell me a story."],
        trained_control_seeds=[1],
    )
    cases = list(style.cases(space))
    files = sorted((tmp_path / "cache" / "styles").iterdir())
    assert (
        len(files) == 5
    )  # two vectors in question, a control on shuffled targets for each, one on neutral ones
    assert [case.recipe.digest for case in style.cases(space)] == [case.recipe.digest for case in cases]
    assert sorted((tmp_path / "cache" / "styles").iterdir()) == files
    up, down = (style.distillation_sources[sign].vector(space) for sign in (1.0, -1.0))
    by_key = {case.key: case.prompt for case in cases}
    plain = by_key[f"{PLAIN}/alpha=+0/q00"]
    norms = {
        f"{SHUFFLED_TARGETS} 1/alpha=+1": up.norm,
        f"{SHUFFLED_TARGETS} 1/alpha=-1": down.norm,
        f"{NEUTRAL_TARGETS} 1/alpha=+1": max(up.norm, down.norm),
    }
    for name, norm in norms.items():
        moved = (by_key[f"{name}/q00"].vectors - plain.vectors)[plain.content].norm(dim=1)
        assert moved.allclose(torch.full_like(moved, norm), atol=1e-3)
    assert torch.equal(
        by_key[f"{TEACHER}/alpha=+1/q00"].vectors,
        style.distillation_sources[1.0].teacher(space, QUESTIONS[0]).vectors,
    )
    assert torch.equal(by_key[f"{OPTIMISED}/alpha=+2/q00"].vectors, up.apply(plain, 2.0).vectors)
    assert torch.equal(by_key[f"{OPTIMISED}/alpha=-2/q00"].vectors, down.apply(plain, 2.0).vectors)


def test_what_decides_a_vector_decides_its_file(smollm2):
    shown = [("Why?", "Because.")]
    source = DistillationSource(["One?", "Two?"], "Be brief.", shown, {"epochs": 2})
    others = [
        DistillationSource(["One?", "Three?"], "Be brief.", shown, {"epochs": 2}),
        DistillationSource(["One?", "Two?"], "Be long.", shown, {"epochs": 2}),
        DistillationSource(["One?", "Two?"], "Be brief.", [("Why?", "For fun.")], {"epochs": 2}),
        DistillationSource(["One?", "Two?"], "Be brief.", shown, {"epochs": 3}),
        replace(source, shuffle_seed=0),
    ]
    assert len({other.path(smollm2) for other in (source, *others)}) == 6


def test_shuffled_targets_are_all_answers_and_none_is_at_its_own_question():
    questions = [f"Question {number}?" for number in range(7)]
    taught = [DistillationSource(questions, "Be brief.", [], {}, seed).taught for seed in (0, 0, 1)]
    assert taught[0] == taught[1] != taught[2]
    for own in taught:
        assert sorted(own) == questions
        assert all(question != given for question, given in zip(questions, own, strict=True))
    assert DistillationSource(questions, "Be brief.", [], {}).taught == questions


@pytest.mark.slow
def test_the_second_judge_tells_texts_that_the_first_was_trained_on():
    pairs = composed("experiment=style", "data/style=cheerful", "out=unused").data.style.judge[:6]
    scores = InstructedJudge("qwen2.5-coder-0.5b-instruct", "positive", "negative").log_odds(
        [text for pair in pairs for text in pair]
    )
    assert all(good > bad for good, bad in zip(scores[::2], scores[1::2], strict=True))


def test_labels_are_entered_in_the_order_of_the_sheet_and_a_line_without_one_is_refused(tmp_path):
    texts = ["Lovely!", "It rusts.", "Lovely!", "Dreadful."]
    tags = [{"question": 0, "condition": name, "alpha": 1.0} for name in ("a", "b", "c", "d")]
    lines = [
        json.dumps({"text": text, "tags": own, "finish_reason": "stop"})
        for text, own in zip(texts, tags, strict=True)
    ]
    (tmp_path / "records.jsonl").write_text("\n".join(lines))
    sheet = as_sheet(tmp_path)
    signs = {"Lovely!": "+", "It rusts.": "0", "Dreadful.": "-"}
    written = "".join(f"{signs[line.strip()]}{line}\n" for line in sheet.splitlines())
    found = entered(tmp_path, written, "cheerful")
    assert {each.text: each.label for each in found} == {"Lovely!": 1, "It rusts.": 0, "Dreadful.": -1}
    assert next(each for each in found if each.text == "Lovely!").conditions == ["a/+1", "c/+1"]
    with pytest.raises(ValueError, match="line 1 has the label ''"):
        entered(tmp_path, sheet, "cheerful")


def test_labelled_answers_are_to_development_questions_and_judges_are_scored_by_them():
    labelled = read_labels()
    assert len(labelled) >= 250
    asked = composed(
        "experiment=style", "data/style_questions=development", "out=unused"
    ).data.style_questions.asked
    assert {each.question for each in labelled} == set(range(len(asked)))
    perfect = Agreement.of(labelled, [1.0 if each.label == 1 else -1.0 for each in labelled])
    assert (perfect.accuracy.estimate, perfect.auroc) == (1.0, 1.0)
    blind = Agreement.of(labelled, [1.0] * len(labelled))
    assert (blind.accuracy.estimate, blind.auroc) == (pytest.approx(blind.positive / blind.items), 0.5)


def test_no_question_is_asked_twice_or_learnt_on():
    sets = [
        composed("experiment=style", f"data/style_questions={name}", "out=unused").data.style_questions
        for name in ("development", "held_out", "sealed")
    ]
    questions = [*sets[0].training, *(question for found in sets for question in found.asked)]
    assert len(set(questions)) == len(questions)
    assert isinstance(instantiate(composed("experiment=style", "out=unused").experiment), Style)


def test_a_vector_that_was_distilled_before_is_the_one_in_question_on_its_side(smollm2):
    asked = experiment(
        pretrained="cheerful", alphas=[-1.0, 1.0], control_seeds=[], methods=["mean_difference"]
    )
    cases = {case.key: case for case in asked.cases(smollm2)}
    places = {(case.tags["condition"], case.tags["alpha"]) for case in cases.values()}
    assert ("optimised", 1.0) in places
    assert ("optimised", -1.0) not in places
    assert {("mean_difference", 1.0), ("mean_difference", -1.0)} <= places
    moved = next(case for case in cases.values() if case.tags["condition"] == "optimised")
    plain = next(case for case in cases.values() if case.tags["condition"] == "plain")
    vector = StyleVector.from_pretrained("cheerful", smollm2)
    expected = vector.apply(plain.prompt, alpha=1.0, rows="content")
    assert torch.equal(moved.prompt.vectors, expected.vectors)
    assert "“cheerful”" in asked._text()
