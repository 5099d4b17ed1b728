"""``embedspace gateway``: its command-line arguments, and a context manager that runs it as a process."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
import typing
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from embedspace.errors import ServerStartError
from embedspace.gateway.api_keys import KEYS_VARIABLE, read_keys
from embedspace.gateway.settings import Limits, Settings

_READY = re.compile(r"gateway at (\S+) \(process (\d+)\)")


class Gateway:
    """``embedspace gateway`` as a process, by default on a free port of this machine.

    ``with Gateway(server.url, "smollm2-injection") as gateway: VLLMClient(gateway.url)`` starts it, waits until it
    accepts requests, and stops it. It stops with this program, even if the program is killed.

    >>> gateway = Gateway("http://127.0.0.1:8000", "smollm2-injection", arguments=["--screen-text"])
    >>> gateway.url, gateway.pid  # known after start()
    ('', 0)

    Args:
        upstream: address of the vLLM server.
        filter: saved filter, or the name of a shipped one.
        arguments: further arguments of the command, e.g. ``["--screen-text"]``.
        keys: API keys of callers.
        limits: sizes, counts and times beyond which requests are refused.
        log_path: file for its output; by default a new temporary one, which is kept.
    """

    def __init__(
        self,
        upstream: str,
        filter: str | Path,
        *,
        arguments: Sequence[str] = (),
        keys: Sequence[str] = (),
        limits: Limits | None = None,
        log_path: str | Path | None = None,
    ) -> None:
        self._command = ["--upstream", upstream, "--filter", str(filter), *arguments]
        defaults, limits = Limits(), limits or Limits()
        for each in fields(Limits):
            if (value := getattr(limits, each.name)) != getattr(defaults, each.name):
                self._command += ["--limit", f"{each.name}={value}"]
        self._keys = keys
        self._given_log_path = log_path
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        """Address of the gateway, without the ``/v1``."""
        self.pid = 0
        """Id of its process, the parent of the screening processes."""

    @cached_property
    def log_path(self) -> Path:
        """File with its output."""
        if self._given_log_path is not None:
            return Path(self._given_log_path)
        handle, name = tempfile.mkstemp(prefix="embedspace-gateway-", suffix=".log")
        os.close(handle)
        return Path(name)

    def start(self) -> Self:
        """Start the process and return when it accepts requests.

        Raises:
            ServerStartError: it ended instead; the message is its output.
        """
        from embedspace.engines.vllm import supervisor

        if self._process is not None:
            return self
        environment = {name: value for name, value in os.environ.items() if name != KEYS_VARIABLE}
        if self._keys:
            environment[KEYS_VARIABLE] = " ".join(self._keys)
        python = [sys.executable, "-P"]
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [
                    *python,
                    str(supervisor.__file__),
                    *python,
                    "-m",
                    "embedspace",
                    "gateway",
                    *self._command,
                ],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                env=environment,
                start_new_session=True,
            )
        assert self._process.stdout is not None
        ready = _READY.match(self._process.stdout.readline())
        if ready is None:
            self.stop()
            raise ServerStartError(
                f"the gateway did not start: {self.log_path.read_text(errors='replace').strip()}"
            )
        self.url, self.pid = ready[1], int(ready[2])
        return self

    def stop(self) -> None:
        """Stop the process and wait for its end; does nothing if it is not running."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()  # end of input tells the supervisor to stop the gateway

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments. API keys are not among them, since command lines are visible to everybody."""
    parser.add_argument(
        "--upstream", metavar="URL", required=True, help="the vLLM server; its key: $VLLM_API_KEY"
    )
    parser.add_argument(
        "--filter", metavar="PATH", required=True, help="saved filter, or the name of a shipped one"
    )
    parser.add_argument("--model", help="model of the filter's space; default: the served one")
    parser.add_argument(
        "--host", default=Settings.host, help="address of this machine to listen at; default: %(default)s"
    )
    parser.add_argument("--port", type=int, default=Settings.port, help="default: a free one")
    parser.add_argument(
        "--workers", type=int, default=Settings.workers, help="processes that screen; default: %(default)s"
    )
    parser.add_argument("--screen-text", action="store_true", help="screen text and token ids as well")
    parser.add_argument(
        "--keys", metavar="FILE", type=Path, help=f"callers' API keys, one a line; default: ${KEYS_VARIABLE}"
    )
    parser.add_argument("--audit", metavar="FILE", type=Path, help="JSON Lines of decisions, without content")
    parser.add_argument(
        "--allow", metavar="PATH", action="append", default=[], help="forward this address too, for GET"
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=float,
        default=Settings.wait,
        help="how long to wait for the server to start",
    )
    parser.add_argument(
        "--limit",
        metavar="NAME=VALUE",
        type=_limit,
        action="append",
        default=[],
        help="one of "
        + ", ".join(f"{each.name}={_written(getattr(Limits, each.name))}" for each in fields(Limits)),
    )


def read_settings(options: argparse.Namespace) -> Settings:
    """The settings of parsed arguments and the environment.

    Raises:
        ValueError, OSError: as :class:`Settings` and :func:`read_keys`.
    """
    return Settings(
        upstream=options.upstream,
        filter=options.filter,
        model=options.model,
        host=options.host,
        port=options.port,
        workers=options.workers,
        screen_text=options.screen_text,
        keys=read_keys(options.keys, os.environ),
        upstream_key=os.environ.get("VLLM_API_KEY") or None,
        audit=options.audit,
        allow=tuple(options.allow),
        wait=options.wait,
        limits=Limits(**dict(options.limit)),
    )


def _written(value: float) -> str:
    """A limit as it is written on the command line."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def _limit(text: str) -> tuple[str, float]:
    """``rows=4096`` as a pair."""
    kinds = typing.get_type_hints(Limits)
    name, _, value = text.partition("=")
    if name not in kinds:
        raise argparse.ArgumentTypeError(f"{text!r} is not a limit; allowed are {', '.join(kinds)}")
    try:
        return name, kinds[name](value)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r}: {value!r} is not of type {kinds[name].__name__}"
        ) from None
