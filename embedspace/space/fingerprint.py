"""The identity of an embedding space by its content: table, tokenizer and chat template."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from embedspace._util.files import read_cached_json, write_cached_json
from embedspace.models import cache_folder
from embedspace.space.embedding_table import EmbeddingTable
from embedspace.space.tokenizer import tokenizer_digest


def content_fingerprint(folder: Path, table: EmbeddingTable) -> str:
    """Hash of every byte of the table and of the tokenizer's files."""
    return hashlib.blake2b(table.digest() + tokenizer_digest(folder), digest_size=16).hexdigest()


def cached_fingerprint(folder: Path, table: EmbeddingTable) -> str:
    """:func:`content_fingerprint`, computed again only when the identity of the files changed."""
    stat = table.path.stat()
    identity = {
        "path": str(table.path.resolve()),
        "file": [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns],
        "table": [list(table.rows.shape), str(table.rows.dtype), table.rows.storage_offset(), table.scale],
        "tokenizer": tokenizer_digest(folder).hex(),
    }
    key = hashlib.blake2b(json.dumps(identity, sort_keys=True).encode(), digest_size=16).hexdigest()
    path = cache_folder() / "fingerprints" / f"{key}.json"
    if cached := read_cached_json(path):
        return str(cached["fingerprint"])
    fingerprint = content_fingerprint(folder, table)
    write_cached_json(path, {"fingerprint": fingerprint})
    return fingerprint
