"""A caller's connection: uvicorn's HTTP with an end to headers that never end and to connections without number."""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Limits

_NOT_HTTP = RefusedError(400, "invalid_http", "the request is not HTTP/1.1 as it must be")


def bounded(limits: Limits) -> type[H11Protocol]:
    """The protocol of a gateway's connections."""

    class Bounded(H11Protocol):
        _deadline: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._arm()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.cycle is not None and not self.cycle.response_complete:
                self._disarm()
            elif self._deadline is None:
                self._arm()

        def connection_lost(self, exc: Exception | None) -> None:
            self._disarm()
            super().connection_lost(exc)

        def send_400_response(self, msg: str) -> None:
            # Where an answer is under way, what came is no part of it: there is nobody left to be told.
            if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
                body = _NOT_HTTP.body()
                fields = {**_NOT_HTTP.headers(), "content-length": str(len(body)), "connection": "close"}
                for event in (
                    h11.Response(
                        status_code=_NOT_HTTP.status, headers=list(fields.items()), reason=b"Bad Request"
                    ),
                    h11.Data(data=body),
                    h11.EndOfMessage(),
                ):
                    self.transport.write(self.conn.send(event) or b"")
            self.transport.close()

        def _arm(self) -> None:
            self._deadline = self.loop.call_later(limits.header_seconds, self.transport.abort)

        def _disarm(self) -> None:
            if self._deadline is not None:
                self._deadline.cancel()
                self._deadline = None

    return Bounded
