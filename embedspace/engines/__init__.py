"""Engines turn prompts into completions: in process, through a vLLM server, or through vLLM offline."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.engines.base import Completion, Engine, Sampling
    from embedspace.engines.transformers import TransformersEngine
    from embedspace.engines.vllm_client import VLLMClient
    from embedspace.engines.vllm_offline import VLLMOfflineEngine
    from embedspace.engines.vllm_server import VLLMServer

_HOMES = {
    "Completion": "embedspace.engines.base",
    "Engine": "embedspace.engines.base",
    "Sampling": "embedspace.engines.base",
    "TransformersEngine": "embedspace.engines.transformers",
    "VLLMClient": "embedspace.engines.vllm_client",
    "VLLMOfflineEngine": "embedspace.engines.vllm_offline",
    "VLLMServer": "embedspace.engines.vllm_server",
}

__all__ = [
    "Completion",
    "Engine",
    "Sampling",
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
