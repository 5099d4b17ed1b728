"""The making of a table's folder: small files, the table's bytes, checks, all in a draft until it is whole."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from embedspace._util.files import file_digest, read_json_object
from embedspace._util.progress import progress
from embedspace.models import MANIFEST, ChangedError, RemoteFile, RemoteTensor, patiently
from embedspace.space.table import EmbeddingTable, read_config, table_names
from embedspace.space.tokenizer import TOKENIZER_FILES, VOCABULARY_FILES

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
UNFINISHED = "table.part"
MEGABYTE = 1 << 20
_RESTARTS = 3


@dataclass(frozen=True)
class TableDownload:
    """One commit's table on its way from a hub into a folder."""

    api: HfApi
    repository: str
    commit: str
    files: dict[str, RepoSibling]
    """All files of the commit, with what the hub says of their contents."""
    tensor: str | None
    """Name of the table's tensor, for an architecture that is not known here."""
    target: Path

    @property
    def draft(self) -> Path:
        """Where the files are until the folder is whole; an unfinished table is kept there."""
        return self.target.with_name(f"{self.target.name}.draft")

    def run(self) -> None:
        """Fetch, check and put in place. The architecture and the files are checked before the table is fetched.

        Raises:
            ValueError: the model has no table or tokenizer that can be used, or the hub does not send what
                it lists.
            OSError: the disk is full or cannot be written, or the hub has trouble.
        """
        self._require_files()
        shutil.rmtree(self.target, ignore_errors=True)
        self.draft.mkdir(exist_ok=True)
        if (self.draft / WEIGHTS).is_file():  # an earlier process was stopped at its last step
            (self.draft / WEIGHTS).replace(self.draft / UNFINISHED)
        self._small_file(CONFIG)
        names = table_names(read_config(self.draft), self.repository, self.tensor)
        for name in TOKENIZER_FILES:
            if name in self.files:
                self._small_file(name)
        shard = self._shard(names)
        table = self._table(shard, names)
        (self.draft / UNFINISHED).replace(self.draft / WEIGHTS)
        shutil.rmtree(self.draft / ".cache", ignore_errors=True)
        (self.draft / INDEX).unlink(missing_ok=True)
        EmbeddingTable.from_folder(self.draft, tensor=self.tensor)
        self._write_manifest(shard, table)
        self.draft.replace(self.target)

    def _require_files(self) -> None:
        repository, found = self.repository, ", ".join(sorted(self.files)) or "nothing"
        if WEIGHTS not in self.files and INDEX not in self.files:
            raise ValueError(
                f"{repository} has no {WEIGHTS} (or its index), so its table cannot be fetched; there is {found}. "
                "Convert other weight formats with transformers: from_pretrained, then save_pretrained(folder)"
            )
        if CONFIG not in self.files or not any(name in self.files for name in VOCABULARY_FILES):
            raise ValueError(
                f"{repository} lacks {CONFIG} or a tokenizer ({' or '.join(VOCABULARY_FILES)}); there is {found}"
            )

    def _small_file(self, name: str) -> None:
        """Fetch a file into the draft, and once more if its content is not what the listing says."""
        from huggingface_hub import hf_hub_download

        path = self.draft / name
        for force in (False, True):

            def fetch(force: bool = force) -> object:
                return hf_hub_download(
                    self.repository,
                    name,
                    revision=self.commit,
                    endpoint=self.api.endpoint,
                    local_dir=self.draft,
                    force_download=force,
                )

            patiently(fetch)
            if _as_listed(path, self.files[name]):
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
        self._small_file(INDEX)
        shards = read_json_object(self.draft / INDEX, f"{INDEX} is missing").get("weight_map", {})
        shard = next((str(shards[name]) for name in names if name in shards), None)
        if shard not in self.files:
            raise ValueError(
                f"none of {names} is listed in {INDEX} of {self.repository} with a file that is there; "
                "is this the checkpoint of another architecture?"
            )
        return str(shard)

    def _table(self, shard: str, names: list[str]) -> RemoteTensor:
        from huggingface_hub import hf_hub_url

        listed = self.files[shard]
        url = hf_hub_url(self.repository, shard, revision=self.commit, endpoint=self.api.endpoint)
        for _ in range(_RESTARTS):
            try:
                table = RemoteTensor.locate(RemoteFile(url, listed.size, None), names)
                _require_identity(table, listed)
                self._fetch(table)
                return table
            except ChangedError:
                continue
        raise ValueError(
            f"{url} is another file at every request, so no table can be made of its parts; try again later, or "
            "use another HF_ENDPOINT"
        )

    def _fetch(self, table: RemoteTensor) -> None:
        path = self.draft / UNFINISHED
        same = self._same_weights(table)
        if same is not None:
            path.unlink(missing_ok=True)
            _link(same, path)
        else:
            self._fetch_bytes(table, path)

    def _same_weights(self, table: RemoteTensor) -> Path | None:
        """The table of another commit with the very same weights: most commits leave them alone."""
        if table.file.by_content:
            for manifest in self.target.parent.glob(f"*/{MANIFEST}"):
                weights = manifest.with_name(WEIGHTS)
                with contextlib.suppress(OSError, ValueError, KeyError):  # a damaged neighbour is none
                    kept = json.loads(manifest.read_text())
                    if kept["hub"]["part"] == _part(table) and kept["sha256"][WEIGHTS] == file_digest(
                        weights
                    ):
                        return weights
        return None

    def _fetch_bytes(self, table: RemoteTensor, path: Path) -> None:
        done = table.fetched(path)
        room = shutil.disk_usage(self.draft).free
        if table.length - done > room:
            raise OSError(
                errno.ENOSPC, f"{table.length - done:,} bytes are to come and {room:,} are free on the disk"
            )
        title = f"embedding table of {self.repository} (MiB)"
        with progress(title, -(-table.length // MEGABYTE), done // MEGABYTE) as tick:
            table.fetch(path, _ticking(tick, done, table.length))

    def _write_manifest(self, shard: str, table: RemoteTensor) -> None:
        files = (path for path in sorted(self.draft.iterdir()) if path.name != MANIFEST)
        digests = {path.name: file_digest(path) for path in files}
        origin = {
            "endpoint": self.api.endpoint,
            "repository": self.repository,
            "commit": self.commit,
            "file": shard,
            "part": _part(table),
        }
        source = f"{self.repository} at {self.commit}, the embedding table alone"
        text = json.dumps({"source": source, "hub": origin, "sha256": digests}, indent=1)
        (self.draft / MANIFEST).write_text(text)


def _part(table: RemoteTensor) -> list[str | int | None]:
    """Which bytes of which file a table is."""
    return [table.file.identity, table.start, table.start + table.length]


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError:  # not every file system has links
        shutil.copyfile(source, target)


def _as_listed(path: Path, listed: RepoSibling) -> bool:
    """Whether a file has the size and the hash of the hub's listing, as far as that says."""
    if listed.size is not None and path.stat().st_size != listed.size:
        return False
    if listed.lfs is not None:
        return file_digest(path) == listed.lfs.sha256
    data = path.read_bytes()
    # Files outside of large-file storage are named as git names a blob.
    return listed.blob_id in (None, hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest())


def _require_identity(table: RemoteTensor, listed: RepoSibling) -> None:
    identity, sha256 = table.file.identity, listed.lfs.sha256 if listed.lfs else None
    if table.file.by_content and sha256 not in (None, identity):
        raise ValueError(
            f"{table.file.url} is the file {identity}, and the hub's listing says {sha256}; try again later"
        )


def _ticking(tick: Callable[[], None], done: int, length: int) -> Callable[[int], None]:
    """Whole mebibytes for a progress bar, from a number of bytes that never shrinks on the bar."""
    shown = done // MEGABYTE

    def advance(there: int) -> None:
        nonlocal shown
        reached = -(-there // MEGABYTE) if there == length else there // MEGABYTE
        for _ in range(reached - shown):
            tick()
        shown = max(shown, reached)

    return advance
