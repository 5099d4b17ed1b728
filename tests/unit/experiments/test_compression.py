"""The compression experiment beside LLMLingua's package: at the length that it reaches, and refused without it."""

import pytest

import experiments.compression.experiment
from embedspace.engines.base import Sampling
from embedspace.metrics import Score
from embedspace.runs.records import Record
from experiments.compression.experiment import Compression
from experiments.compression.llmlingua import installed, shortened
from experiments.compression.metrics import FULL, LLMLINGUA, NONE, RIGHT, SAME_LENGTH

TEXTS = [
    "The old lighthouse on Varn Island was built in 1871 by Greta Holm, and its lamp burns green.",
    "Breakfast is served in the third carriage of the night train from Orlow to Benn, at ten past nine.",
    "Doctor Amara Quell opened her bakery after twenty years as a surgeon, and on Sundays it is closed.",
]
GAINS = {FULL: 4.0, NONE: 0.0, "telling": 2.0, LLMLINGUA: 1.0}


def experiment(**changes):
    items = [{"text": text, "question": f"What of {n}?", "answer": "That."} for n, text in enumerate(TEXTS)]
    values = {
        "items": items,
        "source": "a test",
        "ways": {"telling": {"method": "salience"}},
        "controls": [],
        "peer": None,
        "ratios": [2.0, 4.0],
        "answered_ratios": [],
        "llmlingua": True,
    }
    return Compression(**{**values, **changes})


def recorded(cases):
    for case in cases:
        way, passage = str(case.tags["method"]), int(case.tags["passage"])
        gain = GAINS[way.removesuffix(f" {SAME_LENGTH}")]
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
def test_the_first_way_keeps_as_many_rows_as_the_package_passage_by_passage(smollm2):
    cases = list(experiment().cases(smollm2))
    rows = {(c.tags["method"], c.tags["ratio"], c.tags["passage"]): c.tags["rows"] for c in cases}
    own = experiment().own
    for ratio in (2.0, 4.0):
        for number, text in enumerate(TEXTS):
            kept = " ".join(text.split()[: 7 if ratio < 3 else 4])
            assert rows[LLMLINGUA, ratio, number] == rows[own, ratio, number] == len(smollm2.tokenize(kept))
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
    assert {case.tags["method"] for case in cases} == {FULL, NONE, "telling"}
    (section,) = experiment(llmlingua=False).analyse(list(recorded(cases))).sections
    assert "llmlingua" not in section.text


@pytest.mark.skipif(not installed(), reason="the extra llmlingua is not installed")
@pytest.mark.parametrize("times", [1, 4])
def test_the_package_itself_shortens_short_and_long_texts_with_the_packaged_model(smollm2, times):
    text = " ".join(TEXTS * 3 * times)  # below and above the segment that it goes through at a time
    before, after = (len(smollm2.tokenize(each)) for each in (text, shortened(smollm2.folder, text, 4.0)))
    assert 2 < before / after < 8
