"""Refusals: OpenAI's error format with a reason code, never quoting the content."""

from __future__ import annotations

import json
from typing import Any

_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class RefusedError(Exception):
    """A request that is not forwarded.

    Args:
        status: of HTTP.
        code: the reason, for programs.
        message: the reason, for people; of the request it holds only names of known fields and numbers.
        param: where in the request, such as ``prompt_embeds[3]``.
        retry_after: seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.param = param
        self.retry_after = retry_after

    def body(self) -> bytes:
        """OpenAI's error object."""
        kind = _TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        error = {"message": self.message, "type": kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode()

    def headers(self) -> dict[str, str]:
        """Headers of the answer."""
        headers = {"content-type": "application/json"}
        if self.retry_after is not None:
            headers["retry-after"] = str(self.retry_after)
        if self.status == 401:
            headers["www-authenticate"] = "Bearer"
        return headers

    def to_dict(self) -> dict[str, Any]:
        """For the message from a worker to the gateway."""
        return {"status": self.status, "code": self.code, "message": self.message, "param": self.param}
