"""Run folders: one writer, one configuration, each change named."""

from __future__ import annotations

from pathlib import Path

import pytest

from embedspace._util.run_folder import RunFolder, flatten_settings, is_covered, settings_changes


def folder_at(path: Path) -> RunFolder:
    return RunFolder(
        path,
        noun="run",
        manifest="run.json",
        required=("config",),
        results=("*.jsonl", "parts"),
        lock_file="run.lock",
    )


def test_a_folder_has_one_writer(tmp_path: Path) -> None:
    folder = folder_at(tmp_path / "new")
    with (
        folder.lock(),
        pytest.raises(ValueError, match=r"another process is writing the run in .*out=FOLDER"),
    ):
        folder.lock()
    folder.lock().close()


def test_a_configuration_is_kept_and_damage_is_an_error(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    assert folder.read() is None
    folder.write({"config": {"a": 1}})
    assert folder.read() == {"config": {"a": 1}}
    for text in ("{}", "[]", "{"):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match=r"run\.json is damaged .*fresh=true"):
            folder.read()


def test_the_draft_of_a_killed_writer_is_removed_by_the_next(tmp_path: Path) -> None:
    (tmp_path / "run.json.0123.draft").write_text("{")
    (tmp_path / "records.jsonl.0123.draft").write_text("{")
    with folder_at(tmp_path).lock():
        assert not list(tmp_path.glob("*.draft"))


def test_drafts_of_killed_workers_can_be_removed_and_others_stay(tmp_path: Path) -> None:
    for name in ("records.jsonl.0123.draft", "notes.txt.0123.draft"):
        (tmp_path / name).touch()
    folder_at(tmp_path).remove_drafts()
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt.0123.draft"]


def test_clearing_removes_results_and_leaves_the_files_of_others(tmp_path: Path) -> None:
    folder = folder_at(tmp_path)
    folder.write({"config": {}})
    (tmp_path / "parts").mkdir()
    for name in ("records.jsonl", "parts/1", "notes.txt", "run.lock"):
        (tmp_path / name).touch()
    folder.clear()
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", "run.lock"}


def test_a_folder_that_cannot_be_made_says_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(
        OSError, match=r"cannot write the run folder .*Make it writable, make room, or choose"
    ):
        folder_at(tmp_path / "file" / "run").lock()


def test_each_change_is_named(tmp_path: Path) -> None:
    before = {"questions": ["one", "two"], "sampling": {"seed": 7, "max_tokens": 4}, "out": "a", "new": None}
    after = {"questions": ["one", "2"], "sampling": {"seed": 7, "top_p": 0.5}, "out": "b"}
    with pytest.raises(ValueError, match="holds a run with another configuration") as refusal:
        folder_at(tmp_path).require_same(before, after, ignored=["out"])
    assert str(refusal.value).splitlines()[1:] == [
        "  questions.1: 'two' -> '2'",
        "  sampling.max_tokens: 4 -> (absent)",
        "  sampling.top_p: (absent) -> 0.5",
        "choose another out=FOLDER, or pass fresh=true to throw the old run away",
    ]
    folder_at(tmp_path).require_same(before, before | {"out": "b"}, ignored=["out"])


def test_many_changes_are_cut_short() -> None:
    changes = settings_changes({}, {f"{number:02}": number for number in range(20)})
    assert changes[11:] == ["  11: (absent) -> 11", "  and 8 more"]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"_target_": "experiments.style.Style"}, {"_target_": "experiments.style.experiment.Style"}),
        (
            {"engine": "functools.partial(<class 'a.engines.Client'>, url='x')"},
            {"engine": "functools.partial(<class 'a.engines.vllm.client.Client'>, url='x')"},
        ),
        ({"engine": "<function f at 0x7f01>"}, {"engine": "<function a.f at 0x7f02>"}),
    ],
)
def test_code_that_moved_is_the_same_setting(before: dict[str, str], after: dict[str, str]) -> None:
    assert settings_changes({"part": before}, {"part": after}) == []


def test_another_class_or_another_name_is_a_change() -> None:
    assert settings_changes({"_target_": "a.Style"}, {"_target_": "a.Likelihood"})
    assert settings_changes({"model": "org.a/name"}, {"model": "org.b/name"})
    assert settings_changes({"path": "a.txt"}, {"path": "b.txt"})


def test_empty_parts_keep_their_name() -> None:
    assert flatten_settings({"a": [], "b": {"c": {}}}) == {"a": [], "b.c": {}}


def test_a_part_is_covered_by_what_it_lies_in() -> None:
    assert is_covered("engine.url.0", ["engine.url"])
    assert not is_covered("engine.urls", ["engine.url"])
