"""The compression experiment: its ways, its order, its answers, and LLMLingua's package at the length it reaches."""

from __future__ import annotations

import pytest

import experiments.compression.experiment
from embedspace.engines.base import Sampling
from embedspace.metrics import Score
from embedspace.runs.records import Record
from experiments.compression.experiment import Compression
from experiments.compression.items import Item
from experiments.compression.llmlingua import installed, shortened
from experiments.compression.metrics import FULL, LLMLINGUA, NONE, RIGHT, SAME_LENGTH
from experiments.compression.sentences import bm25, cut, ranked, sentences_of
from experiments.compression.ways import Asked, Compressed, Rarity, Sentences, passage_rows, passage_text

TEXTS = [
    "The old lighthouse on Varn Island was built in 1871 by Greta Holm, and its lamp burns green.",
    "Breakfast is served in the third carriage of the night train from Orlow to Benn, at ten past nine.",
    "Doctor Amara Quell opened her bakery after twenty years as a surgeon, and on Sundays it is closed.",
]
SENTENCES = [
    "The museum opens at nine. ",
    "A ticket costs 14 euros. ",
    "Dogs stay outside. ",
    "The museum has a café.",
]
MUSEUM: Item = {
    "text": "".join(SENTENCES),
    "question": "How much is a ticket?",
    "beginning": "A ticket costs",
    "answer": " 14 euros",
    "strings": ["14 euros"],
}
GAINS = {FULL: 4.0, NONE: 0.0, "own": 2.0, LLMLINGUA: 1.0}


def experiment(**changes):
    items = [{"text": text, "question": f"What of {n}?", "answer": "That."} for n, text in enumerate(TEXTS)]
    values = {
        "items": items,
        "source": "a test",
        "ways": {"own": Compressed()},
        "controls": [],
        "drawn": ["own"],
        "rivals": {},
        "margin": 0.1,
        "goals": [],
        "ratios": [2.0, 4.0],
        "fewer_ratios": {},
        "answered_ratios": [],
        "llmlingua": True,
    }
    return Compression(**{**values, **changes})


def recorded(cases, gains=GAINS):
    for case in cases:
        way, passage = str(case.tags["method"]), int(case.tags["passage"])
        gain = gains[way.removesuffix(f" {SAME_LENGTH}")]
        yield Record(
            key=case.key, choice=0, tags=case.tags, recipe=case.recipe, rows=1, sampling=Sampling(), space="",
            engine={}, text="", token_ids=(), finish_reason="stop", seconds=0.0,
            scores={RIGHT: Score(gain + 0.1 * passage * (gain + 1) - 6, 1)},
        )  # fmt: skip


@pytest.fixture
def package(monkeypatch):
    """A package that keeps the first seven words, or four, whatever it is asked for."""
    monkeypatch.setattr(experiments.compression.experiment, "installed", lambda: True)
    monkeypatch.setattr(
        experiments.compression.experiment,
        "shortened",
        lambda folder, text, ratio: " ".join(text.split()[: 7 if ratio < 3 else 4]),
    )


@pytest.mark.usefixtures("package")
def test_the_first_way_keeps_no_more_rows_than_the_package_passage_by_passage(smollm2):
    cases = list(experiment().cases(smollm2))
    rows = {
        (c.tags["method"], c.tags["ratio"], c.tags["passage"]): c.tags["rows"]
        for c in cases
        if "rows" in c.tags
    }
    own = experiment().own
    for ratio in (2.0, 4.0):
        for number, text in enumerate(TEXTS):
            kept = " ".join(text.split()[: 7 if ratio < 3 else 4])
            assert rows[LLMLINGUA, ratio, number] == len(smollm2.tokenize(kept))
            assert (
                0.7 * rows[LLMLINGUA, ratio, number]
                <= rows[own, ratio, number]
                <= rows[LLMLINGUA, ratio, number]
            )
    theirs = next(c.prompt for c in cases if c.tags["method"] == LLMLINGUA)
    assert smollm2.read(theirs).count("The old lighthouse on Varn Island was<") == 1


@pytest.mark.usefixtures("package")
def test_the_report_shows_it_at_the_length_that_it_reaches(smollm2):
    asked = experiment()
    records = list(recorded(asked.cases(smollm2)))
    (section,) = asked.analyse(records).sections
    whole = sum(len(smollm2.tokenize(text)) for text in TEXTS)
    kept = sum(len(smollm2.tokenize(" ".join(text.split()[:7]))) for text in TEXTS)
    assert f"{LLMLINGUA}: 25% at {whole / kept:.3g}x" in section.finding
    compared = section.tables[-1]
    assert next(row[0] for row in compared.rows) == f"{whole / kept:.3g}"
    assert all(row[1].estimate == pytest.approx(1.1) for row in compared.rows)


def test_without_the_package_it_is_refused_with_what_to_install(smollm2, monkeypatch):
    monkeypatch.setattr(experiments.compression.experiment, "installed", lambda: False)
    with pytest.raises(ValueError, match=r"pip install 'embedspace\[llmlingua\]'"):
        list(experiment().cases(smollm2))
    cases = list(experiment(llmlingua=False).cases(smollm2))
    assert {case.tags["method"] for case in cases} == {FULL, NONE, "own"}
    (section,) = experiment(llmlingua=False).analyse(list(recorded(cases))).sections
    assert "llmlingua" not in section.text


