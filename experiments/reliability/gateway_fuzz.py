"""Payloads, bodies and headers that are damaged at random: does anything but what it should get through the gateway?"""

from __future__ import annotations

import contextlib
import io
import json
import socket
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from experiments.reliability.rows import Row, listed
from experiments.reliability.small_server import SmallServer

if TYPE_CHECKING:
    import torch
    from hypothesis.strategies import DataObject

    from embedspace.gateway import Gateway

FILTER = "smollm2-injection"
_HOST = b"127.0.0.1"
_MARKS = [
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b" ",
    b"\t",
    b":",
    b",",
    b"%0a",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"chunked",
    b"0",
]
_LINES = [
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: identity",
    b"Content-Length: 5",
    b"Content-Length: 0",
    b"Content-Length: 99999999999999999999",
    b"Connection: close",
    b"Connection: upgrade",
    b"Upgrade: h2c",
    b"Expect: 100-continue",
    b"Host: other",
    b" folded: line",
    b"Content-Encoding: gzip",
]


def gateway_rows(model: str, examples: int) -> Iterator[Row]:
    """Each kind of damage, as often as asked.

    Args:
        model: of the gateway.
        examples: payloads and bodies; a tenth as many requests over sockets.
    """
    yield payload_row(examples)
    yield body_row(examples)
    yield request_row(model, max(10, examples // 10))


def payload_row(examples: int) -> Row:
    """Saved tensors with bytes changed, cut, doubled or moved, and with consistent archives around damaged pickles."""
    import torch
    from hypothesis import given
    from hypothesis import strategies as st

    from embedspace.prompt.saved_tensor import read_saved_tensor

    good = saved(torch.arange(12.0).view(3, 4))
    counts: Counter[str] = Counter()

    @_bounded(examples)
    @given(st.data())
    def run(data: DataObject) -> None:
        content = bytearray(pickle_of(good) if (inside := data.draw(st.booleans())) else good)
        for _ in range(data.draw(st.integers(1, 4))):
            start = data.draw(st.integers(0, len(content) - 1))
            stop = start + data.draw(st.integers(0, 40))
            match data.draw(st.sampled_from(["change", "cut", "insert", "double"])):
                case "change":
                    content[start] = data.draw(st.integers(0, 255))
                case "cut":
                    del content[start:stop]
                case "insert":
                    content[start:start] = data.draw(st.binary(max_size=40))
                case "double":
                    content[start:start] = content[start:stop]
            if not content:
                break
        made = archived(bytes(content), b"".join(_storage(good))) if inside else bytes(content)
        try:
            read = read_saved_tensor(made)
        except ValueError:
            counts["refused"] += 1
            return
        counts["read as torch reads it" if _same_for_torch(made, read) else "read differently"] += 1

    run()
    wrong = counts["read differently"]
    return Row(
        f"{counts.total():,} damaged payloads",
        f"{counts['refused']:,} refused, {wrong} read in another way than torch reads them",
        listed(counts),
        not wrong,
        "refused, or read as torch reads it",
    )


def body_row(examples: int) -> Row:
    """JSON of every shape, with the names of real fields, through the parser and the list of prompts."""
    from hypothesis import given
    from hypothesis import strategies as st

    from embedspace.gateway import Limits
    from embedspace.gateway.refusal import RefusedError
    from embedspace.gateway.request import CHAT, COMPLETIONS, FIELDS, parse, pieces

    names = sorted(FIELDS[CHAT] | FIELDS[COMPLETIONS] | {"role", "content", "type", "text", "data", "name"})
    leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(names)
    values = st.recursive(
        leaves,
        lambda inner: (
            st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(names), inner, max_size=4)
        ),
    )
    fields = st.dictionaries(st.sampled_from(names), values, max_size=5)
    prompts = st.fixed_dictionaries({"prompt": st.text() | st.lists(st.text(), min_size=1)})
    message = st.fixed_dictionaries({"role": st.sampled_from(["user", "tool"]), "content": st.text()})
    more = st.dictionaries(
        st.sampled_from(["name", "tool_calls", "tool_call_id", "reasoning"]), values, max_size=2
    )
    whole = st.tuples(more, message).map(lambda pair: pair[0] | pair[1])
    conversations = st.fixed_dictionaries({"messages": st.lists(whole, min_size=1, max_size=3)})
    extra = st.dictionaries(
        st.sampled_from(["user", "stop", "metadata", "tools", "documents", "response_format", "logit_bias"]),
        values,
        max_size=3,
    )
    sound = st.tuples(extra, prompts | conversations).map(lambda pair: pair[0] | pair[1])
    counts: Counter[str] = Counter()

    @_bounded(examples)
    @given(fields | sound)
    def run(body: dict[str, Any]) -> None:
        path = CHAT if "messages" in body else COMPLETIONS
        try:
            parsed = parse(json.dumps(body).encode(), Limits())
            found = pieces(path, parsed, Limits())
        except RefusedError:
            counts["refused"] += 1
            return
        except UnicodeEncodeError:
            return
        known = "\n".join(str(piece.value) for piece in found)
        unseen = [text for text in _texts(parsed) if text not in known and text not in _SKIPPED]
        counts["a text that is not screened" if unseen else "taken apart"] += 1

    run()
    missed = counts["a text that is not screened"]
    return Row(
        f"{counts.total():,} bodies of random JSON",
        f"{counts['taken apart']:,} taken apart, {counts['refused']:,} refused, {missed} with an unscreened text",
        listed(counts),
        not missed,
        "refused, or every text screened",
    )


def request_row(model: str, examples: int) -> Row:
    """Requests over sockets whose headers are damaged, to a gateway that must serve the next good one."""
    from hypothesis import given
    from hypothesis import strategies as st

    from embedspace.gateway import Gateway, Limits

    body = b'{"prompt": ["Hi"], "n": 1}'
    lines = [b"POST /v1/completions HTTP/1.1", b"Host: " + _HOST, b"Content-Type: application/json"]
    good = b"\r\n".join([*lines, b"Content-Length: %d" % len(body), b"", b""]) + body
    counts: Counter[str] = Counter()
    limits = Limits(header_seconds=1.0, body_seconds=1.0)
    with (
        SmallServer(model=model, text="fine") as server,
        Gateway(server.url, FILTER, limits=limits) as gateway,
    ):

        @_bounded(examples)
        @given(st.data())
        def run(data: DataObject) -> None:
            sent = bytearray(good)
            for _ in range(data.draw(st.integers(1, 3))):
                place = data.draw(st.integers(0, len(good) - len(body)))
                if data.draw(st.booleans()):
                    extra = data.draw(st.sampled_from(_LINES)) + b"\r\n"
                    place = sent.index(b"\r\n") + 2
                else:
                    extra = data.draw(st.sampled_from(_MARKS))
                sent[place:place] = extra
            status = _status(gateway, bytes(sent))
            counts["closed" if status == 0 else f"{status // 100}xx"] += 1

        run()
        served = _status(gateway, good)
    failures = counts["5xx"]
    return Row(
        f"{counts.total():,} requests with damaged headers",
        f"{failures} failures, and a good request afterwards was answered with {served}",
        listed(counts),
        not failures and served == 200,
        "answered with an error, and the next request served",
    )


# The protocol's words and the names of top-level fields are not screened.
_SKIPPED = frozenset({""})


def _texts(value: Any, top: bool = True) -> Iterator[str]:
    """All texts of a parsed request that a model may get to see."""
    from embedspace.gateway.request import _PROTOCOL_WORDS

    if isinstance(value, str):
        if value not in _PROTOCOL_WORDS:
            yield value
    elif isinstance(value, list):
        for each in value:
            yield from _texts(each, False)
    elif isinstance(value, dict):
        for name, each in value.items():
            if top and name in ("model", "prompt_embeds"):
                continue
            if not top and name in ("role", "type"):
                continue
            yield from _texts(each, False)


def _bounded(examples: int) -> Any:
    from hypothesis import HealthCheck, settings

    return settings(
        max_examples=examples, deadline=None, database=None, suppress_health_check=list(HealthCheck)
    )


def saved(tensor: torch.Tensor) -> bytes:
    """As ``torch.save`` writes it."""
    import torch

    torch.save(tensor, buffer := io.BytesIO())
    return buffer.getvalue()


def archived(pickled: bytes, storage: bytes, **more: bytes) -> bytes:
    """A consistent archive around a pickle of one's own, by torch's own writer, with more entries if there are any."""
    import torch

    writer = torch._C.PyTorchFileWriter(buffer := io.BytesIO())
    for name, data in {"data.pkl": pickled, "byteorder": b"little", "data/0": storage, **more}.items():
        writer.write_record(name, data, len(data))
    writer.write_end_of_file()
    return buffer.getvalue()


def pickle_of(data: bytes) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.read("archive/data.pkl")


def _storage(data: bytes) -> Iterator[bytes]:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        yield archive.read("archive/data/0")


def _same_for_torch(data: bytes, read: torch.Tensor) -> bool:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        loaded = torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    return torch.equal(loaded.detach(), read) and loaded.dtype == read.dtype


def _status(gateway: Gateway, sent: bytes) -> int:
    """Of the answer; 0 where the connection was closed without one."""
    parts = urlsplit(gateway.url)
    connection = socket.create_connection((parts.hostname, parts.port), timeout=30)
    with connection, contextlib.suppress(OSError):
        connection.sendall(sent)
        line = connection.recv(1 << 16)
        return int(line.split(b" ")[1]) if line.startswith(b"HTTP/1.1 ") else 0
    return 0
