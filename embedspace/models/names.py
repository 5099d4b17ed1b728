"""From a model's name to a local folder of safetensors, tokenizer and configuration."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path

from embedspace._util.files import read_json_object
from embedspace.models.hub import download_model
from embedspace.models.packaged import MANIFEST, PACKAGED


def cache_folder() -> Path:
    """The folder for prepared models and cached results: ``$EMBEDSPACE_CACHE`` or the user's cache folder."""
    chosen = os.environ.get("EMBEDSPACE_CACHE")
    if chosen:
        return Path(chosen).expanduser().absolute()
    import platformdirs

    return platformdirs.user_cache_path("embedspace")


def resolve(name: str | Path, *, revision: str | None = None) -> Path:
    """The local folder of a whole model, weights included, as an engine needs it.

    >>> (resolve("smollm2-135m-instruct") / "model.safetensors").is_file()
    True

    Args:
        name: a packaged name (``smollm2-135m-instruct``; ``embedspace models`` lists them), a local folder, or a hub
            id such as ``meta-llama/Llama-3.2-1B-Instruct``. A packaged GGUF model is converted to a
            safetensors folder once, in the cache folder. Of a hub model, only safetensors, tokenizer and
            configuration files are downloaded. For the folder of an embedding space whose table alone was
            downloaded, the whole model of the same commit is returned.
        revision: branch, tag or commit of a hub model; its main branch by default.

    Raises:
        ValueError: nothing has that name (the message lists the packaged names and the nearest match), the
            hub did not give the model, or a revision of something that is not on a hub.
    """
    repository = hub_id(name)
    if repository is not None:
        return download_model(repository, revision)
    folder = local_folder(name, revision)
    manifest = folder / MANIFEST
    origin = read_json_object(manifest, "").get("hub") if manifest.is_file() else None
    if origin is None:
        return folder
    try:
        return download_model(str(origin["repository"]), str(origin["commit"]))
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{manifest} is damaged: it does not name the repository and commit of its model; delete {folder} and "
            "load the model again"
        ) from error


def hub_id(name: str | Path) -> str | None:
    """The name as a hub id; None where it is a packaged name, a folder, or cannot be one.

    >>> hub_id("meta-llama/Llama-3.2-1B-Instruct")
    'meta-llama/Llama-3.2-1B-Instruct'
    >>> hub_id("smollm2-135m-instruct") is None
    True
    """
    text = str(name)
    looks_local = isinstance(name, Path) or text.startswith((".", "/", "~"))
    if text in PACKAGED or looks_local or not re.fullmatch(r"[\w.-]+/[\w.-]+", text):
        return None
    return None if Path(text).is_dir() else text


def local_folder(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a packaged model or of a local path.

    Raises:
        ValueError: there is none, or it cannot have a revision.
    """
    text = str(name)
    folder = Path(text).expanduser()
    if revision is not None:
        raise ValueError(f"revision={revision!r} is for models of a hub; {text!r} is not one")
    if text in PACKAGED:
        return PACKAGED[text].folder(cache_folder())
    if text and folder.is_dir():
        return folder.absolute()
    raise ValueError(_unknown(text))


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name.lower(), PACKAGED, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    return (
        f"unknown model {name!r}.{hint} Allowed: a packaged model ({', '.join(PACKAGED)}), an existing folder, "
        "or a hub id such as 'meta-llama/Llama-3.2-1B-Instruct'"
    )
