"""The gateway's process: checks before the start, its socket, and callers' connections."""

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
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedspace.errors import EngineError
from embedspace.gateway.api_keys import Keys
from embedspace.gateway.app import GatewayApp
from embedspace.gateway.audit import AuditLog, Counters
from embedspace.gateway.intake import MAX_HEADER_BYTES, Capacity
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import LOOPBACK, Limits, Settings
from embedspace.gateway.upstream import Upstream
from embedspace.gateway.worker_pool import WorkerPool

_IDLE_SECONDS = 15
_SHUTDOWN_SECONDS = 10
_FILES_PER_CONNECTION = 3
"""Descriptors for one caller: its connection, the one to the server, and a margin."""
_NOT_HTTP = RefusedError(400, "invalid_http", "the request is not valid HTTP/1.1")


def serve(settings: Settings) -> None:
    """Check settings, server and filter, then serve until SIGINT or SIGTERM.

    Raises:
        ValueError: the port is in use, or the limits exceed those of the machine.
        EngineError: the filter cannot be loaded, or the server cannot be reached, was started without
            ``--enable-prompt-embeds``, or serves another model than the filter is for.
        OSError: the audit log cannot be written.
    """
    logging.basicConfig(format="%(asctime)s %(name)s: %(message)s", level=logging.INFO)
    for verbose in ("httpx2", "openai"):
        logging.getLogger(verbose).setLevel(logging.WARNING)
    with _listener(settings) as listener:
        asyncio.run(_serve(settings, listener))


async def _serve(settings: Settings, listener: socket.socket) -> None:
    counters = Counters()
    audit, keys = AuditLog(settings.audit), Keys(settings.keys)
    upstream = Upstream(settings)
    try:
        models = await upstream.fetch_models(settings.wait)
        workers = WorkerPool(_with_model(settings, models), counters.workers_lost.inc)
        try:
            await workers.start()
            await upstream.verify(workers.filter_info)
            capacity = Capacity(settings.limits, counters)
            await _run(GatewayApp(settings, keys, workers, upstream, audit, counters, capacity), listener)
        finally:
            await workers.close()
    finally:
        await upstream.close()


async def _run(app: GatewayApp, listener: socket.socket) -> None:
    config = uvicorn.Config(
        app.routes(),
        http=bounded_protocol(app.settings.limits),
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        timeout_keep_alive=_IDLE_SECONDS,
        timeout_graceful_shutdown=_SHUTDOWN_SECONDS,
    )
    host, port = listener.getsockname()[:2]
    filter_info = app.workers.filter_info
    logging.getLogger("embedspace.gateway").info(
        "filter %s for %s (%s) before %s",
        app.settings.filter,
        filter_info["model"],
        filter_info["fingerprint"],
        app.upstream.url,
    )
    if host not in LOOPBACK and not app.keys:
        print(
            "embedspace: everybody who can reach this address is admitted; see --keys",
            file=sys.stderr,
        )
    server = uvicorn.Server(config)
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}"
    print(f"gateway at {address} (process {os.getpid()}) before {app.upstream.url}", flush=True)
    await server.serve(sockets=[listener])


def _with_model(settings: Settings, models: dict[str, int | None]) -> Settings:
    """With the name of the filter's space: by default the name of the served model."""
    if settings.model is not None:
        return settings
    if len(models) != 1:
        raise EngineError(
            f"the vLLM server at {settings.upstream} serves {', '.join(map(repr, models)) or 'nothing'}; "
            "name the model of the filter's space with --model"
        )
    return dataclasses.replace(settings, model=next(iter(models)))


@contextlib.contextmanager
def _listener(settings: Settings) -> Iterator[socket.socket]:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = _FILES_PER_CONNECTION * settings.limits.connections + 64
    if hard != resource.RLIM_INFINITY and needed > hard:
        raise ValueError(
            f"{settings.limits.connections} connections need {needed} open files and this process may open {hard}; "
            "lower --limit connections=N or raise `ulimit -n`"
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is named; without it small answers take 40 ms.
    with socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((settings.host, settings.port))
            listener.listen(1024)
        except OSError as error:
            raise ValueError(
                f"port {settings.port} of {settings.host} cannot be used ({error.strerror}); choose another one, "
                "or 0 for any free one"
            ) from None
        yield listener


def bounded_protocol(limits: Limits) -> type[H11Protocol]:
    """uvicorn's HTTP protocol with a timeout for headers and a limit on connections."""

    class BoundedProtocol(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._start_deadline()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._cancel_deadline()
            elif self._deadline is None:
                self._start_deadline()

        def connection_lost(self, exc: Exception | None) -> None:
            self._cancel_deadline()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            # If an answer is already under way, an error response cannot be sent any more.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = _NOT_HTTP.body()
                fields = {**_NOT_HTTP.headers(), "content-length": str(len(body)), "connection": "close"}
                for event in (
                    h11.Response(
                        status_code=_NOT_HTTP.status, headers=list(fields.items()), reason=b"Bad Request"
                    ),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _start_deadline(self) -> None:
            self._deadline = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def _cancel_deadline(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return BoundedProtocol
