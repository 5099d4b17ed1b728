"""What the experiments on soft tokens ask and conclude, without a model's answers."""

import dataclasses

import pytest
import torch

from embedspace.engines.base import Sampling
from embedspace.metrics.intervals import Measure
from embedspace.metrics.likelihood import Score
from embedspace.projector import Projector, ProjectorConfig, SentenceEncoder
from embedspace.runs.records import Record
from experiments.compression.passages import EXPLANATIONS, FACTS, Knowledge, Question
from experiments.projector.experiment import SoftTokens
from experiments.projector.metrics import MEAN, NOTHING, OWN, SHUFFLED, TEXT, condition_scores, shared_words
from experiments.rag.experiment import Rag
from experiments.rag.metrics import NONE, RIGHT, SOFT, holds_value
from experiments.rag.metrics import SHUFFLED as SHUFFLED_SOFT
from experiments.rag.metrics import TEXT as PASSAGES

SENTENCES = [
    "The cat sleeps on the warm stove.",
    "Rain fell on the harbour all night.",
    "He sold his old piano.",
]
KNOWN = Knowledge(
    ["Lamps: the lamp costs $12.", "Boats: the boat is green and old.", "Tea: the tea takes 4 minutes."],
    [
        Question(question=question, answer=answer, task=task, passages=[passage], beginning=beginning)
        for question, answer, task, passage, beginning in (
            ("Lamps: complete the line", " $12", FACTS, 0, "the lamp costs"),
            ("Tea: complete the line", " 4", FACTS, 2, "the tea takes"),
            ("What is the boat like?", "Green and old.", EXPLANATIONS, 1, ""),
        )
    ],
)
TOKENS = 3


@pytest.fixture(scope="module")
def folder(smollm2, tmp_path_factory):
    """An untrained projector: what is asked does not hang on its weights."""
    encoder = SentenceEncoder()
    config = ProjectorConfig(
        "linear",
        TOKENS,
        384,
        smollm2.hidden_size,
        encoder.name,
        encoder.fingerprint,
        smollm2.name,
        smollm2.fingerprint,
    )
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("projector")
    Projector(config, smollm2).save_pretrained(path)
    return str(path)


def soft_tokens(folder, **changes):
    made = SoftTokens(
        {"plain": SENTENCES}, "a test", {"main": folder, "other/a": folder}, None, "Repeat this:", 1, 2, 3, 2
    )
    return dataclasses.replace(made, **changes)


def rag(folder, **changes):
    ways = {"compressed": {"method": "truncate"}, "absent": None}
    return dataclasses.replace(Rag(KNOWN, "of a test", folder, [1, 2], ways, "Passage:", 1, 1), **changes)


def test_every_sentence_is_asked_about_under_every_condition_and_its_rows_stand_in_the_text_s_place(
    smollm2, folder
):
    cases = list(soft_tokens(folder).cases(smollm2))
    rows = {condition: {} for condition in (NOTHING, SHUFFLED, OWN, MEAN, TEXT)}
    for case in cases:
        if case.tags["condition"] in rows and case.tags["projector"] in ("", "main"):
            rows[case.tags["condition"]][case.tags["sentence"]] = case.prompt
    assert all(sorted(found) == [0, 1, 2] for found in rows.values())
    bare = len(rows[NOTHING][0])
    for condition, number in ((OWN, TOKENS), (SHUFFLED, TOKENS), (MEAN, TOKENS)):
        assert len(rows[condition][0]) == bare + number
        changed = rows[condition][0].vectors
        at = rows[NOTHING][0].content_runs[-1].stop
        assert torch.equal(changed[:at], rows[NOTHING][0].vectors[:at].to(changed.dtype))
        assert torch.equal(changed[at + number :], rows[NOTHING][0].vectors[at:].to(changed.dtype))
    assert torch.equal(rows[SHUFFLED][1].vectors, rows[OWN][0].vectors)
    assert not torch.equal(rows[OWN][1].vectors, rows[OWN][0].vectors)
    assert "cat sleeps" in smollm2.read(rows[TEXT][0])


def test_the_text_condition_is_the_templated_instruction_with_the_sentence(smollm2, folder):
    found = next(case for case in soft_tokens(folder).cases(smollm2) if case.tags["condition"] == TEXT)
    whole = smollm2.embed_chat([{"role": "user", "content": f"Repeat this: {SENTENCES[0]}"}])
    assert torch.equal(found.prompt.vectors, whole.vectors)


def test_a_search_holds_the_sentence_itself_among_its_candidates(smollm2, folder):
    searches = [case for case in soft_tokens(folder).cases(smollm2) if case.tags["condition"] == "search"]
    assert len(searches) == 2
    for case in searches:
        assert len(case.continuations) == 3
        assert case.continuations[str(case.tags["sentence"])] == SENTENCES[case.tags["sentence"]]


def test_the_report_takes_the_better_control_and_counts_what_is_found(smollm2, folder):
    experiment = soft_tokens(folder)
    costs = {NOTHING: 4.0, SHUFFLED: 6.0, OWN: 2.0, MEAN: 5.0, TEXT: 0.0}

    def cost(case, name):
        own = 2.0 if name == str(case.tags["sentence"]) else 3.0
        return costs.get(case.tags["condition"], own)

    records = [
        recorded(case, {name: -cost(case, name) for name in case.continuations})
        for case in experiment.cases(smollm2)
    ]
    report = experiment.analyse(records)
    first, curves = report.sections
    assert "over the better control, nothing (3 sentences)" in first.finding
    assert "recover 50% (n = 3) of the likelihood gain" in first.finding
    assert "by likelihood 100%" in first.finding
    assert first.verdict == (
        "On 3 sentences the model reads 50% from soft tokens of what the text itself would tell it, measured from "
        "nothing, the better control: too few to say how it is on others."
    )
    assert "2 projectors" in curves.finding
    assert first.comparisons[0].answers[0].label == "Rows nearest to the soft tokens"


