"""The embedding table of a hub's model without the model: a folder of configuration, tokenizer and one tensor."""

from __future__ import annotations

import errno
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from embedspace._util.files import (
    atomic_folder,
    file_digest,
    read_cached_json,
    write_cached_json,
)
from embedspace._util.model_config import read_config
from embedspace._util.progress import progress
from embedspace.models import (
    MANIFEST,
    FileChangedError,
    RemoteFile,
    RemoteTensor,
    cache_folder,
    explain_hub_error,
    with_retries,
    write_manifest,
)
from embedspace.space.embedding_table import (
    CONFIG,
    INDEX,
    WEIGHTS,
    EmbeddingTable,
    find_shard,
    read_shards,
    table_names,
)
from embedspace.space.tokenizer import TOKENIZER_FILES, VOCABULARY_FILES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

TABLE_FORMAT = 1
"""Raised when the folder's form changes, so that folders of an older form are downloaded again."""
UNFINISHED = "table.part"
MEBIBYTE = 1 << 20
_MAX_ATTEMPTS = 3
_COMMIT = re.compile("[0-9a-f]{40}")


def table_folder(
    repository: str, *, revision: str | None = None, tensor: str | None = None, endpoint: str | None = None
) -> Path:
    """A local folder with the configuration, the tokenizer and the embedding table of a hub's model.

    Of the weights, only the byte range of the table is downloaded, once; an interrupted download is resumed, and
    several processes may call at once. Where the hub's own cache has the whole model, that folder is returned.

    Checked: sizes and hashes of the small files against the hub's listing, the size and, if the hub gives it, the
    SHA-256 of the file that holds the table, the range of every response, and that all responses come from one
    version of the file. The table's own bytes have no checksum on a hub.

    Args:
        repository: hub id.
        revision: branch, tag or commit; the main branch by default.
        tensor: name of the table's tensor, for an architecture that is not known here.
        endpoint: address of the hub; that of huggingface_hub (``HF_ENDPOINT``) by default.

    Raises:
        ValueError: the hub does not give the model, it has no safetensors or no tokenizer, its architecture is not
            known, or the server ignores byte ranges.
        OSError: the cache folder cannot be written or is full; what was downloaded is kept.
    """
    from huggingface_hub import HfApi

    revision = revision or "main"
    cache = _TableCache(repository, tensor)
    if _COMMIT.fullmatch(revision) and (found := cache.find(revision)):
        return found
    api = HfApi(endpoint=endpoint)
    try:
        commit, files = with_retries(partial(_list_files, api, repository, revision), reconnect=False)
    except OSError as error:
        return cache.without_hub(revision, error)
    write_cached_json(cache.reference(revision), {"commit": commit})
    if found := cache.find(commit, [name for name in (CONFIG, *TOKENIZER_FILES) if name in files]):
        return found
    target = cache.folder(commit)
    with _explained(repository, target), atomic_folder(target, MANIFEST, resume=True) as draft:
        if draft is not None:
            _TableDownload(api, repository, commit, files, tensor, draft).run()
    return target


def _list_files(api: HfApi, repository: str, revision: str) -> tuple[str, dict[str, RepoSibling]]:
    """The commit of a revision, and its files with what the hub says of their contents."""
    from huggingface_hub import constants

    try:
        info = api.model_info(
            repository, revision=revision, files_metadata=True, timeout=constants.HF_HUB_ETAG_TIMEOUT
        )
    except OSError:
        raise
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{api.endpoint} does not answer as a model hub does ({error})") from error
    if info.sha is None or not _COMMIT.fullmatch(info.sha) or info.siblings is None:
        raise ValueError(f"{api.endpoint} names no commit and no files for {repository}; is it a model hub?")
    return info.sha, {file.rfilename: file for file in info.siblings}


