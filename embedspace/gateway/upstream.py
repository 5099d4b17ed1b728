"""The server behind the gateway: its verification, and the connection to it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx2

from embedspace.engines.vllm.transport import Connection, TransientError
from embedspace.errors import EngineError, EngineUnreachableError, PromptRejectedError
from embedspace.gateway.refusal import RefusedError
from embedspace.gateway.settings import Settings

R = TypeVar("R")

_PROBE_TOKENS = 8
_PROBE_SECONDS = 60.0
_CONNECT_SECONDS = 10.0
_POLL_SECONDS = 0.5
# Headers of an answer that are passed on. Others may concern one connection, or tell about the server.
_PASSED_HEADERS = frozenset(
    ["content-type", "content-length", "content-encoding", "cache-control", "retry-after"]
)
_log = logging.getLogger("embedspace.gateway")


class FilterMismatchError(EngineError):
    """The server serves another model than that of the filter's space."""


class OneShotBody:
    """A body that can be taken once, so that no reference keeps it in memory.

    Args:
        body: the content.
        on_sent: called when all of it was sent to a server.
    """

    def __init__(self, body: bytes, on_sent: Callable[[], None] = lambda: None) -> None:
        self._body: bytes | None = body
        self._on_sent = on_sent
        self.size = len(body)

    def take(self) -> bytes:
        """The content, on the first call."""
        body, self._body = self._body, None
        if body is None:
            raise RuntimeError("a body was taken twice")
        return body

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield self.take()
        self._on_sent()


