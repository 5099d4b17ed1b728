"""``embedspace playground``: its arguments, and the server that it runs until Ctrl-C."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import logging
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import uvicorn
    from starlette.types import ASGIApp

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PORT = 8765
_HEADER_BYTES = 1024 * 1024
"""Most bytes of a request's head: an address holds the texts of a view, percent-encoded."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--model",
        default="smollm2-135m-instruct",
        help="packaged name, local folder or hub id; default: %(default)s",
    )
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        help="who answers: the model in this process, or a vLLM server (its key: $VLLM_API_KEY); default: vllm with "
        "--url, otherwise transformers",
    )
    parser.add_argument("--url", help="address of a vLLM server that was started with --enable-prompt-embeds")
    parser.add_argument(
        "--style", metavar="FILE", type=Path, action="append", default=[],
        help="a style vector that StyleVector.save wrote; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--soft", metavar="FOLDER", type=Path, action="append", default=[],
        help="a soft prompt that SoftPrompt.save wrote; may be given several times",
    )  # fmt: skip
    parser.add_argument(
        "--filter",
        metavar="PATH",
        help="a saved safety filter; default: the shipped one, if it fits the model",
    )
    parser.add_argument("--port", type=int, default=PORT, help="default: %(default)s; 0 for any free one")
    parser.add_argument(
        "--host", default=LOOPBACK[0], help="an address of this machine alone; default: %(default)s"
    )


def serve(options: argparse.Namespace) -> None:
    """Load what the page shows, print its address, and serve it until Ctrl-C.

    Raises:
        ValueError: an address that others can reach, a port in use, an unknown model, or files of another space.
    """
    with listener(options.host, options.port) as bound:
        import uvicorn

        # torch is loaded here, and not with the command line, which the gateway's process has too.
        from embedspace.playground.app import Playground
        from embedspace.playground.engines import EngineChoice
        from embedspace.playground.materials import Materials
        from embedspace.playground.protection import loopback_hosts

        choice = EngineChoice.of(options.engine, options.url)
        print(f"loading the rows of {options.model} ...", flush=True)
        materials = Materials.load(
            options.model, styles=options.style, softs=options.soft, guard=options.filter
        )
        host, port = bound.getsockname()[:2]
        app = Playground(materials, choice, loopback_hosts(port)).app
        print(
            f"playground at http://{f'[{host}]' if ':' in host else host}:{port}/ (stop with Ctrl-C)",
            flush=True,
        )
        server = uvicorn.Server(settings(app))
        with contextlib.suppress(KeyboardInterrupt):
            server.run(sockets=[bound])
        # Python cannot end a thread in the model's code, and Ctrl-C does not ask to wait for it.
        sys.stdout.flush()
        os._exit(0 if server.started else 1)


def settings(app: ASGIApp) -> uvicorn.Config:
    """How uvicorn serves the page."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=_HEADER_BYTES,
        timeout_graceful_shutdown=2,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_no_end_of_requests)
    return config


def _is_no_end_of_requests(line: logging.LogRecord) -> bool:
    """False for what uvicorn says about requests that are ended with the server: Ctrl-C is no error."""
    kind = line.exc_info[0] if line.exc_info else None
    cancelled = kind is not None and issubclass(kind, asyncio.CancelledError)
    return not cancelled and "graceful shutdown exceeded" not in line.getMessage()


def listener(host: str, port: int) -> socket.socket:
    """A socket at an address of this machine alone.

    Raises:
        ValueError: another address, a port that is no port, or one that is in use.
    """
    if host not in LOOPBACK:
        raise ValueError(
            f"--host {host}: the playground listens at {', '.join(LOOPBACK)} only, since whoever reaches it can use "
            "the model. From another machine, open a tunnel: ssh -L 8765:127.0.0.1:8765 THIS_MACHINE"
        )
    if not 0 <= port < 65536:
        raise ValueError(f"--port is {port}; it must be in [0, 65535]")
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((host, port))
        bound.listen()  # a browser that comes before the server is up waits for it
    except OSError as error:
        bound.close()
        raise ValueError(
            f"port {port} of {host} cannot be used ({error.strerror}); choose another one with --port, or 0 for any "
            "free one"
        ) from None
    return bound
