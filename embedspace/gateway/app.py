"""The gateway as an ASGI application: its routes, and how one request is admitted, screened, forwarded and answered."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import httpx2
from starlette.requests import ClientDisconnect, Request
from starlette.types import Receive, Scope, Send

from embedspace.gateway.api_keys import Keys
from embedspace.gateway.audit import AuditLog, Counters
from embedspace.gateway.intake import Capacity, admit, read_body
from embedspace.gateway.peers import network
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, COMPLETIONS
from embedspace.gateway.settings import Settings
from embedspace.gateway.upstream import OneShotBody, Upstream, response_headers
from embedspace.gateway.worker_pool import WorkerPool

FORWARDED = ("/v1/models", "/version")
"""Addresses that are forwarded unchanged, for GET."""

Action = Literal["health", "metrics", "forward", "generate", "unknown", "other_method"]

_log = logging.getLogger("embedspace.gateway")


@dataclass(frozen=True)
class GatewayApp:
    """The parts of one gateway, and the ASGI application that they are."""

    settings: Settings
    keys: Keys
    workers: WorkerPool
    upstream: Upstream
    audit: AuditLog
    counters: Counters
    capacity: Capacity

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Addresses are compared as they were sent, without decoding anything in them."""
        path = scope["raw_path"].decode("latin-1")
        action = self._actions.get(path)
        if action is None:
            path, action = "other", "unknown"
        elif scope["method"] not in (("POST",) if action == "generate" else ("GET", "HEAD")):
            path, action = "other", "other_method"
        await _RequestHandler(self, Request(scope, receive), send, path).answer(action)

    @cached_property
    def _actions(self) -> dict[str, Action]:
        actions: dict[str, Action] = {"/health": "health", "/metrics": "metrics"}
        for path in (*FORWARDED, *self.settings.allow):
            actions[path] = "forward"
        return actions | {COMPLETIONS: "generate", CHAT: "generate"}


class _RequestHandler:
    """Answers one request, whatever happens to it."""

    def __init__(self, app: GatewayApp, request: Request, send: Send, path: str) -> None:
        self._app = app
        self._request = request
        self._send = send
        self._path = path
        self._id = uuid.uuid4().hex
        self._key: int | None = None
        self._started = False
        self._outcome = "forwarded"
        self._body_received = False

    async def answer(self, action: Action) -> None:
        """Perform the action, or answer with the reason for a refusal."""
        app = self._app
        try:
            if action == "health":
                await self._health()
                return
            if action == "unknown":
                raise RefusedError(404, "path_not_allowed", "this gateway does not allow that address")
            if action == "other_method":
                raise RefusedError(405, "method_not_allowed", "this gateway does not allow that method there")
            self._key = admit(self._request, app.keys)
            match action:
                case "metrics":
                    headers = {"content-type": "text/plain; version=0.0.4"}
                    await self._respond(200, headers, app.counters.exposition())
                case "forward":
                    with app.capacity.slot(self._caller):
                        await app.upstream.ensure(app.workers.filter_info)
                        await self._until_disconnect(self._forward("GET"))
                case "generate":
                    await self._generate()
        except ClientDisconnect:
            self._outcome = "client_gone"
        except RefusedError as refusal:
            await self._refuse(refusal)
        except Exception as error:
            # The message may quote the request; where the error was raised does not.
            where = traceback.extract_tb(error.__traceback__)[-1]
            _log.error("%s at %s:%s", type(error).__name__, where.filename, where.lineno)
            await self._refuse(
                RefusedError(500, "internal_error", "the gateway failed; the request was not forwarded")
            )
        finally:
            app.counters.requests.labels(self._path, self._outcome).inc()

    @property
    def _caller(self) -> str:
        """Whom limits for one caller count: the owner of a key, or an address."""
        if self._key is not None:
            return f"key {self._key}"
        client = self._request.client
        return network(client.host) if client else ""

    async def _generate(self) -> None:
        app, caller = self._app, self._caller
        app.capacity.require_slot(caller)
        await app.upstream.ensure(app.workers.filter_info)
        with app.capacity.reserved_bytes(caller) as reservation:
            body = await read_body(self._request, app.settings.limits, reservation)
            self._body_received = True
            with app.capacity.slot(caller):
                # Handed over once, so that each body is in memory no longer than it is needed.
                received, digest = OneShotBody(body.content), body.sha256
                del body
                screened = OneShotBody(await self._screened(received, digest), reservation.release)
                reservation.resize(screened.size)
                await self._until_disconnect(self._forward("POST", screened))

    async def _screened(self, body: OneShotBody, digest: str) -> bytes:
        """The body for the server; the audit log has the decision, whichever it is."""
        app = self._app
        began = time.perf_counter()
        try:
            rows = app.upstream.max_rows(None)
            screened = await app.workers.screen(self._path, body.take(), rows, self._caller)
            refusal = screened.fields.pop("refusal", None)
            if refusal is None:
                self._require_rows(screened.fields)
        except RefusedError as refused:
            self._record("refused", digest, refused.code, {})
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

    def _require_rows(self, fields: Mapping[str, Any]) -> None:
        rows = self._app.upstream.max_rows(fields["model"])
        if rows is not None and fields["longest"] > rows:
            raise RefusedError(
                400,
                "invalid_payload",
                f"a prompt has {fields['longest']} rows and that model takes at most {rows}",
            )

    def _record(self, verdict: str, digest: str, code: str | None, fields: Mapping[str, Any]) -> None:
        known = {name: fields.get(name) for name in ("prompts", "rows", "score", "threshold", "layer")}
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
                "the gateway cannot write its audit log, and forwards nothing without one",
            ) from None

    async def _forward(self, method: str, body: OneShotBody | None = None) -> None:
        """Send a request to the server, and pass on its answer chunk by chunk."""
        async with self._app.upstream.send(method, self._path, body, self._id) as response:
            await self._start(response.status_code, response_headers(response.headers))
            # If either side breaks off, the answer stays incomplete, and the caller sees that.
            with contextlib.suppress(httpx2.HTTPError, TimeoutError):
                async for chunk in response.aiter_raw():
                    async with asyncio.timeout(self._app.settings.limits.write_seconds):
                        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})
                await self._send({"type": "http.response.body", "body": b"", "more_body": False})
                return
        self._outcome = "broken_off"

    async def _until_disconnect(self, work: Awaitable[None]) -> None:
        """Run the work; cancel it if the caller disconnects."""
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
            await self._app.upstream.ensure(self._app.workers.filter_info)
        except RefusedError:
            upstream = False
        state = {"screening": self._app.workers.ready, "upstream": upstream}
        healthy = all(state.values())
        body = json.dumps({"status": "ok" if healthy else "degraded", **state}).encode()
        await self._respond(200 if healthy else 503, {"content-type": "application/json"}, body)

    async def _refuse(self, refusal: RefusedError) -> None:
        self._outcome = refusal.code
        if self._started:
            return
        headers = refusal.headers()
        if not self._body_received:  # the rest of it is not read
            headers["connection"] = "close"
        await self._respond(refusal.status, headers, refusal.body())

    async def _respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        fields = {**headers, "content-length": str(len(body))}
        await self._start(status, [(name.encode(), value.encode()) for name, value in fields.items()])
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def _start(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        self._started = True
        headers = [*headers, (b"x-request-id", self._id.encode())]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
