"""The ledger counts looks, and decides whether a report may say that a set is held out."""

import dataclasses
import json
import multiprocessing
import re
from pathlib import Path

import pytest

from embedspace.reporting import Report, Section
from embedspace.runs import Run
from experiments.compression.experiment import Compression
from experiments.sealed_sets import (
    LEDGER,
    PATH_VARIABLE,
    Ledger,
    Look,
    SealedSet,
    as_markdown,
    count_look,
    item_digest,
)

QUESTIONS = [f"Question {number}?" for number in range(20)]
DOCS = Path(__file__).parents[3] / "docs"
LONG_AGO, SOON = "2000-01-01T00:00:00+00:00", "2999-01-01T00:00:00+00:00"


class Asking:
    """An experiment that asks so many of the questions."""

    def __init__(self, count: int) -> None:
        self.item_texts = QUESTIONS[:count]

    def analyse(self) -> Report:
        return Report("T", "", [Section("S", "Found.", "")])


@pytest.fixture
def ledger(tmp_path, monkeypatch):
    monkeypatch.setenv(PATH_VARIABLE, str(tmp_path / "sets.json"))
    made = Ledger.default()
    made.add("mine", QUESTIONS, method="version 1")
    return made


def looks(ledger):
    (sealed,) = ledger.read()
    return sealed.looks


def counted(folder, count=20, *, trial=False):
    with Run.open(folder, {"seed": 1}, fingerprint="abc") as run:
        return count_look(Asking(count), run, trial=trial)


def test_a_full_run_is_a_look_and_the_next_one_says_so(ledger, tmp_path):
    first, second = counted(tmp_path / "one"), counted(tmp_path / "two")
    assert "looked at 0 times before. It is held out." in first
    assert "looked at 1 time before, always with the present method. It is held out." in second
    assert [look.items for look in looks(ledger)] == [20, 20]


def test_a_report_that_is_written_again_of_the_same_records_is_the_same_look(ledger, tmp_path):
    assert counted(tmp_path / "one") == counted(tmp_path / "one")
    assert len(looks(ledger)) == 1


@pytest.mark.parametrize(("count", "trial"), [(20, True), (9, False)])
def test_a_small_trial_is_no_look(ledger, tmp_path, count, trial):
    assert counted(tmp_path / "one", count, trial=trial) == ""
    assert not looks(ledger)


def test_a_look_at_a_part_of_the_items_counts(ledger, tmp_path):
    counted(tmp_path / "one", 10)
    assert [look.items for look in looks(ledger)] == [10]


def test_items_of_no_sealed_set_and_experiments_without_items_count_nowhere(ledger, tmp_path):
    assert ledger.look([f"Another {number}?" for number in range(50)], Look(SOON, 0, "", "x")) == []
    with Run.open(tmp_path / "run", {}, fingerprint="abc") as run:
        assert count_look(object(), run, trial=False) == ""


def test_passages_with_their_questions_are_the_items_of_compression(ledger, tmp_path):
    items = [{"text": "Tea is hot.", "question": question, "answer": "Yes."} for question in QUESTIONS]
    Ledger.default().add(
        "passages", [f"Tea is hot. {question}" for question in QUESTIONS], method="version 1"
    )
    settings = {field.name: [] for field in dataclasses.fields(Compression)}
    made = Compression(**settings | {"items": items, "asked_items": 12})
    with Run.open(tmp_path / "run", {}, fingerprint="abc") as run:
        assert "It is held out." in count_look(made, run, trial=False)
    assert [(sealed.name, [look.items for look in sealed.looks]) for sealed in ledger.read()] == [
        ("mine", []),
        ("passages", [12]),
    ]


def test_a_set_that_was_looked_at_before_its_method_was_changed_is_not_held_out():
    early, late = Look(LONG_AGO, 20, "", "early"), Look(SOON, 20, "", "late")
    digests = tuple(map(item_digest, QUESTIONS))
    now = "2026-01-01T00:00:00+00:00"
    assert SealedSet("mine", digests, now, "v2").is_held_out()
    assert SealedSet("mine", digests, now, "v2", (), (late,)).is_held_out()
    both = SealedSet("mine", digests, now, "v2", (), (early, late))
    assert not both.is_held_out()
    assert (
        "looked at 2 times before, 1 time before the method was changed last (2026-01-01: v2)"
        in both.described()
    )
    assert "It is held out" not in both.described()
    assert both.described().endswith("It is not held out.")
    # A look of the run itself is none before it.
    assert "looked at 1 time before" in both.described("late")


def test_a_ledger_that_cannot_be_used_is_named_and_the_report_is_written_all_the_same(ledger, tmp_path):
    content = json.loads(ledger.path.read_text())
    content["mine"]["items"] = "0" * 12
    ledger.path.write_text(json.dumps(content))
    said = counted(tmp_path / "one")
    assert "could not be counted" in said
    assert "held out" not in said
    assert str(ledger.path) in said


def test_a_set_is_sealed_once_and_has_items_of_its_own(ledger):
    with pytest.raises(ValueError, match="a name of its own"):
        ledger.add("mine", QUESTIONS, method="v1")
    with pytest.raises(ValueError, match="at least 10 different items, got 9"):
        ledger.add("few", QUESTIONS[:9], method="v1")


def look_often(path, process):
    for number in range(5):
        Ledger(path).look(QUESTIONS, Look(SOON, 0, "", f"{process}/{number}"))


def test_looks_of_several_processes_are_all_counted(ledger):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=look_often, args=(ledger.path, number)) for number in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert len(looks(ledger)) == 15


COMMITTED = Ledger(LEDGER).read()


def test_the_page_of_evidence_shows_the_ledger():
    assert as_markdown(COMMITTED).strip() in (DOCS / "evidence.md").read_text()


def test_the_committed_ledger_is_sound_and_names_pages_that_exist():
    assert COMMITTED
    for sealed in COMMITTED:
        assert len(sealed.items) >= 10
        assert all((DOCS / page).is_file() for page in sealed.pages)


@pytest.mark.parametrize(
    ("page", "sealed"),
    [(page, sealed) for sealed in COMMITTED for page in sealed.pages],
    ids=lambda part: part if isinstance(part, str) else part.name,
)
def test_a_page_calls_no_set_held_out_that_was_looked_at_before_its_method_was_changed(page, sealed):
    text = " ".join((DOCS / page).read_text().split())
    claims = re.findall(r"[^.]*(?<!not )held[- ]out[^.]*", text)
    assert sealed.is_held_out() or not claims, claims
