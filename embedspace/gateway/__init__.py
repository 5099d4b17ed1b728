"""A reverse proxy that puts a filter before one vLLM server: see :class:`Gateway` and docs/gateway.md."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from embedspace.gateway.process import Gateway
    from embedspace.gateway.settings import Limits, Settings

_HOMES = {
    "Gateway": "embedspace.gateway.process",
    "Limits": "embedspace.gateway.settings",
    "Settings": "embedspace.gateway.settings",
}

__all__ = ["Gateway", "Limits", "Settings"]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'embedspace.gateway' has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
