"""One request on its way through the gateway: let in, read, screened, sent on, and answered."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable
from typing import TYPE_CHECKING, Any, Literal

import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.types import Send

from embedspace.gateway.intake import admit, drained, read_body
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.upstream import Parcel, passed_on

if TYPE_CHECKING:
    from embedspace.gateway.app import GatewayApp

Kind = Literal["health", "metrics", "forward", "generate"]
"""What is to be done at an address."""

_log = logging.getLogger("embedspace.gateway")


class Exchange:
    """Answers one request, whatever happens to it."""

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

    async def answer(self, kind: Kind) -> None:
        """Do what the address is for, or say why not."""
        try:
            if kind == "health":
                await self._health()
                return
            self._key = admit(self._request, self._app.keys)
            match kind:
                case "metrics":
                    await self._answer(200, "text/plain; version=0.0.4", self._app.counters.exposition())
                case "forward":
                    self._whole = await drained(self._request)
                    with self._app.capacity.place():
                        await self._app.upstream.ensure(self._app.screening.about)
                        await self._unless_gone(self._forward("GET"))
                case "generate":
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

    async def _generate(self) -> None:
        app = self._app
        app.capacity.require_place()
        await app.upstream.ensure(app.screening.about)
        with app.capacity.holding() as held:
            # In a parcel, so that each body is in memory for as long as it is needed and no longer.
            received = Parcel(await read_body(self._request, app.settings.limits, held))
            self._whole = True
            with app.capacity.place():
                screened = Parcel(await self._screened(received.take()), held.release)
                held.become(screened.size)
                await self._unless_gone(self._forward("POST", screened))

    async def _screened(self, body: bytes) -> bytes:
        """The body for the server; the decision stands in the audit log, whichever it is."""
        app = self._app
        digest = hashlib.sha256(body).hexdigest()
        began = time.perf_counter()
        try:
            screened = await app.screening.screen(self._path, body, app.upstream.rows(None))
            refusal = screened.fields.pop("refusal", None)
            if refusal is None:
                self._require_rows(screened.fields)
        except RefusedError as refused:
            self._record("refused", digest, refused.code)
            raise
        finally:
            app.counters.screening.observe(time.perf_counter() - began)
        fields = screened.fields
        app.counters.prompts.inc(fields.get("prompts", 0))
        app.counters.rows.inc(fields.get("rows", 0))
        self._record("refused" if refusal else "allowed", digest, refusal and refusal["code"], fields)
        if refusal:
            raise RefusedError(**refusal)
        return screened.body

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
        names = ("prompts", "rows", "score", "threshold", "layer")
        known = {name: (fields or {}).get(name) for name in names}
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

    async def _forward(self, method: str, body: Parcel | None = None) -> None:
        """Ask the server, and pass its answer on piece by piece as it comes."""
        async with self._app.upstream.ask(method, self._path, body, self._id) as response:
            await self._start(response.status_code, passed_on(response.headers))
            # Where either side breaks off in the middle, the answer stays without its end, and the caller sees that.
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async for piece in response.aiter_raw():
                    async with asyncio.timeout(self._app.settings.limits.write_seconds):
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
        if not self._whole and not await drained(self._request):
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
