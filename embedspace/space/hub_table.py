"""The embedding table of a hub's model without the model: a folder of configuration, tokenizer and one tensor."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import re
import warnings
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from embedspace._util.files import read_cached_json, read_json_object, write_cached_json
from embedspace.models import MANIFEST, cache_folder, http_error, patiently, refusal
from embedspace.space.table_download import CONFIG, INDEX, WEIGHTS, TableDownload
from embedspace.space.tokenizer import TOKENIZER_FILES, VOCABULARY_FILES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

TABLE_FORMAT = 1
"""Raised when the folder's form changes, so that folders of an older form are fetched anew."""

_COMMIT = re.compile("[0-9a-f]{40}")


def table_folder(
    repository: str, *, revision: str | None = None, tensor: str | None = None, endpoint: str | None = None
) -> Path:
    """A local folder from which the embedding space of a hub's model can be read.

    Of the weights, only the byte range of the table is fetched. Where the whole model is in the hub's own
    cache already, that folder is given and nothing is fetched. Several processes may ask at once; a broken
    download goes on where it broke off. What was fetched once serves without a network afterwards.

    Checked: sizes and hashes of the small files against the hub's listing, the size and, where the hub
    names it, the SHA-256 by which it knows the file that holds the table, the range of every answer, and
    that all answers come from one version of the file. The table's own bytes have no checksum on a hub.

    Args:
        repository: hub id.
        revision: branch, tag or commit; the main branch by default.
        tensor: name of the table's tensor, for an architecture that is not known here.
        endpoint: address of the hub; that of huggingface_hub (``HF_ENDPOINT``) by default.

    Raises:
        ValueError: the hub does not give the model, it has no safetensors or no tokenizer, nobody has
            vouched for its architecture, or the server ignores byte ranges.
        OSError: the cache folder cannot be written or is full; what was fetched is kept.
    """
    from huggingface_hub import HfApi

    asked = _Asked(repository, revision or "main", tensor)
    if _COMMIT.fullmatch(asked.revision) and (kept := asked.kept(asked.revision)):
        return kept
    api = HfApi(endpoint=endpoint)
    try:
        commit, files = patiently(lambda: _listing(api, asked), reconnect=False)
    except (http_error(), OSError) as error:
        return _without_hub(asked, error)
    write_cached_json(asked.reference, {"commit": commit})
    if kept := asked.kept(commit, [name for name in (CONFIG, *TOKENIZER_FILES) if name in files]):
        return kept
    from filelock import FileLock

    target = asked.folder(commit)
    with _said_in_words(repository, target.parent):
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f"{target.name}.lock")):
            if not (target / MANIFEST).is_file():
                TableDownload(api, repository, commit, files, tensor, target).run()
    return target


@dataclass(frozen=True)
class _Asked:
    """A table that is asked for, and where it is kept."""

    repository: str
    revision: str
    tensor: str | None

    @property
    def root(self) -> Path:
        return cache_folder() / "hub" / self.repository.replace("/", "--")

    @property
    def reference(self) -> Path:
        """Memo of the commit that the hub named last for the revision."""
        return self.root / "references" / f"{quote(self.revision, safe='')}.json"

    def folder(self, commit: str) -> Path:
        """Where the table of a commit is, or will be."""
        vouched = "" if self.tensor is None else f"-{hashlib.blake2b(self.tensor.encode()).hexdigest()[:8]}"
        return self.root / f"{commit}-{TABLE_FORMAT}{vouched}"

    def kept(self, revision: str, needed: Collection[str] = (CONFIG,)) -> Path | None:
        """What is here of a commit (or of a branch, in the hub's own cache): the table, or the whole model."""
        target = self.folder(revision)
        return target if (target / MANIFEST).is_file() else _whole_model(self.repository, revision, needed)


def _whole_model(repository: str, revision: str, needed: Collection[str]) -> Path | None:
    """The model's folder in the hub's own cache, if weights and tokenizer are all there."""
    from huggingface_hub import try_to_load_from_cache

    config = try_to_load_from_cache(repository, CONFIG, revision=revision)
    if not isinstance(config, str):
        return None
    folder = Path(config).parent
    weights = {WEIGHTS}
    if (folder / INDEX).is_file():
        weights = set(read_json_object(folder / INDEX, "")["weight_map"].values())
    tokenizer = any((folder / name).is_file() for name in VOCABULARY_FILES)
    whole = tokenizer and all((folder / name).is_file() for name in (*needed, *weights))
    return folder if whole else None


def _listing(api: HfApi, asked: _Asked) -> tuple[str, dict[str, RepoSibling]]:
    """The commit that a revision stands for, and its files with what the hub says of their contents."""
    from huggingface_hub import constants

    timeout = constants.HF_HUB_ETAG_TIMEOUT
    try:
        info = api.model_info(asked.repository, revision=asked.revision, files_metadata=True, timeout=timeout)
    except (ValueError, KeyError, TypeError) as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{api.endpoint} does not answer as a model hub does ({error})") from error
    if info.sha is None or not _COMMIT.fullmatch(info.sha) or info.siblings is None:
        raise ValueError(
            f"{api.endpoint} names no commit and no files for {asked.repository}; is it a model hub?"
        )
    return info.sha, {file.rfilename: file for file in info.siblings}


def _without_hub(asked: _Asked, error: Exception) -> Path:
    """What was fetched before, where the hub cannot be asked."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

    known = read_cached_json(asked.reference)
    commit = asked.revision if known is None else str(known["commit"])
    kept = asked.kept(commit) or asked.kept(asked.revision)
    if kept is None or isinstance(error, RevisionNotFoundError):
        raise refusal(asked.repository, error) from error
    if not isinstance(error, OfflineModeIsEnabled):
        warnings.warn(
            f"the model hub was not reached ({type(error).__name__}); {asked.repository} is taken as it was "
            f"fetched before, from {kept}",
            RuntimeWarning,
            stacklevel=4,
        )
    return kept


@contextlib.contextmanager
def _said_in_words(repository: str, folder: Path) -> Iterator[None]:
    """Trouble with the hub and trouble with the disk, each with what to do."""
    try:
        yield
    except (http_error(), OSError) as error:
        code = getattr(error, "errno", None)
        if code is None or isinstance(error, ConnectionError | http_error()):
            raise refusal(repository, error) from error
        full = code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        raise OSError(
            code,
            f"cannot write the embedding table of {repository} to {folder} ({getattr(error, 'strerror', error)}). "
            + ("Make room and call again: it goes on where it stopped" if full else "Make it writable")
            + ", or choose another cache folder with EMBEDSPACE_CACHE",
        ) from error
