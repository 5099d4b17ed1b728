"""The command line: what is at hand, which runs there are, and short descriptions of objects."""

import shutil
from pathlib import Path

import pytest

from embedspace import EmbeddingSpace, SafetyFilter
from embedspace.cli import main
from embedspace.encoders import SentenceEncoder

EARLIER = Path(__file__).parents[1] / "fixtures/earlier_version"


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out.startswith("embedspace ")


def test_models_projectors_and_filters_are_listed_by_their_whole_names(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["models"]) == 0
    listed = capsys.readouterr().out
    assert "\u2026" not in listed
    names = ("smollm2-135m-instruct", "qwen2.5-coder-0.5b-instruct", "minilm-to-smollm2", "smollm2-injection")
    assert all(name in listed for name in names)


def test_runs_are_listed_and_other_folders_are_not(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "200")
    for name in ("run", "corpus"):
        shutil.copytree(EARLIER / name, tmp_path / name)
    assert main(["runs", str(tmp_path)]) == 0
    listed = capsys.readouterr().out
    assert str(tmp_path / "run") in listed
    assert str(tmp_path / "corpus") not in listed
    assert main(["runs", str(tmp_path / "nowhere")]) == 0
    assert "there are no runs below" in capsys.readouterr().out


def test_objects_describe_themselves_in_a_line(smollm2: EmbeddingSpace):
    guard = SafetyFilter.from_pretrained("smollm2-injection", smollm2)
    for value in (guard, smollm2, smollm2.tokenizer, smollm2.table, SentenceEncoder(), guard.calibration):
        assert 10 < len(repr(value)) < 250, type(value)
        assert "\n" not in repr(value)


def test_without_a_command_the_help_is_printed(capsys):
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == 0
    assert "playground" in capsys.readouterr().out


def test_a_folder_as_the_file_of_a_vector_is_refused_before_it_is_learnt(capsys, tmp_path):
    assert main(["distill", "Answer like a pirate.", "--out", str(tmp_path)]) == 2
    assert "is a folder; name a file in it" in capsys.readouterr().err
