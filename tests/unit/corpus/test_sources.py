"""Texts come out of every kind of source in order, in any stretch, and a wrong source says what is allowed."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given

from embedspace.corpus import columnar, open_source

TEXTS = [f"text number {number} ü" for number in range(23)]


def text_files(folder: Path) -> Path:
    for name, part in (("a.txt", TEXTS[:9]), ("b.txt", TEXTS[9:])):
        (folder / name).write_text("\n".join(part) + ("\n" if name == "a.txt" else ""))
    return folder


def json_lines(folder: Path) -> Path:
    path = folder / "texts.jsonl"
    path.write_text("".join(json.dumps({"id": 1, "text": text}) + "\n" for text in TEXTS))
    return path


def parquet_files(folder: Path) -> Path:
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    for name, part in (("a.parquet", TEXTS[:13]), ("b.parquet", TEXTS[13:])):
        table = pyarrow.table({"id": list(range(len(part))), "text": part})
        parquet.write_table(table, folder / name, row_group_size=5)
    return folder


def data_set(folder: Path) -> Path:
    datasets = pytest.importorskip("datasets")
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(folder / "saved")
    return folder / "saved"


KINDS = [text_files, json_lines, parquet_files, data_set]


@pytest.mark.parametrize("kind", KINDS)
def test_every_stretch_is_that_of_the_texts_and_other_processes_read_the_same(
    kind, tmp_path_factory: pytest.TempPathFactory
) -> None:
    place = kind(tmp_path_factory.mktemp("source"))
    source = open_source(place, stride=4)
    assert len(source) == len(TEXTS)
    elsewhere = pickle.loads(pickle.dumps(source))
    assert elsewhere.describe() == source.describe() == open_source(place, stride=7).describe()

    @given(st.integers(0, len(TEXTS)), st.integers(0, len(TEXTS)))
    def stretches(start: int, stop: int) -> None:
        assert source.read(start, stop) == elsewhere.read(start, stop) == TEXTS[start:stop]

    stretches()


@pytest.mark.parametrize("kind", KINDS)
def test_other_texts_are_another_source(kind, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    before = open_source(kind(tmp_path / "one"), stride=4).describe()
    monkeypatch.setitem(globals(), "TEXTS", [*TEXTS[:-1], "another one"])
    assert open_source(kind(tmp_path / "two"), stride=4).describe() != before


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_misspelt_column_is_answered_with_those_that_there_are(kind, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'txet'.*text.*column="):
        open_source(kind(tmp_path), column="txet", stride=4)


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    saved = datasets.DatasetDict({"test": datasets.Dataset.from_dict({"text": TEXTS})})
    saved.save_to_disk(tmp_path / "saved")
    assert len(open_source(tmp_path / "saved", split="test", stride=4)) == len(TEXTS)
    with pytest.raises(ValueError, match=r"no split 'train'; it has test"):
        open_source(tmp_path / "saved", stride=4)


def test_wrong_sources_say_what_is_allowed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        open_source(tmp_path / "nothing.jsonl", stride=4)
    with pytest.raises(ValueError, match="no files of a known kind"):
        open_source(tmp_path, stride=4)
    json_lines(tmp_path)
    (tmp_path / "a.txt").write_text("a\n")
    with pytest.raises(ValueError, match=r"\.jsonl files, \.txt files.*one kind"):
        open_source(tmp_path, stride=4)
    (tmp_path / "table.csv").write_text("a\n")
    with pytest.raises(ValueError, match=r"\.csv files"):
        open_source(tmp_path / "table.csv", stride=4)


def test_a_cut_parquet_file_is_named(tmp_path: Path) -> None:
    parquet_files(tmp_path)
    (tmp_path / "a.parquet").write_bytes((tmp_path / "a.parquet").read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.parquet is not a whole Parquet file"):
        open_source(tmp_path, stride=4)


def test_a_missing_library_names_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> None:
        raise ModuleNotFoundError(name)

    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setattr(columnar.importlib, "import_module", absent)
    with pytest.raises(ValueError, match=r"pyarrow.*pip install 'embedspace\[corpus\]'"):
        open_source(tmp_path, stride=4)


def test_an_empty_file_is_a_corpus_of_no_texts(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    source = open_source(tmp_path / "a.jsonl", stride=4)
    assert len(source) == 0
    assert source.read(0, 5) == []
