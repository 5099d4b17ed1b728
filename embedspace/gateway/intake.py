"""What comes in: a request's header and its body, each with an end to its size and its time."""

from __future__ import annotations

import asyncio
import contextlib

from starlette.requests import Request

from embedspace.gateway.capacity import Held
from embedspace.gateway.keys import Keys
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

HEADER_BYTES = 16 * 1024
"""Most of a request before its body."""

_DRAIN_SECONDS = 1.0


def admit(request: Request, keys: Keys) -> int | None:
    """Look at the header: well-formed, and from somebody who may come in.

    Returns:
        the number of the caller's key, where keys are asked for.

    Raises:
        RefusedError: too large, two headers of one that must be alone, or no key.
    """
    headers = request.headers
    if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
        raise RefusedError(431, "header_too_large", f"a header can have at most {HEADER_BYTES} bytes")
    if "transfer-encoding" in headers and "content-length" in headers:
        raise RefusedError(400, "ambiguous_length", "a request must have one length, and this one has two")
    if len(headers.getlist("host")) != 1 or len(headers.getlist("content-type")) > 1:
        raise RefusedError(
            400, "ambiguous_header", "a header that must be there once is there twice or not at all"
        )
    if not keys:
        return None
    number = keys.number(headers.getlist("authorization"))
    if number is None:
        raise RefusedError(401, "invalid_api_key", "this gateway needs one of its API keys")
    return number


async def read_body(request: Request, limits: Limits, held: Held) -> bytes:
    """The body of a request, as it came.

    Raises:
        RefusedError: another type, compressed, too large, too slow, or too much with all others.
        ClientDisconnect: the caller hung up.
    """
    headers = request.headers
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise RefusedError(415, "compressed_body", "a compressed body is not read; send it as it is")
    if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise RefusedError(415, "not_json", "the content-type must be application/json")
    too_large = RefusedError(413, "body_too_large", f"a body can have at most {limits.body_bytes} bytes")
    if int(headers.get("content-length", "0")) > limits.body_bytes:
        raise too_large
    chunks: list[bytes] = []
    size = 0
    try:
        async with asyncio.timeout(limits.body_seconds):
            async for chunk in request.stream():
                size += len(chunk)
                if size > limits.body_bytes:
                    raise too_large
                held.add(len(chunk))
                chunks.append(chunk)
    except TimeoutError:
        raise RefusedError(
            408, "body_too_slow", f"the body did not come within {limits.body_seconds:g} s"
        ) from None
    return b"".join(chunks)


async def drained(request: Request) -> bool:
    """Take what is still coming for a moment, and throw it away; whether that was all.

    A connection that is closed while its caller still sends is reset, and the answer may be lost with it.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return True
    return False
