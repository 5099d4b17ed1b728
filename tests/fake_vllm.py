"""A loopback HTTP server with vLLM's addresses, for the answers that a real server cannot be asked to give."""

from __future__ import annotations

import contextlib
import json
import select
import socket
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from embedspace.prompt import decode_prompt_embeds

MODEL = "fake-model"
MAX_MODEL_LEN = 32
HIDDEN_SIZE = 4
MAX_WAIT = 120.0
"""Seconds; an upper bound of every wait, long enough for a busy machine."""


@dataclass(frozen=True)
class Reply:
    """What goes back over the socket."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    missing: int = 0
    """Bytes that are promised in the header and never sent."""
    after: threading.Event | None = None
    """Answer when this is set."""
    rest: bytes = b""
    """Sent after the body, when ``then`` is set."""
    then: threading.Event | None = None


@dataclass(frozen=True)
class Request:
    """What came in."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


def reply(content: object, status: int = 200) -> Reply:
    return Reply(status, json.dumps(content).encode())


def refusal(status: int, message: str, **headers: str) -> Reply:
    return Reply(status, json.dumps({"error": {"message": message, "code": status}}).encode(), headers)


def events(*contents: object, done: bool = True, missing: int = 0) -> Reply:
    lines = [f"data: {json.dumps(content)}\n\n" for content in contents] + ["data: [DONE]\n\n"] * done
    return Reply(body="".join(lines).encode(), headers={"content-type": "text/event-stream"}, missing=missing)


def marks(request: Request) -> list[int]:
    """What tells the prompts of a request apart: first number of the first row, or first token id."""
    if "prompt_embeds" in request.body:
        rows = [decode_prompt_embeds(text, hidden_size=HIDDEN_SIZE) for text in request.body["prompt_embeds"]]
        return [int(vectors[0, 0]) for vectors in rows]
    return [ids[0] for ids in request.body["prompt"]]


def choices(request: Request) -> list[dict[str, Any]]:
    """Well-formed choices whose texts name prompt and completion, such as ``"7.0"``."""
    count = request.body["n"]
    return [
        {
            "index": position * count + index,
            "text": f"{mark}.{index}",
            "finish_reason": "stop",
            "token_ids": [mark],
        }
        for position, mark in enumerate(marks(request))
        for index in range(count)
    ]


class FakeVLLM:
    """Serves on a free port of 127.0.0.1 inside its ``with`` block."""

    def __init__(
        self,
        respond: Callable[[Request], Reply] = lambda request: reply({"choices": choices(request)}),
        port: int = 0,
    ):
        self.respond = respond
        """Makes the reply to a completions or chat request."""
        self.scripted: deque[Reply] = deque()
        """Replies that come before those of ``respond``."""
        self.models: list[str] = [MODEL]
        self.requests: list[Request] = []
        """Completions and chat requests, in the order of arrival."""
        self.most_at_once = 0
        self.disconnected = threading.Event()
        """Set when a client hung up before its answer was there."""
        self._at_once = 0
        self._lock = threading.Lock()
        self._connections: set[socket.socket] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> FakeVLLM:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def hang_up(self) -> None:
        """End all connections, as a server does that is started again."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _answer(self, request: Request) -> Reply:
        with self._lock:
            self.requests.append(request)
            self._at_once += 1
            self.most_at_once = max(self.most_at_once, self._at_once)
            scripted = self.scripted.popleft() if self.scripted else None
        return scripted or self.respond(request)

    def _handler(fake) -> type[BaseHTTPRequestHandler]:  # noqa: N805
        class Handler(BaseHTTPRequestHandler):
            def setup(self) -> None:
                super().setup()
                fake._connections.add(self.connection)

            def finish(self) -> None:
                fake._connections.discard(self.connection)
                super().finish()

            def do_GET(self) -> None:
                served = [{"id": name, "max_model_len": MAX_MODEL_LEN} for name in fake.models]
                known = {"/v1/models": {"data": served}, "/version": {"version": "0.0-fake"}}
                self._send(reply(known[self.path]) if self.path in known else refusal(404, "Not Found"))

            def do_POST(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                answer = fake._answer(Request(self.path, headers, body))
                try:
                    if answer.after is None or self._wait(answer.after):
                        self._send(answer)
                finally:
                    with fake._lock:
                        fake._at_once -= 1

            def _wait(self, event: threading.Event) -> bool:
                """Whether the event came, rather than the end of the connection."""
                for _ in range(int(MAX_WAIT / 0.02)):
                    if event.wait(0.02):
                        return True
                    if select.select([self.connection], [], [], 0)[0]:
                        fake.disconnected.set()
                        return False
                return False

            def _send(self, answer: Reply) -> None:
                self.send_response(answer.status)
                for name, value in {"content-type": "application/json", **answer.headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.send_header("content-length", str(len(answer.body + answer.rest) + answer.missing))
                self.end_headers()
                self.wfile.write(answer.body)
                if answer.then is not None and answer.then.wait(MAX_WAIT):
                    self.wfile.write(answer.rest)

            def log_message(self, format: str, *args: object) -> None:
                pass

        return Handler
