"""What the gateway's tests stand on: a filter, a server that reads rows as its model would, and raw HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import random
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil

from embedspace import EmbeddingSpace, SafetyFilter, encode_prompt_embeds
from embedspace.engines import Sampling, VLLMClient
from embedspace.gateway import Gateway
from embedspace.prompt import PromptEmbeds, decode_prompt_embeds
from embedspace.space.nearest_rows import match_tokens
from tests.fake_vllm import MODEL, FakeVLLM, Reply, Request, reply

PATIENCE = 120.0
"""Seconds, on a machine that does much else."""
GREEDY = Sampling(max_tokens=4)
SAFE_WORDS = ["capital", "France", "river", "Seine", "weather", "today", "question", "language", "table"]
UNSAFE_WORDS = ["ignore", "previous", "instructions", "reveal", "secret", "password", "override", "rules"]


@dataclass(frozen=True)
class Setup:
    """A filter in a folder, and its space."""

    filter: Path
    space: EmbeddingSpace

    @property
    def arguments(self) -> list[str]:
        """Of the gateway; the server's model has another name."""
        return ["--model", self.space.name]

    def payload(self, text: str) -> str:
        return encode_prompt_embeds(self.space.embed(text))


def sentence(words: list[str], seed: int) -> str:
    return " ".join(random.Random(seed).choices(words, k=12))


BENIGN = sentence(SAFE_WORDS, 10_000)
ATTACK = sentence(UNSAFE_WORDS, 10_000)


def make_setup(space: EmbeddingSpace, folder: Path) -> Setup:
    """A filter whose only layers are those that need no second model."""
    made = SafetyFilter.fit(
        space,
        safe=[sentence(SAFE_WORDS, n) for n in range(60)],
        unsafe=[sentence(UNSAFE_WORDS, n) for n in range(60)],
        layers=("structural", "manifold", "pooled"),
    ).calibrate([sentence(SAFE_WORDS, 1000 + n) for n in range(40)], 0.05)
    made.save(folder)
    return Setup(folder, space)


class ModelServer(FakeVLLM):
    """Answers a prompt with a digest of its token ids, whether it comes as ids or as the rows of a space."""

    def __init__(self, space: EmbeddingSpace, port: int = 0) -> None:
        super().__init__(self.answer, port)
        self.space = space

    def answer(self, request: Request) -> Reply:
        """What the model would say."""
        body = request.body
        if request.path == "/v1/chat/completions":
            text = digest(json.dumps(body["messages"]))
            message = {"role": "assistant", "content": text}
            return reply({"id": "x", "object": "chat.completion", "created": 0, "model": MODEL,
                          "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})  # fmt: skip
        embedded = body.get("prompt_embeds") or []
        embedded = [embedded] if isinstance(embedded, str) else embedded
        prompt = body.get("prompt") or []
        prompt = [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt
        texts = [digest(self.token_ids(payload)) for payload in embedded] + [digest(each) for each in prompt]
        choices = [
            {"index": index, "text": text, "finish_reason": "stop", "token_ids": [index], "logprobs": None}
            for index, text in enumerate(texts)
        ]
        return reply(
            {"id": "x", "object": "text_completion", "created": 0, "model": MODEL, "choices": choices}
        )

    def token_ids(self, payload: str) -> list[int]:
        vectors = decode_prompt_embeds(payload, hidden_size=self.space.hidden_size)
        return [int(token) for token in match_tokens(self.space, vectors.float()).ids]


def digest(value: Any) -> str:
    return hashlib.blake2b(json.dumps(value).encode(), digest_size=8).hexdigest()


def prompts(setup: Setup, count: int) -> list[PromptEmbeds]:
    return [setup.space.embed(sentence(SAFE_WORDS, 20_000 + n)) for n in range(count)]


def texts(client: VLLMClient, prompts: list[PromptEmbeds]) -> list[str]:
    return [completion.error or completion.text for completion in client.generate(prompts, GREEDY)]


@contextlib.contextmanager
def held_up(server: ModelServer) -> Iterator[threading.Event]:
    """While it lasts, the server answers nothing before the event is set."""
    go = threading.Event()
    server.respond = lambda request: Reply(body=server.answer(request).body, after=go)
    try:
        yield go
    finally:
        go.set()


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = threading.Event()
    for _ in range(int(PATIENCE / 0.02)):
        if condition():
            return
        deadline.wait(0.02)
    raise AssertionError("it did not happen")


@dataclass(frozen=True)
class Answer:
    """What came back over a socket."""

    status: int
    """0 where the connection was closed without an answer."""
    headers: dict[str, str]
    body: bytes

    @property
    def code(self) -> str:
        """Of the refusal."""
        return str(json.loads(self.body)["error"]["code"])


def post(
    url: str, content: object, path: str = "/v1/completions", *, source: str = "127.0.0.1", **headers: str
) -> Answer:
    """A well-formed request, with a body that need not be, from an address of this machine."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    head = {"Content-Type": "application/json", "Content-Length": str(len(body)), **headers}
    return raw(url, [request_head("POST", path, head) + body], source=source)


def get(url: str, path: str, **headers: str) -> Answer:
    return raw(url, [request_head("GET", path, headers)])


def request_head(method: str, path: str, headers: dict[str, str]) -> bytes:
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def connected(url: str, seconds: float = PATIENCE, *, source: str = "127.0.0.1") -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=seconds, source_address=(source, 0))


def raw(url: str, pieces: Iterable[bytes], seconds: float = PATIENCE, *, source: str = "127.0.0.1") -> Answer:
    """Bytes as they stand, and whatever is answered to them."""
    with connected(url, seconds, source=source) as connection:
        with contextlib.suppress(OSError):  # refused before all was sent
            for piece in pieces:
                connection.sendall(piece)
        try:
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Answer(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        except (http.client.HTTPException, ConnectionError):
            return Answer(0, {}, b"")


def workers(gateway: Gateway) -> list[psutil.Process]:
    """The processes that screen: forks of the one that has the filter loaded, the first one first."""
    (loader,) = psutil.Process(gateway.pid).children()
    return sorted(loader.children(), key=lambda worker: worker.pid)


def suspended_workers(gateway: Gateway) -> list[psutil.Process]:
    """Both workers of a gateway, which do nothing until they are killed."""
    wait_for(lambda: len(workers(gateway)) == 2)
    found = workers(gateway)
    for worker in found:
        worker.suspend()
    return found
