"""The process that loads the filter, and the connections to its forks, the workers."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from embedspace.errors import EngineError
from embedspace.gateway.frames import Frame
from embedspace.gateway.settings import Settings

MAX_OTHER_BYTES = 64 * 2**20
"""Largest message of a worker beside a request's body."""

_SECRETS = ("KEY", "TOKEN", "SECRET", "PASS", "CREDENTIAL", "AUTH")
_LOAD_SECONDS = 600.0
_FORK_SECONDS = 30.0


class FilterError(EngineError):
    """The filter could not be loaded: its file, its space, or too little memory."""


class FilterProcess:
    """``python -m embedspace.gateway.worker``, which has the filter loaded and is started again where it ended."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._process: asyncio.subprocess.Process | None = None
        self._control: socket.socket | None = None
        self.filter_info: Mapping[str, Any] = {}
        """Of the loaded filter: model, fingerprint, hidden size, and probes for the server."""

    async def fork(self) -> tuple[int, asyncio.StreamReader, asyncio.StreamWriter]:
        """A new worker: its process id, and the connection to it.

        Raises:
            FilterError: the process had ended, and the filter cannot be loaded again.
            OSError, EOFError, TimeoutError: the worker did not start.
        """
        if self._process is None or self._control is None or self._process.returncode is not None:
            await self.load()
        assert self._control is not None
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"f"], [theirs.fileno()])
        reader, writer = await asyncio.open_connection(sock=ours)
        try:
            async with asyncio.timeout(_FORK_SECONDS):
                started = await Frame.read(reader, MAX_OTHER_BYTES)
        except BaseException:
            writer.close()
            raise
        return started.fields["pid"], reader, writer

    async def load(self) -> None:
        """Start the process, replacing an earlier one, and wait until it has the filter loaded.

        Raises:
            FilterError: it cannot be loaded.
        """
        await self.end()
        settings = self._settings
        ours, theirs = socket.socketpair()
        # Processes that decode untrusted input must not have secrets.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not any(each in name.upper() for each in _SECRETS)
        } | {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
        with theirs:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-P",
                "-m",
                "embedspace.gateway.worker",
                str(theirs.fileno()),
                stdin=asyncio.subprocess.PIPE,
                env=environment,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        request = {
            "model": settings.model,
            "filter": settings.filter,
            "screen_text": settings.screen_text,
            "limits": asdict(settings.limits),
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode())
        self._process.stdin.close()
        self._control = ours
        reader, writer = await asyncio.open_connection(sock=ours.dup())
        try:
            async with asyncio.timeout(_LOAD_SECONDS):
                filter_info = (await Frame.read(reader, MAX_OTHER_BYTES)).fields
        except (OSError, EOFError, TimeoutError, ValueError):
            filter_info = {"error": "its process ended; its output is above"}
        finally:
            writer.close()
        if "error" in filter_info:
            await self.end()
            raise FilterError(f"the filter {settings.filter!r} cannot be loaded: {filter_info['error']}")
        self.filter_info = filter_info

    async def end(self) -> None:
        """End the process, and with it its forks."""
        if self._control is not None:
            self._control.close()
        loader, self._process, self._control = self._process, None, None
        if loader is not None:
            with contextlib.suppress(ProcessLookupError):
                loader.kill()
            await loader.wait()