class Upstream:
    """One vLLM server, verified to serve the model of the filter's space.

    It is verified by its answers to a few prompts, as token ids and as their rows in the filter's space. An idle
    connection is kept open: when it breaks, the server may have been replaced and is verified again before the next
    request.
    """

    def __init__(self, settings: Settings) -> None:
        self.url = settings.upstream
        self._key = settings.upstream_key
        self._connection = Connection(self.url, api_key=self._key, timeout=_PROBE_SECONDS)
        limits = settings.limits
        self._client = httpx2.AsyncClient(
            timeout=httpx2.Timeout(limits.upstream_seconds, connect=_CONNECT_SECONDS),
            # vLLM closes idle connections after five seconds, and may do so just when one is used again.
            limits=httpx2.Limits(max_connections=limits.concurrent, keepalive_expiry=2.0),
            trust_env=not settings.on_this_machine,
            follow_redirects=False,
        )
        self._probes: Sequence[Mapping[str, Any]] = ()
        self._hidden_size = 0
        self._verification: asyncio.Task[None] | None = None
        self._sentinel: asyncio.Task[None] | None = None
        self.models: dict[str, int | None] = {}
        """Served names, each with the longest prompt and answer in tokens."""

    @property
    def verified(self) -> bool:
        """Whether the present server is verified."""
        return self._sentinel is not None and not self._sentinel.done()

    async def fetch_models(self, wait: float = 0.0) -> dict[str, int | None]:
        """The models that the server serves.

        Args:
            wait: seconds to wait for the server to start.

        Raises:
            EngineError: it cannot be reached, or returns no list.
        """
        deadline = time.monotonic() + wait
        while True:
            try:
                return await self._unwrapped(
                    self._connection.get(
                        "/v1/models",
                        "the list of its models",
                        lambda answer: {each["id"]: each.get("max_model_len") for each in answer["data"]},
                    )
                )
            except EngineUnreachableError:
                if time.monotonic() >= deadline:
                    raise
                await asyncio.sleep(_POLL_SECONDS)

    async def verify(self, filter_info: Mapping[str, Any]) -> None:
        """Verify that the server serves the model of the filter's space, and watch the connection from then on.

        Args:
            filter_info: hidden size and probes of the filter's space.

        Raises:
            EngineError: it cannot be reached, or was started without ``--enable-prompt-embeds``.
            FilterMismatchError: it serves another model.
        """
        self._probes, self._hidden_size = filter_info["probes"], filter_info["hidden_size"]
        sentinel = await self._open_sentinel()
        try:
            models = await self.fetch_models()
            if not models:
                raise FilterMismatchError(f"the vLLM server at {self.url} serves nothing")
            for model in models:
                await self._require_same_rows(model)
        except BaseException:
            sentinel.cancel()
            raise
        if self._sentinel is not None:
            self._sentinel.cancel()
        self.models, self._sentinel = models, sentinel

    async def ensure(self, filter_info: Mapping[str, Any]) -> None:
        """Verify the server again if it may have been replaced.

        Raises:
            RefusedError: it cannot be reached, or serves another model.
        """
        if self.verified:
            return
        if self._verification is None or self._verification.done():
            self._verification = asyncio.create_task(self.verify(filter_info))
            self._verification.add_done_callback(_log_failure)
        try:
            # One verification for all requests that wait for it.
            await asyncio.shield(self._verification)
        except EngineUnreachableError:
            raise unreachable() from None
        except EngineError:
            raise RefusedError(
                503,
                "upstream_changed",
                "the server behind this gateway does not serve the model of its filter; see the gateway's log",
                retry_after=30,
            ) from None

    def max_rows(self, model: str | None) -> int | None:
        """The most rows of a prompt for a model, if the server reports a limit.

        Raises:
            RefusedError: it does not serve the model.
        """
        if model is None:
            return max((length or 0 for length in self.models.values()), default=0) or None
        if model not in self.models:
            raise RefusedError(404, "model_not_found", "the server does not serve that model", param="model")
        return self.models[model]

    @contextlib.asynccontextmanager
    async def send(
        self, method: str, path: str, body: OneShotBody | None, request_id: str
    ) -> AsyncIterator[httpx2.Response]:
        """The server's answer, whose body is still to be read.

        Of the caller's request only the body is sent: no headers, no key, no query.

        Raises:
            RefusedError: no answer.
        """
        headers = {
            "accept-encoding": "identity",
            "x-request-id": request_id,
            "user-agent": "embedspace-gateway",
        }
        if body is not None:
            headers |= {"content-type": "application/json", "content-length": str(body.size)}
        if self._key:
            headers["authorization"] = f"Bearer {self._key}"
        request = self._client.build_request(method, f"{self.url}{path}", content=body, headers=headers)
        try:
            response = await self._client.send(request, stream=True)
        except httpx2.TimeoutException:
            raise RefusedError(
                504, "upstream_timeout", "the server behind this gateway did not answer in time"
            ) from None
        except httpx2.HTTPError:
            raise unreachable() from None
        try:
            yield response
        finally:
            await response.aclose()

    async def close(self) -> None:
        """Close all connections."""
        tasks = [task for task in (self._verification, self._sentinel) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._client.aclose()
        await self._connection.close()

    async def _require_same_rows(self, model: str) -> None:
        greedy = {"model": model, "max_tokens": _PROBE_TOKENS, "temperature": 0.0, "n": 1}
        try:
            by_ids = await self._texts(greedy | {"prompt": [probe["ids"] for probe in self._probes]})
            by_rows = await self._texts(
                greedy | {"prompt_embeds": [probe["payload"] for probe in self._probes]}
            )
        except PromptRejectedError as error:
            raise FilterMismatchError(
                f"{model!r} is another model than the filter is for, with rows of length {self._hidden_size}: {error}"
            ) from None
        same = sum(a == b for a, b in zip(by_ids, by_rows, strict=True))
        # Rounding may change one answer at a near-tie; rows of another model change all of them.
        if same < len(by_ids) - 1:
            raise FilterMismatchError(
                f"the vLLM server at {self.url} answers {len(by_ids) - same} of {len(by_ids)} prompts differently as "
                f"rows of the filter's space (hidden size {self._hidden_size}) and as token ids: "
                f"{model!r} is another model than the filter is for; use a filter for that model"
            )

    async def _texts(self, body: dict[str, Any]) -> list[str]:
        def read(answer: Any) -> list[str]:
            texts = {choice["index"]: str(choice["text"]) for choice in answer["choices"]}
            if sorted(texts) != list(range(len(self._probes))):
                raise ValueError(f"{len(self._probes)} choices were requested, got {sorted(texts)}")
            return [texts[number] for number in sorted(texts)]

        return await self._unwrapped(
            self._connection.post("/v1/completions", body, "prompts as a probe", read)
        )

    async def _unwrapped(self, request: Coroutine[Any, Any, R]) -> R:
        try:
            return await request
        except TransientError as transient:
            raise transient.error from None

    async def _open_sentinel(self) -> asyncio.Task[None]:
        """Keep a connection open; the task ends when the server closes it."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                reader, writer = await asyncio.open_connection(
                    parts.hostname, parts.port or (443 if secure else 80), ssl=secure or None
                )
        except (OSError, TimeoutError) as error:
            raise EngineUnreachableError(
                f"the vLLM server at {self.url} cannot be reached: {error}; start it (`embedspace serve MODEL`) or "
                "correct the address"
            ) from None

        async def until_closed() -> None:
            try:
                with contextlib.suppress(OSError):
                    await reader.read(1)
            finally:
                writer.close()

        return asyncio.create_task(until_closed())


def response_headers(headers: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    """The headers of an answer that are passed on to the caller."""
    return [
        (lowered, value)
        for name, value in headers.raw
        if (lowered := name.lower()).decode("latin-1") in _PASSED_HEADERS
    ]


def _log_failure(verification: asyncio.Task[None]) -> None:
    """Log once why the verification failed, however many requests waited for it."""
    if not verification.cancelled() and (error := verification.exception()) is not None:
        _log.warning("%s", error)


def unreachable() -> RefusedError:
    """The refusal while the server is down."""
    return RefusedError(
        502, "upstream_unreachable", "the server behind this gateway cannot be reached", retry_after=5
    )