@contextmanager
def _explained(repository: str, target: Path) -> Iterator[None]:
    """Errors of the hub and of the disk, each with what to do."""
    try:
        yield
    except OSError as error:
        if error.errno is None or isinstance(error, ConnectionError):
            raise explain_hub_error(repository, error) from error
        full = error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
        advice = "Make room and call again: the download is resumed" if full else "Make it writable"
        raise OSError(
            error.errno,
            f"cannot write the embedding table of {repository} to {target.parent} ({error.strerror}). {advice}, "
            "or choose another cache folder with EMBEDSPACE_CACHE",
        ) from error


@dataclass(frozen=True)
class _TableCache:
    """The tables of a model that are on this machine."""

    repository: str
    tensor: str | None

    @property
    def root(self) -> Path:
        return cache_folder() / "hub" / self.repository.replace("/", "--")

    def folder(self, commit: str) -> Path:
        """Where the table of a commit is, or will be."""
        named = "" if self.tensor is None else f"-{hashlib.blake2b(self.tensor.encode()).hexdigest()[:8]}"
        return self.root / f"{commit}-{TABLE_FORMAT}{named}"

    def reference(self, revision: str) -> Path:
        """Where the commit is kept that the hub last gave for a revision."""
        return self.root / "references" / f"{quote(revision, safe='')}.json"

    def find(self, revision: str, needed: Collection[str] = (CONFIG,)) -> Path | None:
        """The table of a commit, or the whole model (of a branch, too) in the hub's own cache."""
        from huggingface_hub import try_to_load_from_cache

        if (self.folder(revision) / MANIFEST).is_file():
            return self.folder(revision)
        config = try_to_load_from_cache(self.repository, CONFIG, revision=revision)
        if not isinstance(config, str):
            return None
        model = Path(config).parent
        shards = {WEIGHTS}
        if (model / INDEX).is_file():
            shards = set(read_shards(model / INDEX).values())
        complete = all((model / name).is_file() for name in (*needed, *shards))
        return model if complete and any((model / name).is_file() for name in VOCABULARY_FILES) else None

    def without_hub(self, revision: str, error: OSError) -> Path:
        """What was downloaded before, where the hub did not answer."""
        from huggingface_hub.errors import OfflineModeIsEnabled, RevisionNotFoundError

        known = read_cached_json(self.reference(revision))
        found = (self.find(str(known["commit"])) if known else None) or self.find(revision)
        if found is None or isinstance(error, RevisionNotFoundError):
            raise explain_hub_error(self.repository, error) from error
        if not isinstance(error, OfflineModeIsEnabled):
            warnings.warn(
                f"the model hub was not reached ({error}); using {self.repository} as it was downloaded before, "
                f"from {found}",
                RuntimeWarning,
                stacklevel=4,
            )
        return found


