"""Protection of a page that only this machine's user may use: Host and Origin headers, sizes, and a content policy."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; "
    "base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
_OWN_SITES = ("same-origin", "none")


def loopback_hosts(port: int) -> frozenset[str]:
    """Host headers with which a browser of this machine asks for the page.

    >>> sorted(loopback_hosts(8765))
    ['127.0.0.1:8765', '[::1]:8765', 'localhost:8765']
    """
    return frozenset(f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]"))


class Protected:
    """An application that answers only its own page.

    A foreign Host header is what DNS rebinding sends, a foreign Origin what another site's script or form sends.

    Args:
        app: the application.
        hosts: Host headers that are answered.
        body_bytes: most bytes of a request.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], body_bytes: int) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._body_bytes = body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or refuse it in one sentence."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_protected(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        answer: ASGIApp = self._app if refusal is None else PlainTextResponse(*refusal)
        await answer(scope, receive, send_protected)

    def _refusal(self, method: str, headers: Headers) -> tuple[str, int] | None:
        host, origin, site = (
            headers.get("host", ""),
            headers.get("origin"),
            headers.get("sec-fetch-site", "none"),
        )
        if host not in self._hosts:
            return f"The playground answers at {', '.join(sorted(self._hosts))}, not at {host!r}.", 421
        if method not in ("GET", "HEAD", "POST"):
            return "The playground knows GET and POST.", 405
        own = origin == f"http://{host}"
        if method == "POST" and not (own and site in _OWN_SITES):
            return (
                "Another site's page, or a program without an Origin header, may not ask the playground.",
                403,
            )
        if site not in _OWN_SITES and headers.get("sec-fetch-mode") != "navigate":
            return "Another site's page may not read the playground.", 403
        if "transfer-encoding" in headers:
            return "A request must say how long it is: send Content-Length.", 411
        length = headers.get("content-length", "0")
        if not length.isdigit() or int(length) > self._body_bytes:
            return f"A request may have at most {self._body_bytes:,} bytes; shorten the texts.", 413
        return None
