"""The model hub: whole models for engines, patience with it, and what its refusals mean."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from embedspace.models.packaged import PACKAGED

# fnmatch's * crosses folders: what lies in the folders of other formats has to be ignored by name.
WEIGHT_FILES = ["model*.safetensors", "[0-9]_*/*.safetensors"]
MODEL_FILES = [*WEIGHT_FILES, "*.json", "*.jinja", "*.txt", "*.model"]
IGNORED_FILES = [
    "original/*", "metal/*", "onnx/*", "openvino/*", "coreml/*", "gguf/*", "runs/*", "checkpoint-*",
    "model.fp16.safetensors", "model.fp32.safetensors", "model.bf16.safetensors", "consolidated*",
]  # fmt: skip

PAUSES = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt; after the last one the trouble is reported."""
LONGEST_WAIT = 60.0
"""Most seconds that a hub's Retry-After is obeyed."""


class BrokenOffError(OSError):
    """An answer that ended before its end."""


_BUSY = {408, 429, 500, 502, 503, 504}
T = TypeVar("T")


def whole_model(repository: str, revision: str | None = None) -> Path:
    """The folder of a whole model in the hub's own cache, fetched where it is not there yet.

    Only safetensors, tokenizer and configuration files are fetched: no second copy of the weights in
    another format.

    Raises:
        ValueError: the hub did not give it; the message says why and what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def fetch() -> str:
        return snapshot_download(
            repository, revision=revision, allow_patterns=MODEL_FILES, ignore_patterns=IGNORED_FILES
        )

    try:
        return Path(patiently(fetch, reconnect=False))
    except (http_error(), HFValidationError, OSError) as error:
        raise refusal(repository, error) from error


def http_error() -> type[Exception]:
    """What every trouble with an HTTP request is a kind of, in the HTTP library that huggingface_hub uses."""
    from huggingface_hub.errors import HfHubHTTPError

    return HfHubHTTPError.__bases__[0]


def patiently(step: Callable[[], T], *, progress: Callable[[], int] = lambda: 0, reconnect: bool = True) -> T:
    """Do a step of a download, again after a pause where the hub is busy or the connection breaks.

    Args:
        step: may be repeated.
        progress: bytes that are there so far; attempts that add some do not count as failed.
        reconnect: whether to repeat after a failed connection as well, not only after a busy hub.

    Raises:
        Exception: of the last attempt.
    """
    failed, most = 0, progress()
    while True:
        try:
            return step()
        except (http_error(), OSError) as error:
            if progress() > most:
                failed, most = 0, progress()
            if failed == len(PAUSES) or not _passing(error, reconnect):
                raise
            pause = max(PAUSES[failed], _asked_to_wait(error))
            if pause >= 10:
                warnings.warn(
                    f"the model hub asks to wait: going on in {pause:.0f} s", RuntimeWarning, stacklevel=2
                )
            time.sleep(pause)
            failed += 1


def _passing(error: Exception, reconnect: bool) -> bool:
    error = _cause(error)
    status = _status(error)
    return status in _BUSY if status else reconnect and isinstance(error, (http_error(), BrokenOffError))


def _cause(error: Exception) -> Exception:
    """What went wrong, where huggingface_hub only says that a file is not in its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    inner = error.__cause__
    return inner if isinstance(error, LocalEntryNotFoundError) and isinstance(inner, Exception) else error


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _asked_to_wait(error: Exception) -> float:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    response = getattr(_cause(error), "response", None)
    if response is None:
        return 0.0
    limits = parse_ratelimit_headers(response.headers)
    asked = response.headers.get("Retry-After", "")
    seconds = float(asked) if asked.isdecimal() else limits.reset_in_seconds if limits else 0.0
    return min(seconds, LONGEST_WAIT)


def refusal(repository: str, error: Exception) -> ValueError:
    """What the hub's refusal of a model means, and what to do."""
    error = _cause(error)
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    reason = " ".join(lines[:2]).rstrip(".")
    return ValueError(
        f"no folder {repository!r} exists, and the model hub did not give it: {reason}. "
        f"{_advice(repository, error)}; {', '.join(PACKAGED)} need no hub"
    )


def _advice(repository: str, error: Exception) -> str:
    from huggingface_hub import errors

    status = _status(error)
    match error:
        case errors.GatedRepoError():
            return (
                f"The model is gated: ask for access on the page of {repository}, then set HF_TOKEN to a token of "
                "that account (or run `hf auth login`)"
            )
        case errors.RevisionNotFoundError():
            return "There is no such revision; give a branch, a tag or a commit that the repository has"
        case errors.OfflineModeIsEnabled() | errors.LocalEntryNotFoundError():
            return (
                "It is not in the cache: fetch it once with a network and without HF_HUB_OFFLINE, and it works "
                "offline afterwards"
            )
        case _ if status in (401, 403, 404):
            return (
                "Check the spelling; for a private or gated model set HF_TOKEN to a token that may read it "
                "(or run `hf auth login`)"
            )
        case _ if status == 429:
            return "The hub wants fewer requests: try again in some minutes; with HF_TOKEN set it allows more"
        case _ if status is None:
            return "Check the spelling, the network and HF_ENDPOINT"
    return "The hub has trouble of its own: try again later; what was fetched is kept"
