"""The gateway as an ASGI application: its parts, and the addresses at which it answers."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from embedspace.gateway.audit import AuditLog
from embedspace.gateway.capacity import Capacity
from embedspace.gateway.counters import Counters
from embedspace.gateway.exchange import Exchange, Kind
from embedspace.gateway.intake import drained
from embedspace.gateway.keys import Keys
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.request import CHAT, COMPLETIONS
from embedspace.gateway.screening import Screening
from embedspace.gateway.settings import Settings
from embedspace.gateway.upstream import Upstream

FORWARDED = ("/v1/models", "/version")
"""Addresses that are forwarded as they are, for GET."""


@dataclass(frozen=True)
class GatewayApp:
    """The parts of one gateway."""

    settings: Settings
    keys: Keys
    screening: Screening
    upstream: Upstream
    audit: AuditLog
    counters: Counters
    capacity: Capacity

    def routes(self) -> Starlette:
        """The ASGI application."""
        routes = [
            Route("/health", _Endpoint(self, "health"), methods=["GET"]),
            Route("/metrics", _Endpoint(self, "metrics"), methods=["GET"]),
        ]
        for path in (*FORWARDED, *self.settings.allow):
            routes.append(Route(path, _Endpoint(self, "forward"), methods=["GET"]))
        for path in (COMPLETIONS, CHAT):
            routes.append(Route(path, _Endpoint(self, "generate"), methods=["POST"]))
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
        await drained(request)
        return Response(refusal.body(), refusal.status, {**refusal.headers(), "connection": "close"})


@dataclass(frozen=True)
class _Endpoint:
    """Answers the requests to one kind of address."""

    app: GatewayApp
    kind: Kind

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await Exchange(self.app, Request(scope, receive), send).answer(self.kind)
