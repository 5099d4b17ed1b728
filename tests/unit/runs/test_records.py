"""Records: whatever a kill leaves of the file, going on neither loses nor doubles one."""

import json
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from embedspace import Recipe
from embedspace.engines import Sampling
from embedspace.metrics import Score
from embedspace.runs.records import Record, RecordLog, read_records


def record(key, choice=0, n=1, error=None, text="an answer – ünïcode 🎉"):
    return Record(
        key=key,
        choice=choice,
        tags={"alpha": 1.0, "kind": "style"},
        recipe=Recipe.of("embed", {"text": key}),
        rows=3,
        sampling=Sampling(n=n, temperature=1.0 if n > 1 else 0.0),
        space="fingerprint",
        engine={"engine": "none"},
        text=text,
        token_ids=(1, 2),
        finish_reason="error" if error else "stop",
        seconds=0.5,
        scores={"yes": Score(-1.5, 2)},
        error=error,
    )


def groups(n):
    return [[record(f"case {i}", choice, n) for choice in range(n)] for i in range(5)]


def written(path, batches):
    log = RecordLog(path)
    for batch in batches:
        log.append(batch)
    log.close()


def test_a_record_is_one_line_and_comes_back_equal(tmp_path):
    original = record("a\nkey", text='line\nbreaks " and \u2028')
    assert original.to_json().count(b"\n") == 1
    assert Record.from_json(original.to_json()) == original


@pytest.mark.parametrize("n", [1, 3])
@given(st.data())
def test_any_prefix_that_a_kill_leaves_goes_on_to_the_same_records(n, tmp_path, data):
    whole = tmp_path / "whole.jsonl"
    whole.unlink(missing_ok=True)
    written(whole, groups(n))
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole.read_bytes()[: data.draw(st.integers(0, whole.stat().st_size))])
    log = RecordLog(cut)
    for batch in groups(n):
        if batch[0].key not in log.completed:
            log.append(batch)
    log.close()
    assert cut.read_bytes() == whole.read_bytes()


def test_failed_cases_are_dropped_on_opening_so_that_they_are_tried_again(tmp_path):
    path = tmp_path / "records.jsonl"
    written(path, [[record("good")], [record("bad", error="too long")], [record("fine")]])
    log = RecordLog(path)
    log.close()
    assert set(log.completed) == {"good", "fine"}
    assert [kept.key for kept in read_records(path)] == ["good", "fine"]


def test_damage_in_the_middle_is_named_and_nothing_is_thrown_away(tmp_path):
    path = tmp_path / "records.jsonl"
    written(path, groups(1))
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2][:50] + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match="line 3 is damaged"):
        RecordLog(path)
    assert path.read_bytes() == b"".join(lines)


def test_a_tag_that_json_cannot_hold_is_refused():
    with pytest.raises(ValueError, match="'alpha'"):
        Record(**{**vars(record("x")), "tags": {"alpha": float("nan")}})


WRITER = """
import resource, signal, sys
from pathlib import Path
from tests.unit.runs.test_records import record
from embedspace.runs.records import RecordLog
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))
log = RecordLog(Path(sys.argv[1]))
try:
    for i in range(100):
        log.append([record(f"case {i}")])
except OSError as error:
    print(error)
"""


def test_a_full_disk_stops_with_the_file_named_and_keeps_what_was_written(tmp_path):
    path = tmp_path / "records.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", WRITER, str(path)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[3],
    )
    assert "records.jsonl" in done.stdout
    assert "make room" in done.stdout
    log = RecordLog(path)
    log.close()
    assert 0 < len(log.completed) < 100
    assert all(json.loads(line) for line in path.read_text().splitlines())
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4000