def recorded(case, logprobs, text="words", seconds=0.5):
    scores = {name: Score(value, 1) for name, value in logprobs.items()}
    reason = "stop" if case.answered else "scored"
    return Record(
        case.key, 0, case.tags, case.recipe, len(case.prompt), Sampling(), "space", {}, text if case.answered else "",
        (), reason, seconds, scores,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["answered", "retrieved", "candidates", "compared"])
def test_more_than_there_are_sentences_is_refused(folder, name):
    with pytest.raises(ValueError, match=f"{name} is 4 and there are 3 sentences of the kind 'plain'"):
        soft_tokens(folder, **{name: 4})


def test_no_projector_and_a_single_sentence_are_refused(folder):
    with pytest.raises(ValueError, match="no projector to measure"):
        soft_tokens(folder, projectors={})
    with pytest.raises(ValueError, match="at least two sentences"):
        soft_tokens(folder, kinds={"plain": ["One."]}, candidates=1, retrieved=1, compared=1)


def test_scores_count_the_items_that_all_conditions_have():
    nats = Measure.of(
        [(("a",), 0, 1.0), (("a",), 1, 2.0), (("b",), 1, 3.0), (("a",), 2, 2.0), (("b",), 2, 5.0)]
    )
    found = condition_scores(nats, {"nothing": ("b",), "own": ("a",)})
    assert found.nll == {"nothing": (3.0, 5.0), "own": (2.0, 2.0)}
    assert condition_scores(nats, {"nothing": ("b",), "own": ("a",)}, most=2) is None


def test_words_in_common_are_those_of_four_letters_in_any_case():
    assert shared_words("The STOVE is hot", "The warm stove") == pytest.approx(0.5)
    assert shared_words("anything", "He is so") is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("it is $12.", True),
        ("$12, then", True),
        ("$120", False),
        ("$12.50", False),
        ("1$12", False),
        ("", False),
    ],
)
def test_a_value_is_found_whole_or_not_at_all(text, found):
    assert holds_value(text, "$12") is found


def test_every_way_gets_its_rows_between_introduction_and_question(smollm2, folder):
    cases = {case.key: case for case in rag(folder).cases(smollm2)}
    with_soft = cases[f"{SOFT}/passages=2/q002"]
    bare = smollm2.embed_chat([{"role": "user", "content": "Passage:\n\nWhat is the boat like?"}])
    assert len(with_soft.prompt) == len(bare) + 2 * TOKENS
    assert len(cases["compressed/passages=2/q002"].prompt) == len(with_soft.prompt)
    text = smollm2.read(cases[f"{PASSAGES}/passages=1/q002"].prompt)
    assert "Passage: Boats: the boat is green and old.\n\nWhat is the boat like?" in text
    assert not [key for key in cases if key.startswith("absent")]


def test_an_answer_begins_as_its_question_asks(smollm2, folder):
    case = next(case for case in rag(folder).cases(smollm2) if case.key == f"{NONE}/passages=0/q000")
    assert smollm2.read(case.prompt).endswith("the lamp costs")
    assert case.continuations == {RIGHT: " $12"}


def test_shuffled_soft_tokens_are_those_of_another_question(smollm2, folder):
    cases = {case.key: case for case in rag(folder, counts=[1]).cases(smollm2)}
    own, other = (cases[f"{way}/passages=1/q002"].prompt for way in (SOFT, SHUFFLED_SOFT))
    assert len(own) == len(other)
    assert not torch.equal(own.vectors, other.vectors)


def test_first_tokens_are_timed_before_anything_else_is_asked(smollm2, folder):
    timed = [case.timed for case in rag(folder).cases(smollm2)]
    assert timed == sorted(timed, reverse=True)
    assert sum(timed) == 1 + 2 * len(
        {(c.tags["way"], c.tags["passages"]) for c in rag(folder).cases(smollm2)}
    )


def test_the_report_tells_worth_and_price(smollm2, folder):
    experiment = rag(folder)
    worth = {NONE: -5.0, PASSAGES: -1.0, SOFT: -3.0, SHUFFLED_SOFT: -4.0, "compressed": -2.0}
    records = [
        recorded(case, dict.fromkeys(case.continuations, worth[case.tags["way"]]), "the lamp costs $12")
        for case in experiment.cases(smollm2)
    ]
    facts, explanations = experiment.analyse(records).sections
    assert "on 2 questions, soft tokens recover 33% of the likelihood gain" in facts.finding
    assert f"over the better control, {SHUFFLED_SOFT} (n = 2)" in facts.finding
    assert "milliseconds to the first token: text 500" in facts.finding
    assert facts.verdict == (
        "On 2 questions, passages as soft tokens give 33% of what their text gives for the right answer, measured from "
        "another question's passages, the better control: too few to say how it is on others."
    )
    assert facts.figures
    assert explanations.tables[0].rows


def test_numbers_of_passages_that_cannot_be_are_refused(folder):
    for counts in ([], [0], [4]):
        with pytest.raises(ValueError, match="numbers of passages from 1 to 3"):
            rag(folder, counts=counts)
    with pytest.raises(ValueError, match="at least two questions"):
        rag(folder, knowledge=Knowledge(KNOWN.passages, KNOWN.questions[:1]))
