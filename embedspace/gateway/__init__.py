"""A reverse proxy with a safety filter for one vLLM server: see :class:`Gateway` and docs/gateway.md."""

from embedspace.gateway.process import Gateway
from embedspace.gateway.settings import Limits, Settings

__all__ = ["Gateway", "Limits", "Settings"]
