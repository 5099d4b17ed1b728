"""Commands that serve until they are stopped: ``serve``, ``gateway``, ``playground``."""

from __future__ import annotations

import argparse
import signal
import sys

from embedspace._util.extras import pip_install
from embedspace.gateway.process import add_arguments as add_gateway_arguments
from embedspace.playground.server import add_arguments as add_playground_arguments


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add them to the command line."""
    serve = commands.add_parser("serve", help="serve a model with vLLM, ready for prompt embeddings")
    serve.set_defaults(run=_serve)
    serve.add_argument("model", help="packaged name, local folder or hub id")
    serve.add_argument("--port", type=int, default=None, help="default: a free one")
    serve.add_argument(
        "--dtype", help="default: bfloat16, or float32 on a processor that is slow in bfloat16"
    )
    serve.add_argument("--max-model-len", type=int, default=2048)

    gateway = commands.add_parser(
        "gateway", help="put a filter before a vLLM server that takes prompt embeddings"
    )
    gateway.set_defaults(run=_gateway)
    add_gateway_arguments(gateway)
    playground = commands.add_parser(
        "playground", help="a local web page that moves a prompt and shows the answers"
    )
    playground.set_defaults(run=_playground)
    add_playground_arguments(playground)


def _serve(options: argparse.Namespace) -> int:
    from embedspace.engines import VLLMServer

    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    with VLLMServer(
        options.model, dtype=options.dtype, max_model_len=options.max_model_len, port=options.port
    ) as server:
        print(
            f"serving {server.model} at {server.url} (log: {server.log_path}); stop with Ctrl-C", flush=True
        )
        return server.wait()


def _gateway(options: argparse.Namespace) -> int:
    from embedspace.gateway.process import read_settings

    try:
        from embedspace.gateway.server import serve
    except ModuleNotFoundError as error:
        raise ValueError(f"{error}; the gateway needs more packages: {pip_install('gateway')}") from None
    serve(read_settings(options))
    return 0


def _playground(options: argparse.Namespace) -> int:
    from embedspace.playground.server import serve

    try:
        serve(options)
    except ModuleNotFoundError as error:
        raise ValueError(
            f"{error}; the playground needs more packages: {pip_install('playground')}"
        ) from None
    return 0
