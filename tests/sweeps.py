"""Sweeps by the command, and what their jobs recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def command(out: Path, *overrides: str) -> list[str]:
    """The command of a sweep in a folder."""
    return [sys.executable, "experiments/run.py", "--multirun", *overrides, f"out={out}"]


def sweep(
    out: Path, *overrides: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a sweep to its end."""
    return subprocess.run(
        command(out, *overrides), cwd=ROOT, env=env, capture_output=True, text=True, timeout=500
    )


def records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a file of records; none where there is no file."""
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]] if path.exists() else []


def final(out: Path) -> dict[str, dict[tuple[str, int], tuple[str, tuple[int, ...]]]]:
    """What each job of a sweep recorded, by its folder, without the times; a doubled record is an error."""
    reported = {}
    for path in sorted(out.rglob("records.jsonl")):
        name = str(path.parent.relative_to(out))
        lines = [((r["key"], r["choice"]), (r["text"], tuple(r["token_ids"]))) for r in records(path)]
        reported[name] = dict(lines)
        assert len(reported[name]) == len(lines)
    return reported


def sittings(folder: Path) -> int:
    """How many times the run in a folder was opened."""
    return len(json.loads((folder / "run.json").read_text())["sittings"])
