"""From a model's name to a local folder of safetensors, tokenizer and configuration."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from embedspace.packaged import PACKAGED

HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model", "*/config.json"]
HUB_IGNORED = ["original/*", "consolidated*", "onnx/*", "openvino/*", "*.onnx", "README*"]


def cache_folder() -> Path:
    """The folder for prepared models and memos: ``$EMBEDSPACE_CACHE`` or the user's cache folder."""
    chosen = os.environ.get("EMBEDSPACE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("embedspace")


def resolve(name: str | Path) -> Path:
    """The local folder of a model.

    Args:
        name: a packaged name (``smollm2-135m-instruct``, ``all-minilm-l6-v2``), a local folder, or a hub
            id such as ``meta-llama/Llama-3.2-1B-Instruct``. A packaged GGUF model is turned into a
            safetensors folder once, in the cache folder. Of a hub model, only safetensors, tokenizer and
            configuration files are fetched.

    Raises:
        ValueError: nothing has that name; the message lists the packaged names and the nearest match.
    """
    text = str(name)
    if text in PACKAGED:
        return PACKAGED[text].folder(cache_folder())
    folder = Path(text).expanduser()
    if text and folder.is_dir():
        return folder.absolute()
    looks_local = isinstance(name, Path) or text.startswith((".", "/", "~"))
    if not looks_local and re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return _from_hub(text)
    raise ValueError(_unknown(text))


def _from_hub(repository: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, allow_patterns=HUB_FILES, ignore_patterns=HUB_IGNORED))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"no folder {repository!r} exists, and the model hub did not give it: {_first_line(error)}. "
            "Check the spelling, the network and, for a gated model, `hf auth login`; "
            f"{_packaged_names()} need no hub"
        ) from error


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown model {name!r}.{hint} Allowed: a packaged model ({_packaged_names()}), an existing folder, "
        "or a hub id such as 'meta-llama/Llama-3.2-1B-Instruct'"
    )


def _packaged_names() -> str:
    return ", ".join(PACKAGED)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
