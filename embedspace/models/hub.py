"""Access to the model hub: whole models for engines, retries, and what the hub's errors mean."""

from __future__ import annotations

import re
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from embedspace.models.packaged import PACKAGED

# fnmatch's * crosses folders: what lies in the folders of other formats has to be ignored by name.
WEIGHT_FILES = ["model*.safetensors", "[0-9]_*/*.safetensors"]
MODEL_FILES = [*WEIGHT_FILES, "*.json", "*.jinja", "*.txt", "*.model"]
IGNORED_FILES = [
    "original/*", "metal/*", "onnx/*", "openvino/*", "coreml/*", "gguf/*", "runs/*", "checkpoint-*",
    "model.fp16.safetensors", "model.fp32.safetensors", "model.bf16.safetensors", "consolidated*",
]  # fmt: skip

RETRY_DELAYS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each new attempt; the error of the last attempt is raised."""
MAX_RETRY_AFTER = 60.0
"""Most seconds that a hub's Retry-After is obeyed."""
_TRANSIENT = {408, 429, 500, 502, 503, 504}

T = TypeVar("T")


class IncompleteResponseError(OSError):
    """A response that ended before its last byte."""


def download_model(repository: str, revision: str | None = None) -> Path:
    """The folder of a whole model in the hub's own cache, downloaded if it is not there yet.

    Only safetensors, tokenizer and configuration files are downloaded: no second copy of the weights in
    another format.

    Raises:
        ValueError: the hub did not give it; the message says why and what to do.
    """
    return download_files(repository, MODEL_FILES, revision, ignored=IGNORED_FILES)


def download_files(
    repository: str, patterns: Sequence[str], revision: str | None = None, *, ignored: Sequence[str] = ()
) -> Path:
    """A folder of the hub's own cache with the files of a repository that match, downloaded if they are not there.

    Raises:
        ValueError: the hub did not give them; the message says why and what to do.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError

    def download() -> str:
        return snapshot_download(
            repository, revision=revision, allow_patterns=list(patterns), ignore_patterns=list(ignored)
        )

    try:
        return Path(with_retries(download, reconnect=False))
    except (HFValidationError, OSError) as error:
        raise explain_hub_error(repository, error) from error


def upload_folder(
    write: Callable[[Path], None],
    repository: str,
    *,
    what: str,
    private: bool = True,
    token: str | None = None,
) -> str:
    """Upload the files that ``write`` puts into a folder; the address of the commit.

    Args:
        write: writes the files into the folder that it is given.
        repository: ``owner/name``; it is made if there is none.
        what: for the message of the commit, for example ``a style vector``.
        private: whether a repository that is made is private.
        token: of the hub; by default that of ``hf auth login`` or ``$HF_TOKEN``.

    Raises:
        ValueError: the name is no hub id.
        OSError: the hub refused, or was not reached.
    """
    from huggingface_hub import HfApi

    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        raise ValueError(f"{repository!r} is no hub id; give owner/name, such as 'me/pirate'")
    api = HfApi(token=token)
    api.create_repo(repository, private=private, exist_ok=True)
    with tempfile.TemporaryDirectory() as draft:
        write(Path(draft))
        commit = api.upload_folder(
            repo_id=repository, folder_path=draft, commit_message=f"Upload {what} with embedspace"
        )
    return str(commit.commit_url)


def with_retries(
    step: Callable[[], T], *, progress: Callable[[], int] = lambda: 0, reconnect: bool = True
) -> T:
    """Run a step of a download, again after a delay if the hub is busy or the connection breaks.

    ``huggingface_hub.utils.http_backoff`` does less: it repeats one request, not its reading, and waits as long as any
    Retry-After says.

    Args:
        step: may be repeated.
        progress: number of bytes downloaded so far; attempts that add some do not count as failed.
        reconnect: whether to repeat after a failed connection as well, not only when the hub is busy.

    Raises:
        OSError: of the last attempt; a ``ConnectionError`` if the hub was not reached.
    """
    from huggingface_hub.errors import HfHubHTTPError

    http_error: Any = HfHubHTTPError.__bases__[0]  # of its HTTP library
    failed, downloaded = 0, progress()
    while True:
        try:
            return step()
        except (http_error, OSError) as error:
            if progress() > downloaded:
                failed, downloaded = 0, progress()
            cause = _cause(error)
            broken = isinstance(cause, (http_error, IncompleteResponseError)) and _status(cause) is None
            if failed == len(RETRY_DELAYS) or not (_status(cause) in _TRANSIENT or (broken and reconnect)):
                if isinstance(error, OSError):
                    raise
                raise ConnectionError(f"{type(error).__name__}: {error}") from error
            delay = max(RETRY_DELAYS[failed], min(_retry_after(cause), MAX_RETRY_AFTER))
            if delay >= 10:
                warnings.warn(
                    f"the model hub asks to wait: next attempt in {delay:.0f} s", RuntimeWarning, stacklevel=2
                )
            time.sleep(delay)
            failed += 1


def _cause(error: Exception) -> Exception:
    """What went wrong, where huggingface_hub only says that a file is not in its cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    inner = error.__cause__
    return inner if isinstance(error, LocalEntryNotFoundError) and isinstance(inner, Exception) else error


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return None if response is None else int(response.status_code)


def _retry_after(error: Exception) -> float:
    from huggingface_hub.utils import parse_ratelimit_headers  # type: ignore[attr-defined]

    headers = getattr(getattr(error, "response", None), "headers", {})
    limits, seconds = parse_ratelimit_headers(headers), headers.get("Retry-After", "")
    return float(seconds) if seconds.isdecimal() else limits.reset_in_seconds if limits else 0.0


def explain_hub_error(repository: str, error: Exception) -> ValueError:
    """Why the hub did not give a model, and what to do."""
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
                "It is not in the cache: download it once with a network and without HF_HUB_OFFLINE, and it "
                "works offline afterwards"
            )
        case _ if status in (401, 403, 404):
            return (
                "Check the spelling; for a private or gated model set HF_TOKEN to a token that may read it "
                "(or run `hf auth login`)"
            )
        case _ if status == 429:
            return "Too many requests: try again in some minutes; with HF_TOKEN set the hub allows more"
        case _ if status is None:
            return "Check the spelling, the network and HF_ENDPOINT"
    return "The hub has an error of its own: try again later; what was downloaded is kept"
