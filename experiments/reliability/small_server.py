"""A small HTTP server with vLLM's addresses, in a process of its own that can be killed.

It answers with a digest of the prompt: every prompt has one right answer, whoever sends it and however often.
Run by path it needs the standard library alone and starts in a moment.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL = "small-model"
MAX_MODEL_LEN = 2048


class SmallServer:
    """The server's process; ends with this program even where the program is killed.

    Args:
        seconds: that each answer takes.
        max_model_len: that the server reports.
        model: name that the server reports.
        text: answer to every prompt, instead of its digest.
    """

    def __init__(
        self, seconds: float = 0.0, *, max_model_len: int = MAX_MODEL_LEN, model: str = MODEL, text: str = ""
    ) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port = int(free.getsockname()[1])
        self._seconds = seconds
        self.max_model_len = max_model_len
        self.model = model
        self._text = text
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address, the same after every start."""
        return f"http://127.0.0.1:{self._port}"

    def start(self) -> SmallServer:
        """Start the process and return when it listens.

        Raises:
            RuntimeError: it ended instead.
        """
        words = [str(self._port), str(self._seconds), str(self.max_model_len), self.model, self._text]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-P", __file__, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        if not self._process.stdout.readline():
            raise RuntimeError(f"the small server did not start on port {self._port}")
        return self

    def kill(self) -> None:
        """SIGKILL, in the middle of whatever it does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def restart(self) -> None:
        """Kill the process and start it again at the same address."""
        self.kill()
        self.start()

    def answered(self) -> int:
        """How many prompts this process answered since it was started."""
        import urllib.request

        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(f"{self.url}/answered", timeout=30) as answer:
            return int(json.load(answer))

    def __enter__(self) -> SmallServer:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.kill()


def right_answer(prompt: str | list[int]) -> str:
    """The text that a prompt gets: of its payload's characters, or of its token ids."""
    return hashlib.blake2b(json.dumps(prompt).encode(), digest_size=8).hexdigest()


def answer(body: dict[str, Any], text: str = "") -> dict[str, Any]:
    """The answer to a completions request."""
    prompts = body["prompt_embeds"] if "prompt_embeds" in body else body["prompt"]
    choices = [
        {
            "index": position * body["n"] + index,
            "text": text or f"{right_answer(prompt)}.{index}",
            "finish_reason": "stop",
            "token_ids": [position],
        }
        for position, prompt in enumerate(prompts)
        for index in range(body["n"])
    ]
    return {"choices": choices}


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    seconds = 0.0
    served: dict[str, Any]
    text = ""
    answered = 0
    counting = threading.Lock()

    def do_GET(self) -> None:
        known = {
            "/v1/models": {"data": [self.served]},
            "/version": {"version": "0.0-small"},
            "/answered": _Handler.answered,
        }
        self._send(200, known[self.path]) if self.path in known else self._send(404, {})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        time.sleep(self.seconds)
        content = answer(body, self.text)
        with self.counting:
            _Handler.answered += len(content["choices"])
        self._send(200, content)

    def _send(self, status: int, content: object) -> None:
        body = json.dumps(content).encode()
        # Headers and body in one piece: apart they would wait for each other's acknowledgement.
        head = f"HTTP/1.1 {status} -\r\ncontent-type: application/json\r\ncontent-length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)

    def log_message(self, format: str, *args: object) -> None:
        """No log."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that hang up are expected here."""


def _serve(port: int, seconds: float, max_model_len: int, model: str, text: str) -> None:
    _Handler.seconds, _Handler.text = seconds, text
    _Handler.served = {"id": model, "max_model_len": max_model_len}
    server = _Server(("127.0.0.1", port), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print("listening", flush=True)
    sys.stdin.buffer.read()  # ends with the program that started this process
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]), sys.argv[4], sys.argv[5])
