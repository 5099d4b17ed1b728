"""One vLLM server over HTTP: requests through the ``openai`` client, failures explained with what to do about them."""

from __future__ import annotations

import contextlib
import email.utils
import json
import time
import urllib.parse
from collections.abc import AsyncGenerator, Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar

from embedspace.errors import (
    EngineError,
    EngineOverloadedError,
    EngineResponseError,
    EngineUnreachableError,
    ModelNotServedError,
    PromptEmbedsDisabledError,
    PromptRefusedError,
    PromptRejectedError,
)

if TYPE_CHECKING:
    import openai
    from openai import AsyncOpenAI, RequestOptions

R = TypeVar("R")

MAX_RETRY_AFTER_SECONDS = 120.0
"""A longer ``Retry-After`` counts as a refusal."""

_CONNECT_SECONDS = 10.0
_LOOPBACK = {"localhost", "127.0.0.1", "::1"}
_SHOWN_CHARACTERS = 400


class TransientError(Exception):
    """A failure that the same request may not meet again; never shown to callers, who get its ``error``."""

    def __init__(
        self, error: EngineError, reason: str, *, pause: float | None = None, server_down: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        """What to raise when the request is not sent again."""
        self.reason = reason
        """In a word or two, for counting."""
        self.pause = pause
        """Seconds that the server asked to wait."""
        self.server_down = server_down
        """Whether the server may be down."""


@dataclass(frozen=True)
class ServerInfo:
    """What a server reports about itself."""

    url: str
    model: str
    """Name of the model that requests ask for."""
    max_model_len: int | None
    """Most tokens of a prompt and its completion together, where the server reports it."""
    version: str
    """Of vLLM."""


class Connection:
    """Requests to one server, each sent once: the pool decides about retries.

    Every method raises :class:`TransientError` for what another attempt may not meet.

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

    async def info(self, model: str | None, timeout: float | None = None) -> ServerInfo:
        """What the server reports about itself.

        Args:
            model: name of the model to use; by default the only one that is served.
            timeout: seconds for each of the two requests, if shorter than the connection's.

        Raises:
            EngineError: the server failed, or serves several models and none was named.
            ModelNotServedError: it does not serve the model.
        """
        lengths: dict[str, int | None] = await self.get(
            "/v1/models",
            "the list of its models",
            lambda answer: {each["id"]: each.get("max_model_len") for each in answer["data"]},
            timeout,
        )
        served = ", ".join(map(repr, lengths)) or "nothing"
        if model is None and len(lengths) != 1:
            raise EngineError(f"the vLLM server at {self.url} serves {served}; say which one as `model`")
        model = next(iter(lengths)) if model is None else model
        if model not in lengths:
            raise ModelNotServedError(
                f"the vLLM server at {self.url} does not serve {model!r} but {served}; name one of these as "
                "`model`, or start a server for yours"
            )
        try:
            version = await self.get(
                "/version", "its version", lambda answer: str(answer["version"]), timeout
            )
        except (EngineResponseError, TransientError) as error:
            if isinstance(error, TransientError) and error.server_down:
                raise
            version = "unknown"  # a proxy may pass on the /v1 addresses alone
        return ServerInfo(self.url, model, lengths[model], version)

    async def get(self, path: str, subject: str, read: Callable[[Any], R], timeout: float | None = None) -> R:
        """What ``read`` makes of the answer to a GET of ``path``, such as ``/v1/models``.

        Raises:
            EngineError: the server failed, or ``read`` raised an error of a malformed answer.
        """
        with self._errors_explained(subject):
            options: RequestOptions = {} if timeout is None else {"timeout": min(timeout, self._timeout)}
            return _read(read, await self._api.get(f"{self.url}{path}", cast_to=object, options=options))

    async def post(self, path: str, body: dict[str, Any], subject: str, read: Callable[[Any], R]) -> R:
        """What ``read`` makes of the answer to a POST; errors as :meth:`get`."""
        with self._errors_explained(subject):
            return _read(read, await self._api.post(f"{self.url}{path}", cast_to=object, body=body))

    async def stream(
        self, path: str, body: dict[str, Any], subject: str, read: Callable[[Any], R]
    ) -> AsyncGenerator[R, None]:
        """What ``read`` makes of each event of a streamed answer to a POST; errors as :meth:`get`."""
        import openai

        with self._errors_explained(subject):
            events = await self._api.post(
                f"{self.url}{path}",
                cast_to=object,
                body={**body, "stream": True},
                stream=True,
                stream_cls=openai.AsyncStream[object],
            )
            async with contextlib.aclosing(events.response):
                async for event in events:
                    yield _read(read, event)

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
    def _errors_explained(self, subject: str) -> Iterator[None]:
        import openai

        try:
            yield
        except (openai.APIError, ValueError) as error:
            # The chain is cut: the original carries the request with its key.
            raise _explain(error, _RequestContext(self.url, subject, self._api_key)) from None


@dataclass(frozen=True)
class _RequestContext:
    """What an error message says about the request that failed."""

    url: str
    """The server's address."""
    subject: str
    """What the request was for, e.g. ``prompts 16 to 31``."""
    api_key: str | None
    """No message may show it, even where the server repeats it."""

    def error(self, kind: type[EngineError], problem: str, advice: str) -> EngineError:
        """An error of this kind that names server, subject, problem and remedy."""
        message = f"the vLLM server at {self.url} {problem} ({self.subject}); {advice}"
        return kind(message.replace(self.api_key, "***") if self.api_key else message)


def _explain(error: openai.APIError | ValueError, context: _RequestContext) -> EngineError | TransientError:
    """The error to raise for an exception of the ``openai`` client, or for an answer that cannot be read.

    Lost connections, missing answers, 408, 409, 429, 5xx and answers that are no completions are transient: another
    attempt may meet a server that has come back, or a proxy that cuts nothing off.
    """
    import openai

    match error:
        case openai.APITimeoutError():
            advice = "raise `timeout`, or ask for less at once (`prompts_per_request`, `max_tokens`)"
            explained = context.error(EngineUnreachableError, "did not answer in time", advice)
            return TransientError(explained, "timed out", server_down=True)
        case openai.APIConnectionError() if "Connect" in type(error.__cause__).__name__:
            problem = f"cannot be reached: {_cause(error)}"
            advice = "start it (`embedspace serve MODEL`) or correct the address"
            explained = context.error(EngineUnreachableError, problem, advice)
            return TransientError(explained, "refused", server_down=True)
        case openai.APIConnectionError():
            problem = f"broke off in the middle of its answer: {_cause(error)}"
            explained = context.error(EngineResponseError, problem, "look into its log, it may have crashed")
            return TransientError(explained, "broken off", server_down=True)
        case openai.APIStatusError(status_code=status, response=response):
            explained = _explain_status(status, response.text, context)
            pause = _retry_after(response.headers.get)
            retriable = status in (408, 409, 429) or status >= 500
            if not retriable or (pause is not None and pause > MAX_RETRY_AFTER_SECONDS):
                return explained
            # A proxy answers 502 to 504 for a server that is down.
            return TransientError(explained, str(status), pause=pause, server_down=status in (502, 503, 504))
        case openai.APIError():
            problem = f"reported an error: {_cut(error.message)}"
            return context.error(EngineResponseError, problem, "look into its log")
    text = f"{error.msg} in {error.doc!r}" if isinstance(error, json.JSONDecodeError) else str(error)
    explained = context.error(
        EngineResponseError,
        f"gave an answer that is not a completion: {_cut(text)}",
        "check that the address is that of a vLLM server and not of another program or a proxy's error page",
    )
    return TransientError(explained, "unreadable")


def _explain_status(status: int, body: str, context: _RequestContext) -> EngineError:
    details = _error_details(body)
    message = str(details.get("message", body))
    kind: type[EngineError] = EngineResponseError
    problem = f"answered {status}: {_cut(message)}"
    advice = "look into its log"
    match status:
        case 400 | 413 | 422 if "enable-prompt-embeds" in message:
            kind, problem = PromptEmbedsDisabledError, "was started without --enable-prompt-embeds"
            advice = "start it with that flag (`embedspace serve MODEL` does)"
        case 400 if details.get("code") == "prompt_refused":
            kind, advice = PromptRefusedError, "the safety filter of its gateway refused the prompt"
        case 400 | 413 | 422:
            kind, advice = PromptRejectedError, "correct this prompt or the sampling parameters"
        case 401 | 403:
            advice = "pass the server's key as `api_key`"
        case 404 if "model" in message:
            kind, advice = ModelNotServedError, "name a model that it serves"
        case 404:
            advice = "check the address: it is the part before /v1, as in http://host:8000"
        case 429 | 503:
            kind, problem = EngineOverloadedError, f"refuses more work after all retries, {problem}"
            advice = "lower `max_concurrency`, raise `max_retries`, or wait"
    return context.error(kind, problem, advice)


def _read(read: Callable[[Any], R], answer: object) -> R:
    try:
        return read(answer)
    except (LookupError, TypeError, AttributeError) as error:
        raise ValueError(f"{type(error).__name__} {error} in {answer!r:.1000}") from error


def _cause(error: Exception) -> str:
    return str(error.__cause__) or type(error.__cause__).__name__


def _retry_after(header: Callable[[str], str | None]) -> float | None:
    """Seconds of the server's ``Retry-After``, which is a number or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        value = header(name) or ""
        try:
            seconds = float(value) / unit
        except ValueError:
            date = email.utils.parsedate_tz(value)
            seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        if seconds > 0:
            return seconds
    return None


def _error_details(body: str) -> dict[str, object]:
    """The object in an answer ``{"error": {...}}``; empty for another answer."""
    try:
        return dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return {}


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return (
        text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"
    )
