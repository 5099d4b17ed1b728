"""Requests to a server whose answer no engine reads: token ids, counters, and what a client would not send."""

from __future__ import annotations

import json
import urllib.request
from typing import Any


def post(url: str, api_key: str | None, body: dict[str, Any]) -> Any:
    """The JSON that a server answers to JSON.

    Raises:
        OSError: no answer, or an error as the answer.
    """
    headers = {"Content-Type": "application/json", **_headers(api_key)}
    return json.loads(_read(urllib.request.Request(url, json.dumps(body).encode(), headers)))


def prefix_hits(url: str, api_key: str | None) -> float | None:
    """Rows that the server has taken from its prefix cache so far; None where it publishes no counters."""
    try:
        text = _read(urllib.request.Request(f"{url}/metrics", headers=_headers(api_key))).decode()
    except OSError:
        return None
    counts = [
        float(line.rsplit(" ", 1)[1])
        for line in text.splitlines()
        if line.startswith(("vllm:prefix_cache_hits_total", "vllm:prefix_cache_hits{"))
    ]
    return sum(counts) if counts else None


def _read(request: urllib.request.Request) -> bytes:
    # A server named by its address is reached without a proxy.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as answer:
        return bytes(answer.read(8 * 2**20))


def _headers(api_key: str | None) -> dict[str, str]:
    return {"Authorization": f"Bearer {api_key}"} if api_key else {}
