"""The way to one vLLM server: requests through the ``openai`` client, failures in words."""

from __future__ import annotations

import contextlib
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from embedspace.engines.vllm.errors import Exchange, PassingError, explain
from embedspace.errors import EngineError, EngineResponseError, ModelNotServedError

if TYPE_CHECKING:
    from openai import AsyncOpenAI, RequestOptions

R = TypeVar("R")

_CONNECT_SECONDS = 10.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    url: str
    model: str
    """Name of the model that the client asks for."""
    max_model_len: int | None
    """Most tokens of a prompt and its completion together, where the server tells."""
    version: str
    """Of vLLM."""


class Connection:
    """Requests to one server, each sent once: whether again, and where, is the business of the pool.

    Every method raises :class:`~embedspace.engines.vllm.errors.PassingError` for what another attempt may not meet.

    Args:
        url: the server's address, with or without ``/v1``.
        api_key: sent to the server and shown nowhere.
        timeout: seconds without an answer after which a request counts as lost.

    Raises:
        ValueError: the address is not one, or a number is out of its range.
    """

    def __init__(self, url: str, *, api_key: str | None, timeout: float) -> None:
        self._parts = urllib.parse.urlsplit(url)
        if self._parts.scheme not in ("http", "https") or not self._parts.hostname:
            raise ValueError(f"url is {url!r}; it must be an address such as 'http://127.0.0.1:8000'")
        if self._parts.username is not None:
            raise ValueError("url holds a user name or password; pass the server's key as `api_key`")
        if timeout <= 0:
            raise ValueError(f"timeout is {timeout}; it must be above 0 seconds")
        self.url = url.rstrip("/").removesuffix("/v1")
        """The server's address, without the ``/v1``."""
        self._api_key = api_key
        self._timeout = timeout

    async def info(self, wanted: str | None, timeout: float | None = None) -> ServerInfo:
        """What the server says of itself, with the wanted model or, for None, with the only one it serves.

        Args:
            wanted: name of the model.
            timeout: seconds for each of the two questions, where that is less than for any request.

        Raises:
            EngineError: the server failed, or serves several models and none was wanted.
            ModelNotServedError: it does not serve the wanted model.
        """
        lengths: dict[str, int | None] = await self.get(
            "/v1/models",
            "the list of its models",
            lambda answer: {model["id"]: model.get("max_model_len") for model in answer["data"]},
            timeout,
        )
        served = ", ".join(map(repr, lengths)) or "nothing"
        if wanted is None and len(lengths) != 1:
            raise EngineError(f"the vLLM server at {self.url} serves {served}; say which one as `model`")
        model = next(iter(lengths)) if wanted is None else wanted
        if model not in lengths:
            raise ModelNotServedError(
                f"the vLLM server at {self.url} does not serve {model!r} but {served}; name one of these as "
                "`model`, or start a server for yours"
            )
        try:
            version = await self.get(
                "/version", "its version", lambda answer: str(answer["version"]), timeout
            )
        except (EngineResponseError, PassingError) as error:
            if isinstance(error, PassingError) and error.away:
                raise
            version = "unknown"  # a proxy may let the /v1 addresses alone through
        return ServerInfo(self.url, model, lengths[model], version)

    async def get(self, path: str, subject: str, read: Callable[[Any], R], timeout: float | None = None) -> R:
        """The answer to a GET of ``path``, such as ``/v1/models``, made sense of by ``read``.

        Raises:
            EngineError: the server failed, or ``read`` raised an error of a misshapen answer.
        """
        with self._explained(subject):
            options: RequestOptions = {} if timeout is None else {"timeout": min(timeout, self._timeout)}
            return _understood(
                read, await self._api.get(f"{self.url}{path}", cast_to=object, options=options)
            )

    async def post(self, path: str, body: dict[str, Any], subject: str, read: Callable[[Any], R]) -> R:
        """The answer to a POST, as :meth:`get`."""
        with self._explained(subject):
            return _understood(read, await self._api.post(f"{self.url}{path}", cast_to=object, body=body))

    async def stream(
        self, path: str, body: dict[str, Any], subject: str, read: Callable[[Any], R]
    ) -> AsyncGenerator[R, None]:
        """The events of a streamed answer to a POST, each as :meth:`get`."""
        import openai

        with self._explained(subject):
            events = await self._api.post(
                f"{self.url}{path}",
                cast_to=object,
                body={**body, "stream": True},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            async with contextlib.aclosing(events.response):
                async for event in events:
                    yield _understood(read, event)

    async def close(self) -> None:
        """Close what connections are open."""
        if "_api" in self.__dict__:
            await self._api.close()

    @cached_property
    def _api(self) -> AsyncOpenAI:
        import openai

        client = openai.AsyncOpenAI(
            base_url=f"{self.url}/v1",
            # Never the OPENAI_API_KEY of the environment: it is not meant for this server.
            api_key=self._api_key or "EMPTY",
            max_retries=0,
            http_client=openai.DefaultAsyncHttpxClient(
                timeout=openai.Timeout(self._timeout, connect=min(self._timeout, _CONNECT_SECONDS)),
                trust_env=self._parts.hostname not in _LOOPBACK,  # no proxy to this very machine
            ),
        )
        client.organization = client.project = None
        return client

    @contextlib.contextmanager
    def _explained(self, subject: str) -> Iterator[None]:
        import openai

        try:
            yield
        except (openai.APIError, ValueError) as error:
            # The chain is cut: the original carries the request with its key.
            raise explain(error, Exchange(self.url, subject, self._api_key)) from None


def _understood(read: Callable[[Any], R], answer: object) -> R:
    try:
        return read(answer)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error} in {answer!r:.1000}") from error
