"""The gateway's own process: its checks before the start, its socket, and its end."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import resource
import socket
import sys
from collections.abc import Iterator

import uvicorn

from embedspace.errors import EngineError
from embedspace.gateway.app import GatewayApp
from embedspace.gateway.audit import AuditLog
from embedspace.gateway.capacity import Capacity
from embedspace.gateway.connection import bounded
from embedspace.gateway.counters import Counters
from embedspace.gateway.intake import HEADER_BYTES
from embedspace.gateway.keys import Keys
from embedspace.gateway.screening import Screening
from embedspace.gateway.settings import LOOPBACK, Settings
from embedspace.gateway.upstream import Upstream

_IDLE_SECONDS = 15
_SHUTDOWN_SECONDS = 10
_FILES_EACH = 3
"""Descriptors for a connection: its own, its way to the server, and some."""


def serve(settings: Settings) -> None:
    """Check everything, then serve until SIGINT or SIGTERM.

    Raises:
        ValueError: the port is taken, or the settings do not fit.
        EngineError: the filter cannot be loaded, or the server cannot be reached, was started without the flag, or
            serves another model than the filter is for.
        OSError: the audit log cannot be written.
    """
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    for chatty in ("httpx2", "openai"):
        logging.getLogger(chatty).setLevel(logging.WARNING)
    with _listening(settings) as listener:
        asyncio.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    counters = Counters()
    audit, keys = AuditLog(settings.audit), Keys(settings.keys)
    upstream = Upstream(settings)
    try:
        models = await upstream.served(settings.wait)
        screening = Screening(_with_model(settings, models), counters.workers_lost.inc)
        try:
            await screening.start()
            await upstream.verify(screening.about)
            capacity = Capacity(settings.limits, counters)
            await _run(GatewayApp(settings, keys, screening, upstream, audit, counters, capacity), listener)
        finally:
            await screening.close()
    finally:
        await upstream.close()


async def _run(app: GatewayApp, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app.routes(),
        http=bounded(app.settings.limits),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEADER_BYTES,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    about = app.screening.about
    logging.getLogger("embedspace.gateway").info(
        "filter %s for %s (%s) before %s",
        app.settings.filter,
        about["model"],
        about["fingerprint"],
        app.upstream.url,
    )
    if host not in LOOPBACK and not app.keys:
        print("embedspace: everybody who can reach this address is let in; --keys FILE", file=sys.stderr)
    server = uvicorn.Server(config)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"gateway at {address} (process {os.getpid()}) before {app.upstream.url}", flush=True)
    await server.serve(sockets=[listener])


def _with_model(settings: Settings, models: dict[str, int | None]) -> Settings:
    """With the space's name, which is the served model's where none was given."""
    if settings.model is not None:
        return settings
    if len(models) != 1:
        raise EngineError(
            f"the vLLM server at {settings.upstream} serves {', '.join(map(repr, models)) or 'nothing'}; "
            "say with --model whose space the filter is for"
        )
    return dataclasses.replace(settings, model=next(iter(models)))


@contextlib.contextmanager
def _listening(settings: Settings) -> Iterator[socket.socket]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES_EACH * settings.limits.connections + 64
    if hard != resource.RLIM_INFINITY and wanted > hard:
        raise ValueError(
            f"{settings.limits.connections} connections need {wanted} open files and this process may have {hard}; "
            "lower --limit connections=N or raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sends small pieces at once (TCP_NODELAY) only where the protocol is named; else each answer takes 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(1024)
        except OSError as error:
            raise ValueError(
                f"port {settings.port} of {settings.host} cannot be used ({error.strerror}); name another one, "
                "or 0 for a free one"
            ) from None
        yield listener
