"""A gateway as a context manager, in a process of its own."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from embedspace.engines.vllm import supervisor
from embedspace.errors import ServerStartError
from embedspace.gateway.keys import KEYS_VARIABLE
from embedspace.gateway.settings import Limits

_READY = re.compile(r"gateway at (\S+) \(process (\d+)\)")


class Gateway:
    """``embedspace gateway`` as a process, on a free port of this machine unless told otherwise.

    ``with Gateway(server.url, "smollm2-injection") as gateway: VLLMClient(gateway.url)`` starts it, waits until it
    takes requests, and ends it. It ends with this program even where the program is killed.

    Args:
        upstream: address of the vLLM server.
        filter: saved filter, or the name of a shipped one.
        arguments: more of the command's own arguments, e.g. ``["--screen-text"]``.
        keys: API keys of callers.
        limits: how much is taken on.
        log_path: file for what it prints; by default a new temporary one, which stays.
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
        usual, limits = Limits(), limits or Limits()
        for each in fields(Limits):
            if (value := getattr(limits, each.name)) != getattr(usual, each.name):
                self._command += ["--limit", f"{each.name}={value}"]
        self._keys = keys
        self._wanted_log = log_path
        self._process: subprocess.Popen[str] | None = None
        self.url = ""
        """Address of the gateway, without the ``/v1``."""
        self.pid = 0
        """Id of its process, below which are those that screen."""

    @cached_property
    def log_path(self) -> Path:
        """File with what it prints."""
        if self._wanted_log is not None:
            return Path(self._wanted_log)
        handle, name = tempfile.mkstemp(prefix="embedspace-gateway-", suffix=".log")
        os.close(handle)
        return Path(name)

    def start(self) -> Self:
        """Start the process and return when it takes requests.

        Raises:
            ServerStartError: it ended instead; the message is what it said.
        """
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
                    "embedspace.cli",
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
        """End the process and wait for it; harmless where it does not run."""
        process, self._process = self._process, None
        if process is not None:
            process.communicate()  # the end of its input tells the supervisor to stop it

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
