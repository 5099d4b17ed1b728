"""The gateway as an ASGI application: who is let in, what is screened, and how the answer comes back."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Iterator
from dataclasses import dataclass
from typing import Any

import httpx2
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedspace.gateway.audit import AuditLog
from embedspace.gateway.counters import Counters
from embedspace.gateway.keys import Keys
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, COMPLETIONS
from embedspace.gateway.screening import Screening
from embedspace.gateway.settings import Limits, Settings
from embedspace.gateway.upstream import Upstream, passed_on

FORWARDED = ("/v1/models", "/version")
"""Addresses that are forwarded as they are, for GET."""

HEADER_BYTES = 16 * 1024
"""Most of a request before its body."""

_DRAIN_SECONDS = 1.0
_log = logging.getLogger("embedspace.gateway")


@dataclass
class GatewayApp:
    """The parts of one gateway, and its addresses."""

    settings: Settings
    keys: Keys
    screening: Screening
    upstream: Upstream
    audit: AuditLog
    counters: Counters
    held: int = 0
    """Bytes of bodies that are being received or screened."""
    under_way: int = 0

    @property
    def limits(self) -> Limits:
        """How much is taken on."""
        return self.settings.limits

    def routes(self) -> Starlette:
        """The ASGI application."""
        routes = [Route("/health", _Exchange(self, "health"), methods=["GET"])]
        routes += [Route("/metrics", _Exchange(self, "metrics"), methods=["GET"])]
        for path in (*FORWARDED, *self.settings.allow):
            routes.append(Route(path, _Exchange(self, "forward"), methods=["GET"]))
        for path in (COMPLETIONS, CHAT):
            routes.append(Route(path, _Exchange(self, "generate"), methods=["POST"]))
        app = Starlette(routes=routes, exception_handlers={HTTPException: self._not_routed})
        app.router.redirect_slashes = False
        return app

    async def _not_routed(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        code = "method_not_allowed" if error.status_code == 405 else "path_not_allowed"
        self.counters.requests.labels("other", code).inc()
        refusal = RefusedError(
            error.status_code, code, "this gateway does not let that address or method through"
        )
        await _drained(request)
        return Response(refusal.body(), refusal.status, {**refusal.headers(), "connection": "close"})

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """Room for one more request.

        Raises:
            RefusedError: there is none.
        """
        if self.under_way >= self.limits.concurrent:
            raise _busy("too_many_requests", "this gateway has as many requests under way as it takes")
        self.under_way += 1
        self.counters.under_way.set(self.under_way)
        try:
            yield
        finally:
            self.under_way -= 1
            self.counters.under_way.set(self.under_way)

    def hold(self, change: int) -> None:
        """Count bytes that are held, or no longer.

        Raises:
            RefusedError: they are too many.
        """
        if change > 0 and self.held + change > self.limits.held_bytes:
            raise _busy("too_much_data", "this gateway holds as much unscreened data as it takes")
        self.held += change
        self.counters.held_bytes.set(self.held)


@dataclass(frozen=True)
class _Exchange:
    """Answers the requests to one kind of address."""

    app: GatewayApp
    kind: str

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await _OneRequest(self.app, Request(scope, receive), send).answer(self.kind)


class _OneRequest:
    """One request on its way through the gateway."""

    def __init__(self, app: GatewayApp, request: Request, send: Send) -> None:
        self._app = app
        self._request = request
        self._send = send
        self._path = str(request.scope["path"])
        self._id = uuid.uuid4().hex
        self._key: int | None = None
        self._started = False
        self._outcome = "forwarded"
        self._whole = False
        """Whether all of the request was read."""

    async def answer(self, kind: str) -> None:
        """Answer, whatever happens."""
        try:
            match kind:
                case "health":
                    await self._health()
                case "metrics":
                    self._admit()
                    await self._answer(200, "text/plain; version=0.0.4", self._app.counters.exposition())
                case "forward":
                    self._admit()
                    with self._app.place():
                        await self._app.upstream.ensure(self._app.screening.about)
                        await self._unless_gone(self._forward("GET", b""))
                case _:
                    self._admit()
                    with self._app.place():
                        await self._generate()
        except ClientDisconnect:
            self._outcome = "client_gone"
        except RefusedError as refusal:
            await self._refuse(refusal)
        except Exception as error:
            # The error's own words may quote the request; where it was raised does not.
            where = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            await self._refuse(
                RefusedError(500, "internal_error", "the gateway failed; the request was not let through")
            )
        finally:
            self._app.counters.requests.labels(self._path, self._outcome).inc()

    def _admit(self) -> None:
        """Look at the header: well-formed, and from somebody who may come in."""
        headers = self._request.headers
        if sum(len(name) + len(value) for name, value in headers.raw) > HEADER_BYTES:
            raise RefusedError(431, "header_too_large", f"a header can have at most {HEADER_BYTES} bytes")
        lengths = headers.getlist("content-length")
        if "transfer-encoding" in headers and lengths:
            raise RefusedError(
                400, "ambiguous_length", "a request must have one length, and this one has two"
            )
        if len(headers.getlist("host")) != 1 or len(headers.getlist("content-type")) > 1:
            raise RefusedError(
                400, "ambiguous_header", "a header that must be there once is there twice or not at all"
            )
        if self._app.keys:
            self._key = self._app.keys.number(headers.getlist("authorization"))
            if self._key is None:
                raise RefusedError(401, "invalid_api_key", "this gateway needs one of its API keys")

    async def _generate(self) -> None:
        app = self._app
        await app.upstream.ensure(app.screening.about)
        with contextlib.ExitStack() as held:
            body = await self._body(held)
            digest = hashlib.sha256(body).hexdigest()
            began = time.perf_counter()
            try:
                screened = await app.screening.screen(self._path, body, app.upstream.rows(None))
                refusal = screened.fields.pop("refusal", None)
                if refusal is None:
                    self._require_rows(screened.fields)
            except RefusedError as lost:
                self._record("refused", digest, lost.code)
                raise
            finally:
                app.counters.screening.observe(time.perf_counter() - began)
            fields = screened.fields
            app.counters.prompts.inc(fields.get("prompts", 0))
            app.counters.rows.inc(fields.get("rows", 0))
            self._record("refused" if refusal else "allowed", digest, refusal and refusal["code"], fields)
            if refusal:
                raise RefusedError(**refusal)
        await self._unless_gone(self._forward("POST", screened.body))

    def _require_rows(self, fields: dict[str, Any]) -> None:
        rows = self._app.upstream.rows(fields["model"])
        if rows is not None and fields["longest"] > rows:
            raise RefusedError(
                400,
                "invalid_payload",
                f"a prompt has {fields['longest']} rows and that model takes at most {rows}",
            )

    def _record(
        self, verdict: str, digest: str, code: str | None, fields: dict[str, Any] | None = None
    ) -> None:
        known = {
            name: (fields or {}).get(name) for name in ("prompts", "rows", "score", "threshold", "layer")
        }
        try:
            self._app.audit.write(
                request=self._id,
                key=self._key,
                path=self._path,
                verdict=verdict,
                code=code,
                **known,
                sha256=digest,
            )
        except OSError as error:
            _log.error("the audit log cannot be written: %s", error.strerror or error)
            raise RefusedError(
                503,
                "audit_failed",
                "the gateway cannot keep its audit log, and lets nothing through without one",
            ) from None

    async def _body(self, held: contextlib.ExitStack) -> bytes:
        """The request's body, bounded in size and time."""
        headers, limits = self._request.headers, self._app.limits
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise RefusedError(415, "compressed_body", "a compressed body is not read; send it as it is")
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise RefusedError(415, "not_json", "the content-type must be application/json")
        too_large = RefusedError(413, "body_too_large", f"a body can have at most {limits.body_bytes} bytes")
        if int(headers.get("content-length", "0")) > limits.body_bytes:
            raise too_large
        body = bytearray()
        held.callback(lambda: self._app.hold(-len(body)))
        try:
            async with asyncio.timeout(limits.body_seconds):
                async for chunk in self._request.stream():
                    if len(body) + len(chunk) > limits.body_bytes:
                        raise too_large
                    self._app.hold(len(chunk))
                    body += chunk
        except TimeoutError:
            raise RefusedError(
                408, "body_too_slow", f"the body did not come within {limits.body_seconds:g} s"
            ) from None
        self._whole = True
        return bytes(body)

    async def _forward(self, method: str, body: bytes) -> None:
        """Ask the server, and pass its answer on piece by piece as it comes."""
        async with self._app.upstream.ask(method, self._path, body, self._id) as response:
            await self._start(response.status_code, passed_on(response.headers))
            # Where either side breaks off in the middle, the answer stays without its end, and the caller sees that.
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async for piece in response.aiter_raw():
                    async with asyncio.timeout(self._app.limits.write_seconds):
                        await self._send({"type": "http.response.body", "body": piece, "more_body": True})
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                return
        self._outcome = "broken_off"

    async def _unless_gone(self, work: Awaitable[None]) -> None:
        """Give up the work when the caller hangs up."""
        working = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(_disconnected(self._request))
        try:
            await asyncio.wait([working, gone], return_when=asyncio.FIRST_COMPLETED)
            if not working.done():
                self._outcome = "client_gone"
        finally:
            for task in (working, gone):
                task.cancel()
            await asyncio.wait([working, gone])
        if not working.cancelled():
            working.result()

    async def _health(self) -> None:
        upstream = True
        try:
            await self._app.upstream.ensure(self._app.screening.about)
        except RefusedError:
            upstream = False
        state = {"screening": self._app.screening.ready, "upstream": upstream}
        fine = all(state.values())
        said = json.dumps({"status": "ok" if fine else "degraded", **state}).encode()
        await self._answer(200 if fine else 503, "application/json", said)

    async def _refuse(self, refusal: RefusedError) -> None:
        self._outcome = refusal.code
        if self._started:
            return
        headers = [(name.encode(), value.encode()) for name, value in refusal.headers().items()]
        if not self._whole and not await _drained(self._request):
            headers.append((b"connection", b"close"))
        body = refusal.body()
        headers.append((b"content-length", str(len(body)).encode()))
        await self._start(refusal.status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _answer(self, status: int, media_type: str, body: bytes) -> None:
        headers = [(b"content-type", media_type.encode()), (b"content-length", str(len(body)).encode())]
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        headers = [*headers, (b"x-request-id", self._id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _drained(request: Request) -> bool:
    """Take what is still coming for a moment, and throw it away.

    A connection that is closed while its caller still sends is reset, and the answer may be lost with it.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_DRAIN_SECONDS):
            while True:
                message = await request.receive()
                if message["type"] == "http.disconnect" or not message.get("more_body", False):
                    return True
    return False


def _busy(code: str, message: str) -> RefusedError:
    return RefusedError(429, code, f"{message}; try again", retry_after=1)
