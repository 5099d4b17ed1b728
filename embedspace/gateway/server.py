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
from functools import partial

import uvicorn

from embedspace.errors import EngineError
from embedspace.gateway.api_keys import Keys
from embedspace.gateway.app import GatewayApp
from embedspace.gateway.audit import AuditLog, Counters
from embedspace.gateway.intake import Capacity
from embedspace.gateway.peers import Peer, Peers
from embedspace.gateway.protocol import BoundedProtocol
from embedspace.gateway.settings import LOOPBACK, Limits, Settings
from embedspace.gateway.upstream import Upstream
from embedspace.gateway.worker_pool import WorkerPool

_IDLE_SECONDS = 15
_SHUTDOWN_SECONDS = 10
_FILES_PER_CONNECTION = 3
"""Descriptors for one caller: its connection, the one to the server, and a margin."""
_ACCEPTED_AT_ONCE = 16
"""Connections that are accepted before others are served."""


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
        app,
        http=BoundedProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="error",
        server_header=False,
        proxy_headers=False,
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
    with _accepting(listener, server, app.settings.limits):
        await server.serve(sockets=[])


@contextlib.contextmanager
def _accepting(listener: socket.socket, server: uvicorn.Server, limits: Limits) -> Iterator[None]:
    """Accept connections for a server, a few at a time, and within the limits for all addresses and for each."""
    loop, peers = asyncio.get_running_loop(), Peers(limits.connections)
    opening: set[asyncio.Task[None]] = set()

    def open_connection(connection: socket.socket, peer: Peer) -> None:
        with peer.charged():
            protocol = BoundedProtocol(
                peer=peer,
                peers=peers,
                limits=limits,
                config=server.config,
                server_state=server.server_state,
                app_state={},
            )
            task = loop.create_task(connect(connection, protocol, peer))
            opening.add(task)
            task.add_done_callback(opening.discard)

    async def connect(connection: socket.socket, protocol: BoundedProtocol, peer: Peer) -> None:
        try:
            await loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # it is closed already
            connection.close()
        finally:
            peer.opening -= 1

    def accept() -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = listener.accept()
            except OSError:  # none is left, or the caller of one has gone
                return
            peer = None if server.should_exit else peers.admit(address[0])
            if peer is None:
                connection.close()
                continue
            connection.setblocking(False)
            peer.opening += 1
            peer.when_it_has_time(partial(open_connection, connection, peer))

    listener.setblocking(False)
    loop.add_reader(listener, accept)
    try:
        yield
    finally:
        loop.remove_reader(listener)
        peers.close()


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
