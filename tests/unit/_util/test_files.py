"""Files and folders: whole or not there, whatever interrupts the writing."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from embedspace._util.files import (
    atomic_folder,
    atomic_path,
    atomic_write,
    read_cached_json,
    write_cached_json,
)


@pytest.mark.parametrize("sync", [False, True])
def test_a_file_is_replaced_as_a_whole(tmp_path: Path, sync: bool) -> None:
    path = tmp_path / "file.txt"
    atomic_write(path, "gr\u00fc\u00df\n", sync=sync)
    assert path.read_bytes() == "gr\u00fc\u00df\n".encode()
    atomic_write(path, b"\x00\r\n", sync=sync)
    assert path.read_bytes() == b"\x00\r\n"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_gets_the_mode_of_an_ordinary_new_file(tmp_path: Path) -> None:
    atomic_write(tmp_path / "atomic", "")
    (tmp_path / "ordinary").touch()
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "ordinary").stat().st_mode


def test_a_file_that_is_replaced_keeps_its_mode_and_a_link_its_target(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o600)
    link.symlink_to(path)
    atomic_write(link, "new")
    assert link.is_symlink()
    assert path.read_text() == "new"
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_device_is_written_to_and_not_replaced() -> None:
    atomic_write(Path("/dev/null"), "nothing")
    assert Path("/dev/null").is_char_device()


def test_an_interrupted_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(TypeError), atomic_path(path) as draft:
        draft.write_text(None)  # type: ignore[arg-type]
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_concurrent_writers_leave_one_whole_file(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    texts = [str(number) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=atomic_write, args=(path, text)) for text in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_text() in texts
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "model"
    with atomic_folder(target, "marker") as draft:
        assert draft is not None
        (draft / "marker").touch()
        assert not target.exists()
    assert (target / "marker").is_file()
    with atomic_folder(target, "marker") as draft:
        assert draft is None


@pytest.mark.parametrize("resume", [False, True])
def test_an_interrupted_folder_is_resumed_only_where_that_is_asked_for(tmp_path: Path, resume: bool) -> None:
    target = tmp_path / "model"
    with pytest.raises(FileNotFoundError), atomic_folder(target, "marker", resume=resume) as draft:
        _write_part_and_fail(draft)
    assert not target.exists()
    with atomic_folder(target, "marker", resume=resume) as draft:
        assert draft is not None
        assert (draft / "part").exists() == resume


def _write_part_and_fail(draft: Path | None) -> None:
    assert draft is not None
    (draft / "part").touch()
    (draft / "absent").read_text()


def test_a_cache_folder_that_cannot_be_written_is_ignored(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    write_cached_json(tmp_path / "file" / "cached.json", {"a": 1})
    assert read_cached_json(tmp_path / "file" / "cached.json") is None


@pytest.mark.parametrize(
    "damage", [lambda text: text.replace("1", "2"), lambda text: text[:-3], lambda _: "[]"]
)
def test_a_damaged_cached_object_is_a_miss(tmp_path: Path, damage: object) -> None:
    path = tmp_path / "folder" / "cached.json"
    write_cached_json(path, {"a": 1})
    assert read_cached_json(path) == {"a": 1}
    path.write_text(damage(path.read_text()))  # type: ignore[operator]
    assert read_cached_json(path) is None
