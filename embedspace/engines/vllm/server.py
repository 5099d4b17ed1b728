"""A vLLM server of this program's own, as a context manager and as an engine."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

from embedspace.engines.base import Completion, Prompt, Sampling
from embedspace.engines.vllm import supervisor
from embedspace.engines.vllm.client import VLLMClient
from embedspace.engines.vllm.installation import (
    Dtype,
    default_dtype,
    require_vllm,
    runs_on_cpu,
    with_defaults,
)
from embedspace.errors import ServerStartError

if TYPE_CHECKING:
    from rich.status import Status

HOST = "127.0.0.1"

_PORT_ATTEMPTS = 3
_POLL_SECONDS = 0.25
_SHOWN_LINES = 20


class VLLMServer:
    """vLLM's OpenAI-compatible server as a subprocess, reachable from this machine only.

    ``with VLLMServer("smollm2-135m-instruct") as server:`` starts it, waits until it answers, and stops it.
    The server ends with the program even where the program is killed; Ctrl-C in the terminal reaches the
    program alone, so answers in flight are not lost before the context manager stops the server. A forked process may
    use the address, and does not stop the server.

    Args:
        model: packaged name, local folder or hub id.
        dtype: of the weights and of the computation; by default bfloat16, or float32 on a processor that is slow
            in bfloat16.
        max_model_len: most tokens of a prompt and its completion together.
        port: by default a free one.
        arguments: more command-line arguments of vLLM, e.g. ``["--tensor-parallel-size", "2"]``.
        enable_prompt_embeds: False starts a server that refuses embeddings.
        log_path: file for the server's output; by default a new temporary one, which is kept.
        ready_timeout: seconds that loading may take.
    """

    def __init__(
        self,
        model: str | Path,
        *,
        dtype: Dtype | None = None,
        max_model_len: int = 2048,
        port: int | None = None,
        arguments: Sequence[str] = (),
        enable_prompt_embeds: bool = True,
        log_path: str | Path | None = None,
        ready_timeout: float = 600.0,
    ) -> None:
        self._source = model
        self.dtype: Dtype = default_dtype() if dtype is None else dtype
        """Of the weights and of the computation."""
        self._flags = ["--dtype", self.dtype, "--max-model-len", str(max_model_len), *arguments]
        if enable_prompt_embeds:
            self._flags.append("--enable-prompt-embeds")
        self._requested_port = port
        self._ready_timeout = ready_timeout
        self._process: subprocess.Popen[bytes] | None = None
        self._program = os.getpid()
        self._port = port
        self._requested_log_path = log_path
        self.model = Path(model).name if Path(model).is_dir() else str(model)
        """Name that requests give for the model."""

    def __repr__(self) -> str:
        state = "stopped" if self._process is None else f"process {self._process.pid} at {self.url}"
        return f"VLLMServer({self.model!r}, {state}, log {self.log_path})"

    @cached_property
    def log_path(self) -> Path:
        """File with the server's output."""
        if self._requested_log_path is not None:
            return Path(self._requested_log_path)
        handle, name = tempfile.mkstemp(prefix="embedspace-vllm-", suffix=".log")
        os.close(handle)
        return Path(name)

    @property
    def url(self) -> str:
        """Address of the server, without the ``/v1``.

        Raises:
            ServerStartError: the server was never started.
        """
        if self._port is None:
            raise ServerStartError(
                f"the vLLM server for {self.model!r} has no address yet; call start() first"
            )
        return f"http://{HOST}:{self._port}"

    def start(self) -> Self:
        """Start the server and return when it answers; if that fails, no process is left behind.

        Raises:
            ValueError: the model is unknown.
            ServerStartError: vLLM is missing, the port is taken, or the server ended or took too long; the
                message carries the last lines of its log.
        """
        if self._process is not None:
            return self
        require_vllm(ServerStartError)
        from embedspace import models

        folder = models.resolve(self._source)
        self._program = os.getpid()
        for last in [False] * (_PORT_ATTEMPTS - 1) + [True]:
            self._port = _free_port(self._requested_port)
            try:
                self._launch(folder, self._port)
                self._wait_until_ready()
                break
            except BaseException as error:
                self.stop()
                # Another program may have taken the port since it was found free.
                if last or self._requested_port is not None or "ddress already in use" not in str(error):
                    raise
        return self

    def wait(self) -> int:
        """Wait for the server to end by itself, and return its exit code (0 where it does not run)."""
        return self._process.wait() if self._process is not None else 0

    def stop(self) -> None:
        """Stop the server and wait until all its processes are gone; harmless where it does not run.

        In a forked process, nothing: the server is the parent's.
        """
        process, self._process = self._process, None
        if process is None or self._program != os.getpid():
            return
        if process.stdin is not None:
            process.stdin.close()  # the end of this pipe tells the supervisor to stop the server
        process.terminate()  # and so does this, where a forked process holds the pipe open
        process.wait()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _launch(self, folder: Path, port: int) -> None:
        command = [sys.executable, "-P", "-m", "vllm.entrypoints.openai.api_server"]
        command += ["--model", str(folder), "--served-model-name", self.model]
        command += ["--host", HOST, "--port", str(port), *self._flags]
        if runs_on_cpu():
            command.append("--enforce-eager")  # compiling takes longer than it saves
        # The folder holds all that is needed.
        environment = {**with_defaults(os.environ), "HF_HUB_OFFLINE": "1"}
        self.log_path.parent.mkdir(parents=True, exist_ok=True)
        with self.log_path.open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-P", str(supervisor.__file__), *command],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )

    def _wait_until_ready(self) -> None:
        from rich.console import Console

        console = Console(stderr=True)
        began = time.monotonic()
        if not console.is_terminal:
            console.print(
                f"starting vLLM with {self.model} in {self.dtype}, log in {self.log_path}",
                markup=False,
                soft_wrap=True,
            )
        with console.status("") as status:
            while not self._answers():
                self._require_running(time.monotonic() - began)
                self._show(status, time.monotonic() - began)
                time.sleep(_POLL_SECONDS)
        console.print(
            f"vLLM serves {self.model} at {self.url} after {time.monotonic() - began:.0f} s", markup=False
        )

    def _answers(self) -> bool:
        # No proxy: the server is on this machine.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(f"{self.url}/health", timeout=5) as answer:
                return bool(answer.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def _require_running(self, seconds: float) -> None:
        code = self._process.poll() if self._process is not None else 0
        if code is not None:
            problem = f"ended with exit code {code} after {seconds:.0f} s"
        elif seconds > self._ready_timeout:
            problem = f"did not answer within ready_timeout={self._ready_timeout:g} s"
        else:
            return
        lines = "\n".join(f"  {line}" for line in self._last_lines(_SHOWN_LINES))
        raise ServerStartError(
            f"the vLLM server for {self.model!r} {problem}; the last lines of its log {self.log_path}:\n{lines}"
        )

    def _show(self, status: Status, seconds: float) -> None:
        from rich.markup import escape

        line = (self._last_lines(1) or [""])[0][:100]
        status.update(f"starting vLLM with {escape(self.model)}: {seconds:.0f} s  [dim]{escape(line)}[/dim]")

    def _last_lines(self, count: int) -> list[str]:
        with self.log_path.open(errors="replace") as log:
            lines = deque((line for line in log if line.strip()), maxlen=count)
        return [re.sub(r"\x1b\[[0-9;]*m", "", line.rstrip()) for line in lines]


class ServedEngine:
    """A :class:`VLLMServer` and its client as one engine, started and stopped together.

    Args:
        server: is started here, and stopped by :meth:`close`.
        client: creates the client from the server's address and the model's name.

    Raises:
        ServerStartError: the server did not come up.
    """

    def __init__(self, server: VLLMServer, client: Callable[[str, str], VLLMClient] = VLLMClient) -> None:
        self._server = server.start()
        try:
            self._client = client(server.url, server.model)
        except BaseException:
            server.stop()
            raise

    def generate(self, prompts: Iterable[Prompt], sampling: Sampling) -> Iterator[Completion]:
        """Completions in prompt order, as :meth:`VLLMClient.generate <embedspace.engines.VLLMClient.generate>`."""
        return self._client.generate(prompts, sampling)

    def describe(self) -> dict[str, str]:
        """As the client, with the kind ``vllm_server`` and the dtype in which the server computes."""
        return {**self._client.describe(), "engine": "vllm_server", "server_dtype": self._server.dtype}

    @property
    def retries(self) -> Mapping[str, int]:
        """The client's."""
        return self._client.retries

    def close(self) -> None:
        """Close the connections and stop the server; harmless when repeated."""
        try:
            self._client.close()
        finally:
            self._server.stop()


def _free_port(port: int | None) -> int:
    """The port if nothing listens on it; any free one for None."""
    with socket.socket() as probe:
        try:
            probe.bind((HOST, port or 0))
        except OSError as error:
            raise ServerStartError(
                f"port {port} of {HOST} cannot be used ({error.strerror}); leave `port` out for a free one"
            ) from error
        return int(probe.getsockname()[1])
