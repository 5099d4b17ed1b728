"""Engines turn prompts into completions: in process, through a vLLM server, or through vLLM offline.

Names are imported on first use: the gateway's main process talks to servers and never loads torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.engines.base import Completion, Engine, Prompt, RetryingEngine, Sampling, Scorer, TokenIds
    from embedspace.engines.transformers.engine import TransformersEngine
    from embedspace.engines.vllm.client import VLLMClient
    from embedspace.engines.vllm.offline import VLLMOfflineEngine
    from embedspace.engines.vllm.server import VLLMServer

_HOMES = {
    **dict.fromkeys(
        ("Completion", "Engine", "Prompt", "RetryingEngine", "Sampling", "Scorer", "TokenIds"),
        "embedspace.engines.base",
    ),
    "TransformersEngine": "embedspace.engines.transformers",
    "VLLMClient": "embedspace.engines.vllm.client",
    "VLLMOfflineEngine": "embedspace.engines.vllm.offline",
    "VLLMServer": "embedspace.engines.vllm.server",
}

__all__ = [
    "Completion",
    "Engine",
    "Prompt",
    "RetryingEngine",
    "Sampling",
    "Scorer",
    "TokenIds",
    "TransformersEngine",
    "VLLMClient",
    "VLLMOfflineEngine",
    "VLLMServer",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedspace.engines' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
