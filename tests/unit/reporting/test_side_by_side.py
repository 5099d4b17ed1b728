"""Two runs side by side: what differs comes first, nothing is lost, and no text of a model becomes markup."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from embedspace import Recipe
from embedspace.cli import main
from embedspace.reporting import Report, Section, compare_runs, write_report
from embedspace.runs import Record, Run
from tests.unit.reporting.test_report import ATTACK, Page, record


def asked(number: int, text: str) -> Record:
    recipe = Recipe.of("embed", {"text": f"Question {number}?"})
    return dataclasses.replace(record(number, text), recipe=recipe)


def run(folder: Path, texts: dict[int, str], verdict: str = "", seed: int = 1) -> Path:
    with Run.open(folder, {"seed": seed}, fingerprint="abc") as made:
        for number, text in texts.items():
            made.log.append([asked(number, text)])
        if verdict:
            write_report(Report("Style", "", [Section("Style", "Numbers.", "", verdict=verdict)]), made)
    return folder


def test_cases_that_differ_come_first_and_each_side_has_its_own_column(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {0: "Yes.", 1: "No.", 2: "Perhaps."}, "It works.")
    second = run(tmp_path / "b", {0: "Yes.", 1: ATTACK, 3: "New."}, "It does not.", seed=2)
    page = compare_runs(first, second, tmp_path / "page.html").read_text()
    rows = page.split('<table class="records">', 1)[1].split("<tr data-tags")[1:]
    assert ["case 1" in rows[0], "case 2" in rows[1], "case 3" in rows[2], "case 0" in rows[3]] == [True] * 4
    assert [row.split('data-outcome="', 1)[1].split('"', 1)[0] for row in rows] == [
        "differs", "only in the first", "only in the second", "same",
    ]  # fmt: skip
    words = "".join(Page(page).words)
    assert ATTACK in words
    assert page.count("<script") == 1
    sentence = (
        "1 of 2 answers to the same cases differs; 1 record is only in the first; 1 record is only in the"
    )
    for said in ("It works.", "It does not.", "seed", sentence):
        assert said in words
    assert 'href="a/report.html"' in page


def test_answers_to_other_questions_under_one_name_are_not_compared(tmp_path: Path) -> None:
    first = run(tmp_path / "a", {0: "Yes.", 1: "No."})
    with Run.open(tmp_path / "b", {"seed": 2}, fingerprint="abc") as made:
        made.log.append([asked(0, "Yes.")])
        other = Recipe.of("embed", {"text": "Another question?"})
        made.log.append([dataclasses.replace(record(1, "Perhaps."), recipe=other)])
    page = compare_runs(first, tmp_path / "b", tmp_path / "page.html").read_text()
    assert "None of 1 answers to the same cases differs; 1 case of one name asks other questions." in page
    assert "Question 1? | Another question?" in page


def test_equal_runs_are_said_to_be_equal_and_a_large_one_is_bounded(tmp_path: Path) -> None:
    texts = dict.fromkeys(range(2100), "Yes.")
    folders = [run(tmp_path / name, texts) for name in ("a", "b")]
    page = compare_runs(*folders, tmp_path / "page.html").read_text()
    assert "None of 2,100 answers to the same cases differs." in page
    assert "2,000 of 2,100 cases, those that differ first" in page
    assert page.count("<tr data-tags") == 2000


def test_the_command_writes_the_page_and_names_what_is_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(tmp_path / "a", {0: "Yes."})
    run(tmp_path / "b", {0: "No."})
    assert main(["runs", "compare", "a", "b"]) == 0
    assert "side by side: compared.html" in capsys.readouterr().out
    assert "1 of 1 answers" in Path("compared.html").read_text()
    assert main(["diff", "a", "b", "--html", "other.html"]) == 1
    assert Path("other.html").is_file()
    assert main(["runs", "compare", "a", "nowhere"]) == 2
    assert "nowhere is not the folder of a run" in capsys.readouterr().err
    assert main(["runs", "open", "a"]) == 2
    assert "a has no report.html" in capsys.readouterr().err
    assert main(["runs", "a", "b"]) == 2
    assert "runs a b is not known" in capsys.readouterr().err