@pytest.mark.parametrize(
    ("gains", "verdict"),
    [
        (
            {"own": 2.0, "simple": 1.0},
            "Cut to 1/2 of its rows by the method “own”, a passage keeps 50% of what it adds to the right answer's "
            "likelihood (3 questions); by the best of the simple ways, “simple”, it keeps 25%.",
        ),
        (
            {"own": -1.0, "simple": 1.0},
            "Cut to 1/2 of its rows by the method “own”, a passage keeps nothing of what it adds to the right answer's "
            "likelihood (3 questions); by the best of the simple ways, “simple”, it keeps 25%.",
        ),
        (
            {FULL: -0.5, "own": 2.0, "simple": 1.0},
            "The whole passage does not make the right answer likelier, so there is nothing that could be kept.",
        ),
    ],
)
def test_the_verdict_is_true_of_its_own_numbers(smollm2, gains, verdict):
    ways = {"own": Compressed(), "simple": Compressed({"method": "truncate"})}
    asked = experiment(llmlingua=False, ways=ways, rivals={"own": ["simple"]})
    (section,) = asked.analyse(list(recorded(asked.cases(smollm2), {**GAINS, **gains}))).sections
    assert section.verdict == verdict


def test_what_is_answered_comes_first_and_all_of_a_passage_stands_together(smollm2):
    asked = experiment(llmlingua=False, answered_ratios=[4.0], answered_items=2)
    cases = list(asked.cases(smollm2))
    answered = [case for case in cases if case.answered]
    assert cases[: len(answered)] == answered
    assert {case.tags["passage"] for case in answered} == {0, 1}
    assert [case.tags["method"] for case in answered[:3]] == [NONE, FULL, "own"]
    scored = [case.tags["passage"] for case in cases[len(answered) :]]
    assert scored == sorted(scored)
    assert len({case.key for case in cases}) == len(cases) == 3 * (2 + 2)
    fewer = experiment(llmlingua=False, fewer_ratios={"own": [4.0]}).cases(smollm2)
    assert {case.tags["ratio"] for case in fewer} == {0.0, 1.0, 4.0}


def test_tasks_have_a_section_each_behind_an_overview(smollm2):
    items = [
        {**item, "task": task}
        for item, task in zip(experiment().items, ["gist", "code", "code"], strict=True)
    ]
    asked = experiment(items=items, llmlingua=False)
    overview, gist, code = asked.analyse(list(recorded(asked.cases(smollm2)))).sections
    assert overview.title == "All kinds of text"
    assert [row[0] for row in overview.tables[0].rows] == ["gist", "code"]
    assert gist.title.endswith("gist")
    assert code.text.startswith("2 questions")


WAYS = {
    "default": Compressed(),
    "query": Compressed(query=True),
    "keep": Compressed(keep=True),
    "bm25": Sentences("bm25"),
    "similarity": Sentences("similarity"),
    "rarity": Rarity(),
    "truncated": Compressed({"method": "truncate"}),
    "dropped": Compressed({"method": "drop"}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("ratio", [2.0, 4.0, 8.0])
def test_every_way_shortens_the_passage_alone_and_to_as_many_rows_at_most(smollm2, way, ratio):
    asked = Asked(smollm2, MUSEUM)
    prompt = WAYS[way](asked, ratio)
    assert 1 <= passage_rows(prompt) <= asked.length(ratio)
    whole = smollm2.read(asked.prompt)
    assert smollm2.read(prompt).split("<|im_end|>", 1)[1] == whole.split("<|im_end|>", 1)[1]


def test_ways_that_know_the_question_or_the_answer_keep_what_is_asked_for(smollm2):
    asked = Asked(smollm2, MUSEUM)
    for way in ("query", "keep", "bm25", "similarity"):
        assert "14 euros" in passage_text(smollm2, WAYS[way](asked, 3.0)), way


def test_sentences_are_the_text_and_are_put_back_in_its_order(smollm2):
    assert sentences_of(MUSEUM["text"]) == SENTENCES
    text = cut(smollm2, SENTENCES, [3, 1, 0, 2], 14)
    assert text.startswith("A ticket costs 14 euros. The museum")
    assert len(smollm2.tokenize(text)) <= 14
    assert cut(smollm2, SENTENCES, [0, 1, 2, 3], 1000) == MUSEUM["text"]


def test_bm25_prefers_rare_words_of_the_question_and_equals_its_formula():
    scores = bm25(SENTENCES, "Has the museum a café?")
    assert ranked(SENTENCES, "Has the museum a café?", "bm25")[0] == 3
    assert ranked(SENTENCES, "xyz", "bm25") == [0, 1, 2, 3]
    # "dogs" stands once in one of four sentences of 5, 5, 3 and 5 words.
    rarity, norm = 1.203973, 1.5 * (0.25 + 0.75 * 3 / 4.5)
    assert bm25(SENTENCES, "dogs") == pytest.approx([0, 0, rarity * 2.5 / (1 + norm), 0], abs=1e-5)
    assert scores[2] == 0


def test_bm25_finds_words_in_scripts_without_spaces():
    sentences = ["茶馆每天七点开门。", "一壶绿茶三十二元。", "院子里有银杏树。"]
    assert ranked(sentences, "一壶绿茶多少钱？", "bm25")[0] == 1


@pytest.mark.skipif(not installed(), reason="the extra llmlingua is not installed")
@pytest.mark.parametrize("times", [1, 4])
def test_the_package_itself_shortens_short_and_long_texts_with_the_packaged_model(smollm2, times):
    text = " ".join(TEXTS * 3 * times)  # below and above the segment that it goes through at a time
    before, after = (len(smollm2.tokenize(each)) for each in (text, shortened(smollm2.folder, text, 4.0)))
    assert 2 < before / after < 8
