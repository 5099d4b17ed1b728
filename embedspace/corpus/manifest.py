"""The manifest of a corpus: what it was made of, by what, and which shards it has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from embedspace._util.run_folder import RunFolder
from embedspace.corpus.shard import Shard

MANIFEST = "manifest.json"


def corpus_folder(path: Path) -> RunFolder:
    """The folder of a corpus, with its lock, its manifest and its shards."""
    return RunFolder(
        path,
        noun="corpus",
        manifest=MANIFEST,
        required=("settings", "fingerprint", "sittings"),
        results=("shard-[0-9]*-*.safetensors",),
        lock_file="corpus.lock",
        elsewhere="choose another folder",
    )


def totals(shards: Sequence[Shard]) -> dict[str, Any]:
    """Counts over all shards, and the refused texts."""
    return {
        "texts": sum(shard.texts for shard in shards),
        "rows": sum(shard.rows for shard in shards),
        "bytes": sum(shard.size for shard in shards),
        "refused": {number: reason for shard in shards for number, reason in shard.refused.items()},
        "shards": [
            {name: value for name, value in asdict(shard).items() if name != "refused"} for shard in shards
        ],
    }