@dataclass(frozen=True)
class _TableDownload:
    """The download of one commit's table into a folder that a later attempt can resume."""

    api: HfApi
    repository: str
    commit: str
    files: dict[str, RepoSibling]
    """All files of the commit, with what the hub says of their contents."""
    tensor: str | None
    draft: Path

    def run(self) -> None:
        """Download and check; the architecture and the small files are checked before the table is downloaded."""
        self._require_files()
        part = self.draft / UNFINISHED
        if (self.draft / WEIGHTS).is_file():  # an earlier process was stopped at its last step
            (self.draft / WEIGHTS).replace(part)
        self._download_file(CONFIG)
        names = table_names(read_config(self.draft), self.repository, self.tensor)
        for name in TOKENIZER_FILES:
            if name in self.files:
                self._download_file(name)
        shard = self._shard(names)
        table = self._download_table(shard, names, part)
        part.replace(self.draft / WEIGHTS)
        shutil.rmtree(self.draft / ".cache", ignore_errors=True)
        (self.draft / INDEX).unlink(missing_ok=True)
        EmbeddingTable.from_folder(self.draft, tensor=self.tensor)
        source = f"{self.repository} at {self.commit}, the embedding table alone"
        origin = {"endpoint": self.api.endpoint, "repository": self.repository, "commit": self.commit}
        write_manifest(self.draft, {"source": source, "hub": {**origin, "file": shard, "part": table.source}})

    def _require_files(self) -> None:
        for names in ((WEIGHTS, INDEX), (CONFIG,), VOCABULARY_FILES):
            if not self.files.keys() & set(names):
                raise ValueError(
                    f"{self.repository} has no {' or '.join(names)}, so its table cannot be downloaded; there is "
                    f"{', '.join(sorted(self.files)) or 'nothing'}. Convert other formats of weights and tokenizers "
                    "with transformers: from_pretrained, then save_pretrained(folder)"
                )

    def _download_file(self, name: str) -> None:
        """Download a small file, and once more if its content is not what the listing says."""
        path = self.draft / name
        download = partial(
            self.api.hf_hub_download, self.repository, name, revision=self.commit, local_dir=self.draft
        )
        for force in (False, True):
            with_retries(partial(download, force_download=force))
            if _matches_listing(path, self.files[name]):
                return
        path.unlink()
        raise ValueError(
            f"{name} of {self.repository} does not have the content that the hub's listing names; "
            "try again later, or use another HF_ENDPOINT"
        )

    def _shard(self, names: list[str]) -> str:
        """The file that holds the table."""
        if INDEX not in self.files:
            return WEIGHTS
        self._download_file(INDEX)
        shard, _ = find_shard(self.draft / INDEX, names)
        if shard not in self.files:
            raise ValueError(
                f"{INDEX} of {self.repository} places its table in {shard}, a file that it lacks"
            )
        return shard

    def _download_table(self, shard: str, names: list[str], path: Path) -> RemoteTensor:
        from huggingface_hub import hf_hub_url

        listed = self.files[shard]
        url = hf_hub_url(self.repository, shard, revision=self.commit, endpoint=self.api.endpoint)
        for _ in range(_MAX_ATTEMPTS):
            with suppress(FileChangedError):
                table = RemoteTensor.locate(RemoteFile(url, listed.size, None), names)
                known = listed.lfs.sha256 if listed.lfs else None
                if known and table.file.sha256 not in (None, known):
                    raise ValueError(
                        f"{url} is the file {table.file.sha256}, and the hub's listing says {known}; try again later"
                    )
                if not self._reuse(table, path):
                    self._download_bytes(table, path)
                return table
        raise ValueError(
            f"{url} is another file at every request, so its parts cannot be combined; try again later, or use "
            "another HF_ENDPOINT"
        )

    def _reuse(self, table: RemoteTensor, path: Path) -> bool:
        """Take the table of another commit that has the same weights, as most commits do."""
        if table.file.sha256 is None:
            return False
        for manifest in self.draft.parent.glob(f"*/{MANIFEST}"):
            weights = manifest.with_name(WEIGHTS)
            try:
                kept = json.loads(manifest.read_text())
                same = kept["hub"]["part"] == table.source and kept["sha256"][WEIGHTS] == file_digest(weights)
            except (OSError, ValueError, KeyError):  # a damaged folder is skipped
                continue
            if same:
                path.unlink(missing_ok=True)
                try:
                    path.hardlink_to(weights)
                except OSError:  # not every file system has links
                    shutil.copyfile(weights, path)
                return True
        return False

    def _download_bytes(self, table: RemoteTensor, path: Path) -> None:
        done, free = table.downloaded(path), shutil.disk_usage(self.draft).free
        if table.length - done > free:
            raise OSError(
                errno.ENOSPC, f"{table.length - done:,} bytes are to come and {free:,} are free on the disk"
            )
        shown, title = -(-done // MEBIBYTE), f"embedding table of {self.repository} (MiB)"
        with progress(title, -(-table.length // MEBIBYTE), shown) as tick:

            def advance(done: int) -> None:
                nonlocal shown
                while shown * MEBIBYTE < done:
                    shown += 1
                    tick()

            table.download(path, advance)


def _matches_listing(path: Path, listed: RepoSibling) -> bool:
    """Whether a file has the size and the hash of the hub's listing, as far as it gives them."""
    from huggingface_hub.utils.sha import git_hash

    if listed.size not in (None, path.stat().st_size):
        return False
    if listed.lfs is not None:
        return file_digest(path) == listed.lfs.sha256
    return listed.blob_id in (None, git_hash(path.read_bytes()))
