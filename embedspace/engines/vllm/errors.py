"""What a vLLM server's refusals and failures mean, in words that say what to do."""

from __future__ import annotations

import email.utils
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

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

LONGEST_PAUSE = 120.0
"""Seconds; a server that asks for a longer pause is taken for one that refuses."""

_SHOWN_CHARACTERS = 400


class PassingError(Exception):
    """Trouble that the same request may not meet again; never shown to callers, who get its ``error``."""

    def __init__(
        self, error: EngineError, reason: str, *, pause: float | None = None, away: bool = False
    ) -> None:
        super().__init__(str(error))
        self.error = error
        """What to raise where the request is not sent again."""
        self.reason = reason
        """In a word or two, for counting."""
        self.pause = pause
        """Seconds for which the server asked to be left alone."""
        self.away = away
        """Whether the server may be down."""


@dataclass(frozen=True)
class Exchange:
    """One request, as an error message speaks of it."""

    url: str
    """The server's address."""
    subject: str
    """What was asked, e.g. ``prompts 16 to 31``."""
    secret: str | None
    """The API key, which no message may show even where the server repeats it."""

    def error(self, kind: type[EngineError], problem: str, advice: str) -> EngineError:
        """An error of this kind that names server, subject, problem and remedy."""
        message = f"the vLLM server at {self.url} {problem} ({self.subject}); {advice}"
        return kind(message.replace(self.secret, "***") if self.secret else message)


def explain(error: openai.APIError | ValueError, exchange: Exchange) -> EngineError | PassingError:
    """What an exception of the ``openai`` client, or an answer that cannot be read, stands for.

    Lost connections, missing answers, 408, 409, 429, 5xx and answers that are no completions are passing: another
    attempt may meet a server that has come back, or a proxy that cuts nothing off.
    """
    import openai

    explained = _explain(error, exchange)
    match error:
        case openai.APITimeoutError():
            return PassingError(explained, "timed out", away=True)
        case openai.APIConnectionError() if "Connect" in type(error.__cause__).__name__:
            return PassingError(explained, "refused", away=True)
        case openai.APIConnectionError():
            return PassingError(explained, "broken off", away=True)
        case openai.APIStatusError(status_code=status) if status in (408, 409, 429) or status >= 500:
            pause = _pause(error.response.headers.get)
            # What stands before a server answers 502 to 504 for one that is down.
            passing = PassingError(explained, str(status), pause=pause, away=status in (502, 503, 504))
            return explained if pause is not None and pause > LONGEST_PAUSE else passing
        case ValueError():
            return PassingError(explained, "unreadable")
    return explained


def _explain(error: openai.APIError | ValueError, exchange: Exchange) -> EngineError:
    import openai

    match error:
        case openai.APITimeoutError():
            return exchange.error(
                EngineUnreachableError,
                "did not answer in time",
                "raise `timeout`, or ask for less at once (`prompts_per_request`, `max_tokens`)",
            )
        case openai.APIConnectionError() if "Connect" in type(error.__cause__).__name__:
            return exchange.error(
                EngineUnreachableError,
                f"cannot be reached: {_cause(error)}",
                "start it (`embedspace serve MODEL`) or correct the address",
            )
        case openai.APIConnectionError():
            return exchange.error(
                EngineResponseError,
                f"broke off in the middle of its answer: {_cause(error)}",
                "look into its log, it may have crashed",
            )
        case openai.APIStatusError():
            return _explain_status(error.status_code, error.response.text, exchange)
        case openai.APIError():
            return exchange.error(
                EngineResponseError, f"reported an error: {_cut(error.message)}", "look into its log"
            )
    return exchange.error(
        EngineResponseError,
        f"gave an answer that is not a completion: {_cut(_unreadable(error))}",
        "check that the address is that of a vLLM server and not of another program or a proxy's error page",
    )


def _explain_status(status: int, body: str, exchange: Exchange) -> EngineError:
    answer = _server_message(body)
    problem = f"answered {status}: {_cut(answer)}"
    match status:
        case 400 | 413 | 422 if "enable-prompt-embeds" in answer:
            return exchange.error(
                PromptEmbedsDisabledError,
                "was started without --enable-prompt-embeds",
                "start it with that flag (`embedspace serve MODEL` does)",
            )
        case 400 if _error(body).get("code") == "prompt_refused":
            return exchange.error(PromptRefusedError, problem, "its gateway's filter has the last word")
        case 400 | 413 | 422:
            return exchange.error(
                PromptRejectedError, problem, "correct this prompt or the sampling parameters"
            )
        case 401 | 403:
            return exchange.error(EngineResponseError, problem, "pass the server's key as `api_key`")
        case 404 if "model" in answer:
            return exchange.error(ModelNotServedError, problem, "name a model that it serves")
        case 404:
            return exchange.error(
                EngineResponseError,
                problem,
                "check the address: it is the part before /v1, as in http://host:8000",
            )
        case 429 | 503:
            return exchange.error(
                EngineOverloadedError,
                f"refuses more work after all retries, {problem}",
                "lower `max_concurrency`, raise `max_retries`, or wait",
            )
    return exchange.error(EngineResponseError, problem, "look into its log")


def _cause(error: Exception) -> str:
    return str(error.__cause__) or type(error.__cause__).__name__


def _pause(header: Callable[[str], str | None]) -> float | None:
    """Seconds until the server wants to be asked again, by its ``Retry-After``: a number or a date."""
    for name, unit in (("retry-after-ms", 1000.0), ("retry-after", 1.0)):
        said = header(name) or ""
        try:
            seconds = float(said) / unit
        except ValueError:
            date = email.utils.parsedate_tz(said)
            seconds = email.utils.mktime_tz(date) - time.time() if date else -1.0
        if seconds > 0:
            return seconds
    return None


def _server_message(body: str) -> str:
    """vLLM's own words out of ``{"error": {"message": ...}}``, or whatever the answer was."""
    return str(_error(body).get("message", body))


def _error(body: str) -> dict[str, object]:
    try:
        return dict(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return {}


def _unreadable(error: ValueError) -> str:
    return f"{error.msg} in {error.doc!r}" if isinstance(error, json.JSONDecodeError) else str(error)


def _cut(text: str) -> str:
    text = " ".join(text.split())
    return (
        text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}... ({len(text)} characters)"
    )
