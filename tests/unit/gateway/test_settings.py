"""Claims about a gateway's settings, keys and limits."""

from __future__ import annotations

import argparse
import re
from dataclasses import fields
from pathlib import Path

import pytest

from embedspace.errors import EngineError
from embedspace.gateway import Limits, Settings
from embedspace.gateway.api_keys import KEYS_VARIABLE, Keys, read_keys
from embedspace.gateway.filter_process import FilterError
from embedspace.gateway.process import add_arguments
from embedspace.gateway.server import serve
from embedspace.gateway.upstream import FilterMismatchError

KEYS = ("first-secret-key", "second-secret-key")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"upstream": "localhost:8000"}, "upstream must be an address"),
        ({"upstream": "http://me:secret@localhost"}, "without a password"),
        ({"port": 70_000}, "port is 70000"),
        ({"workers": 0}, "workers is 0"),
        ({"wait": -1.0}, "wait is"),
        ({"allow": ("/v1/../pooling",)}, "cannot be allowed"),
        ({"upstream_key": "secret-of-the-server"}, "set API keys of callers"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words) as raised:
        Settings(**{"upstream": "http://localhost:8000", "filter": "f", **options})  # type: ignore[arg-type]
    assert "secret" not in str(raised.value)


def test_a_limit_that_no_other_leaves_room_for_is_refused() -> None:
    with pytest.raises(ValueError, match="held_bytes is 1000 and one body may have 2000"):
        Limits(body_bytes=2000, held_bytes=1000)
    with pytest.raises(ValueError, match="body_seconds is inf"):
        Limits(body_seconds=float("inf"))


def test_more_connections_than_files_may_be_open_are_refused_at_the_start() -> None:
    settings = Settings("http://127.0.0.1:1", "f", limits=Limits(connections=2**40))
    with pytest.raises(ValueError, match="--limit connections=N"):
        serve(settings)


def test_engine_errors_are_what_the_command_line_reports() -> None:
    assert issubclass(FilterError, EngineError)
    assert issubclass(FilterMismatchError, EngineError)


def test_keys_come_from_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# of the two teams\nfirst-secret-key\n\n second-secret-key \n")
    assert read_keys(file, {}) == KEYS
    assert read_keys(None, {KEYS_VARIABLE: " ".join(KEYS)}) == KEYS
    assert read_keys(None, {}) == ()
    file.write_text("# none yet\n")
    with pytest.raises(ValueError, match="holds no API key"):
        read_keys(file, {})
    with pytest.raises(ValueError, match=KEYS_VARIABLE):
        read_keys(None, {KEYS_VARIABLE: ""})


@pytest.mark.parametrize(
    "keys", [["short"], ["with a space in it"], ["schlüssel-schlüssel"], [KEYS[0], KEYS[0]]]
)
def test_a_key_that_is_none_is_refused_and_not_shown(keys: list[str]) -> None:
    with pytest.raises(ValueError, match="API key") as raised:
        Keys(keys)
    assert keys[0] not in str(raised.value)


@pytest.mark.parametrize("limits", ["rows=0", "rows=many", "colour=3", "rows"])
def test_a_limit_that_is_none_is_refused(limits: str, capsys: pytest.CaptureFixture[str]) -> None:
    # Parsed by argparse, which exits, or checked by the settings, which the command reports.
    code = exit_code(["gateway", "--upstream", "http://127.0.0.1:1", "--filter", "f", "--limit", limits])
    assert code == 2
    assert "limit" in capsys.readouterr().err


def test_the_limits_that_the_help_shows_can_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    assert exit_code(["gateway", "--help"]) == 0
    shown = re.findall(r"(\w+)=([\d.]+)", capsys.readouterr().out)
    assert len(shown) == len(fields(Limits))
    for name, value in shown:
        options = parsed("--limit", f"{name}={value}")
        assert options.limit == [(name, getattr(Limits, name))]


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(["--upstream", "http://127.0.0.1:1", "--filter", "f", *arguments])


def exit_code(arguments: list[str]) -> object:
    from embedspace.cli import main

    try:
        return main(arguments)
    except SystemExit as ended:
        return ended.code
